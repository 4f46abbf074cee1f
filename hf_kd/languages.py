"""Languages as numbers: their places in one tuple of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LANGUAGE_COLUMN = "language"
"""Column of a dataset that names each row's language."""

TOKEN_LANGUAGES_COLUMN = "language_ids"
"""Column of a dataset that numbers each token's language, for rows that hold several texts."""

NO_LANGUAGE = -1
"""The language of padding, and of rows and tokens that have none."""


def check_languages(languages: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple, in their order, each once.

    Raises:
        TypeError: one string, or a name that is no string.
        ValueError: a name occurs twice.
    """
    if isinstance(languages, str):
        raise TypeError(f"`languages` is the string {languages!r}; names are needed. Pass `({languages!r},)`.")
    names = tuple(languages)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`languages` holds {name!r} of type `{type(name).__name__}`; names are strings.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"`languages` names {', '.join(twice)} more than once. Name each language once.")
    return names


def language_numbers(values: Iterable[object], languages: Sequence[str], column: str) -> list[int]:
    """Each value's place in `languages`.

    Args:
        values: the column's values.
        languages: the names known.
        column: the column's name, for the message.

    Raises:
        ValueError: a value is None or not among the names.
    """
    places = {name: place for place, name in enumerate(languages)}
    numbers = []
    for value in values:
        place = places.get(value) if isinstance(value, str) else None
        if place is None:
            known = ", ".join(f"`{name}`" for name in languages) or "none"
            saw = "no value" if value is None else f"`{value}`" if isinstance(value, str) else repr(value)
            raise ValueError(
                f"Column `{column}` has a row with {saw}, but the languages known are {known}. Correct the column, "
                "filter such rows out, or add the language."
            )
        numbers.append(place)
    return numbers
