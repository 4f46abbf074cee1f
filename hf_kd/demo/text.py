"""Text for the demo: words of five languages from the Unicode CLDR, through `babel`.

Every word is CLDR's: names of places, languages, scripts, currencies, units, months and
days, put together by babel's formatting functions for dates, lists, amounts and time.
Facts return in many lines (a place with its languages and currency, a date with its
weekday), so that a masked word can be told from the rest of its line.

Babel shares the abbreviated stand-alone weekdays between locales by mistake: the locale
loaded last wins. Nothing here uses them.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, cast

from babel import Locale
from babel.core import get_global
from babel.dates import (
    format_date,
    format_datetime,
    format_interval,
    format_skeleton,
    format_timedelta,
    get_timezone_location,
)
from babel.languages import get_official_languages
from babel.lists import format_list
from babel.localedata import locale_identifiers
from babel.numbers import format_currency, format_decimal, get_territory_currencies
from babel.units import format_unit, get_unit_name

LANGUAGES = ("sw", "ha", "ig", "yo", "fil")
_MEASURED = ("length", "area", "volume", "mass", "speed", "duration", "temperature")
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u202f\u2009", " "))

Line = Callable[[random.Random], str]


@dataclass(frozen=True)
class LanguageText:
    """One language's lines; no held-out line occurs in any language's training lines.

    Attributes:
        train: lines to train on.
        held_out: lines to measure on.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class _Names:
    """What CLDR calls things in one language, by CLDR code.

    Attributes:
        locale: the language.
        places: countries and territories where several languages are written.
        languages: languages.
        scripts: scripts.
        currencies: currencies.
        locales: identifiers such as `sw_KE`, three or more of a language together.
    """

    locale: Locale
    places: Mapping[str, str]
    languages: Mapping[str, str]
    scripts: Mapping[str, str]
    currencies: Mapping[str, str]
    locales: Sequence[Sequence[str]]

    def listed(self, items: Iterable[str]) -> str:
        """Babel's list; CLDR 2-item patterns may lack a space, so one is put in."""
        joined = format_list([f" {item}" for item in items], locale=self.locale)
        return " ".join(joined.split())


def language_name(code: str) -> str:
    """English name of a language, or `code` itself where CLDR has none.

    Example:
        >>> language_name("yo"), language_name("my_own_file")
        ('Yoruba', 'my_own_file')
    """
    return str(Locale("en").languages.get(code, code))


def build_text(
    train_lines: int,
    held_out_lines: int,
    seed: int,
    languages: Sequence[str] = LANGUAGES,
) -> dict[str, LanguageText]:
    """Generate as many lines in each language; the same seed gives the same lines.

    Args:
        train_lines: lines to train on, per language.
        held_out_lines: further lines, per language.
        seed: seed of every random choice.
        languages: CLDR codes.

    Returns:
        Lines by language. All lines differ, across languages too.
    """
    seen: set[str] = set()
    text = {}
    for language in languages:
        lines = _distinct_lines(language, train_lines + held_out_lines, seed, seen)
        text[language] = LanguageText(lines[:train_lines], lines[train_lines:])
    return text


def _distinct_lines(language: str, count: int, seed: int, seen: set[str]) -> tuple[str, ...]:
    rng = random.Random(f"{seed} {language}")
    kinds = line_kinds(language)
    lines: list[str] = []
    while len(lines) < count:
        line = rng.choice(kinds)(rng).translate(_SPACES)
        if line not in seen:
            seen.add(line)
            lines.append(line)
    return tuple(lines)


def line_kinds(language: str) -> list[Line]:
    """The kinds of lines CLDR has words for in `language`."""
    names = _read_names(language)
    makers = (
        _successive_days,
        _span_of_days,
        _month_run,
        _quarter,
        _time_of_day,
        _places_with_currencies,
        _official_languages,
        _languages_in_places,
        _language_with_script,
        _portrait,
        _amount,
        _time_zone,
    )
    kinds: list[Line] = [partial(maker, names) for maker in makers]
    if units := _measured_units(names.locale):
        kinds.append(partial(_measures, names, units))
    if periods := _relative_periods(names.locale):
        kinds.append(partial(_relative_times, names, periods))
    return kinds


