"""How many tokens each language gives: arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping

RULES = ("equal", "alpha", "none")
"""Each language the same; in proportion to n^alpha of its n tokens; in proportion to n."""


def default_budget(rule: str, available: Mapping[str, int]) -> int:
    """The largest budget for which no language runs short; for "alpha", all there is."""
    return len(available) * min(available.values()) if rule == "equal" else sum(available.values())


def shares(rule: str, available: Mapping[str, int], budget_tokens: int, alpha: float) -> dict[str, int]:
    """Tokens that each language is asked for; they sum to the budget, less rounding.

    Args:
        rule: one of `RULES`.
        available: tokens that each language has; "equal" does not look at them.
        budget_tokens: tokens in all.
        alpha: exponent of "alpha".

    Source:
        "equal": Limisiewicz et al. (2022), arXiv:2210.07135.
        "alpha": Conneau & Lample (2019), arXiv:1901.07291, section 3.1, over tokens for sentences.
    """
    if rule == "equal":
        return dict.fromkeys(available, budget_tokens // len(available))
    if rule == "none":
        total = sum(available.values())
        return {language: min(tokens, tokens * budget_tokens // total) for language, tokens in available.items()}
    powers = {language: tokens**alpha for language, tokens in available.items()}
    total_power = sum(powers.values())
    return {language: int(budget_tokens * power / total_power) for language, power in powers.items()}


def redistributed(available: Mapping[str, int], budget_tokens: int) -> dict[str, int]:
    """Equal shares, where what a language lacks is shared among those that have more.

    Args:
        available: tokens that each language has.
        budget_tokens: tokens in all; reached, less rounding, if there are as many.
    """
    given, left = dict[str, int](), budget_tokens
    for place, language in enumerate(sorted(available, key=lambda name: available[name])):
        given[language] = min(available[language], left // (len(available) - place))
        left -= given[language]
    return {language: given[language] for language in available}