def _read_names(language: str) -> _Names:
    locale, english = Locale.parse(language), Locale("en")
    common = _multilingual_places()
    places = dict(_translated(locale.territories, english.territories))
    languages = dict(_translated(locale.languages, english.languages))
    by_language: dict[str, list[str]] = {}
    for identifier in sorted(locale_identifiers()):
        spoken, _, place = identifier.partition("_")
        if spoken in languages and place in common & places.keys():
            by_language.setdefault(spoken, []).append(identifier)
    return _Names(
        locale,
        {code: name for code, name in places.items() if code in common},
        languages,
        dict(_translated(locale.scripts, english.scripts)),
        dict(_translated(locale.currencies, english.currencies)),
        [group for group in by_language.values() if len(group) >= 3],
    )


def _multilingual_places() -> set[str]:
    """Places that CLDR has locales of three languages for: few, so that facts return."""
    places = Counter(
        identifier.rpartition("_")[2]
        for identifier in locale_identifiers()
        if re.fullmatch("[a-z]{2,3}_[A-Z]{2}", identifier)
    )
    return {place for place, languages in places.items() if languages >= 3}


def _translated(names: Mapping[str, str], english: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Leave out names of several words that are still the English ones."""
    for code in sorted(names):
        if " " not in names[code] or names[code] != english.get(code):
            yield code, names[code]


# Dates and times


def _any_day(rng: random.Random) -> date:
    return date(1990, 1, 1) + timedelta(days=rng.randrange(40 * 365))


def _successive_days(names: _Names, rng: random.Random) -> str:
    first = _any_day(rng)
    days = (first + timedelta(days=step) for step in range(rng.randint(1, 3)))
    return names.listed(format_date(day, "full", locale=names.locale) for day in days)


def _span_of_days(names: _Names, rng: random.Random) -> str:
    first = _any_day(rng)
    last = first + timedelta(days=rng.randint(1, 60))
    span = format_interval(first, last, "yMMMEd", locale=names.locale)
    return f"{format_date(first, 'full', locale=names.locale)}: {span}"


def _month_run(names: _Names, rng: random.Random) -> str:
    first, year = rng.randrange(12), rng.randint(1960, 2040)
    months = range(first, first + rng.randint(3, 5))
    return names.listed(
        format_skeleton("yMMMM", day, locale=names.locale)
        for day in (date(year + month // 12, month % 12 + 1, 1) for month in months)
    )


def _quarter(names: _Names, rng: random.Random) -> str:
    quarter, year = rng.randrange(4), rng.randint(1900, 2060)
    months = names.locale.months["format"]["wide"]
    run = [months[3 * quarter + month] for month in (1, 2, 3)]
    start = date(year, 3 * quarter + 1, 1)
    in_words = format_skeleton("yQQQQ", start, locale=names.locale)
    return f"{in_words}: {names.listed(run)}"


def _time_of_day(names: _Names, rng: random.Random) -> str:
    day = _any_day(rng)
    moment = datetime(day.year, day.month, day.day, rng.randrange(24), rng.randrange(60))
    in_words = format_skeleton("Bhm", moment, locale=names.locale)
    in_digits = format_datetime(moment, "d MMMM y, HH:mm", locale=names.locale)
    return f"{in_digits} – {in_words}"


def _relative_periods(locale: Locale) -> list[str]:
    """Units of time for which CLDR says "in …" and "… ago" in this language."""
    return [
        period
        for period in ("year", "month", "week", "day", "hour", "minute")
        if format_timedelta(timedelta(hours=1), period, threshold=99, add_direction=True, locale=locale)[0] not in "+-"
    ]


def _relative_times(names: _Names, periods: list[str], rng: random.Random) -> str:
    period = rng.choice(periods)
    days = {"year": 366.0, "month": 31, "week": 7, "day": 1, "hour": 1 / 24}
    length = timedelta(days=days.get(period, 1 / 1440)) * rng.randint(1, 60)
    said = [
        format_timedelta(step, cast(Any, period), threshold=99, add_direction=True, locale=names.locale)
        for step in (length, -length)
    ]
    rng.shuffle(said)
    day = format_date(_any_day(rng), "long", locale=names.locale)
    return f"{day}: {' – '.join(said)}"


# Places, languages, money


def _places_with_currencies(names: _Names, rng: random.Random) -> str:
    pairs = [_place_with_currency(names, rng) for _ in range(rng.randint(2, 3))]
    return names.listed(f"{names.places[place]} ({names.currencies[currency]})" for place, currency in pairs)


def _place_with_currency(names: _Names, rng: random.Random) -> tuple[str, str]:
    while True:
        place = rng.choice(list(names.places))
        for currency in get_territory_currencies(place):
            if currency in names.currencies:
                return place, currency


def _official_languages(names: _Names, rng: random.Random) -> str:
    entries: list[str] = []
    while len(entries) < 2:
        place = rng.choice(list(names.places))
        spoken = _spoken(names, place)
        if spoken:
            entries.append(f"{names.places[place]}: {names.listed(spoken)}")
    return "; ".join(entries)


def _spoken(names: _Names, place: str) -> list[str]:
    codes = get_official_languages(place, de_facto=True)
    return [names.languages[code] for code in codes if code in names.languages]


def _languages_in_places(names: _Names, rng: random.Random) -> str:
    """The same language in several places, as babel names a locale."""
    chosen = rng.sample(rng.choice(names.locales), rng.randint(2, 3))
    return names.listed(str(Locale.parse(one).get_display_name(names.locale)) for one in chosen)


def _language_with_script(names: _Names, rng: random.Random) -> str:
    """A language, the script it is mostly written in and where it is mostly spoken."""
    likely = get_global("likely_subtags")
    entries: list[str] = []
    while len(entries) < 2:
        language = rng.choice(list(names.languages))
        _, _, tags = likely.get(language, "").partition("_")
        script, _, place = tags.partition("_")
        if script in names.scripts and place in names.places:
            spoken = f"{names.languages[language]} – {names.places[place]}"
            entries.append(f"{spoken} ({names.scripts[script]})")
    return "; ".join(entries)


def _portrait(names: _Names, rng: random.Random) -> str:
    """What belongs to one place, in any order."""
    place, currency = _place_with_currency(names, rng)
    facts = [names.currencies[currency], *_spoken(names, place)]
    if zones := get_global("territory_zones").get(place):
        facts.append(get_timezone_location(rng.choice(zones), locale=names.locale))
    rng.shuffle(facts)
    return f"{names.places[place]}: {names.listed(facts)}"


def _amount(names: _Names, rng: random.Random) -> str:
    place, currency = _place_with_currency(names, rng)
    amount = rng.randint(1, 400) * rng.choice([1, 10, 50, 1000])
    in_words = format_currency(
        amount,
        currency,
        format_type="name",
        locale=names.locale,
        currency_digits=False,
        decimal_quantization=False,
    )
    number = format_decimal(amount, locale=names.locale)
    return f"{names.places[place]}: {currency} {number} – {in_words}"


def _time_zone(names: _Names, rng: random.Random) -> str:
    zones = get_global("territory_zones")
    place = rng.choice([code for code in list(names.places) if code in zones])
    zone = rng.choice(zones[place])
    city = get_timezone_location(zone, locale=names.locale, return_city=True)
    located = get_timezone_location(zone, locale=names.locale)
    moment = datetime(2026, 1, 1, rng.randrange(24), rng.choice([0, 15, 30, 45]))
    at = format_datetime(moment, "HH:mm", locale=names.locale)
    return f"{city}, {names.places[place]}: {at}, {located}"


# Measures


def _measured_units(locale: Locale) -> list[str]:
    """Units whose name CLDR knows in this language and gives a pattern for."""
    english = Locale("en")
    return [
        unit
        for unit in sorted(locale.unit_display_names)
        if unit.startswith(_MEASURED)
        and (name := get_unit_name(unit, "long", locale)) is not None
        and name != get_unit_name(unit, "long", english)
        and format_unit(3, unit, "long", locale=locale) != f"3 {unit}"
    ]


def _measures(names: _Names, units: list[str], rng: random.Random) -> str:
    """Rising amounts of one unit."""
    unit = rng.choice(units)
    first, step = rng.randint(1, 60), rng.choice([1, 2, 5, 10])
    amounts = [first + step * turn for turn in range(rng.randint(2, 4))]
    return names.listed(format_unit(amount, unit, "long", locale=names.locale) for amount in amounts)
