"""What was drawn from each language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LanguageDraw:
    """What was drawn from one language.

    Attributes:
        rows: rows drawn, repeated ones each time.
        tokens: their tokens.
        asked_tokens: the language's share by the rule, before any redistribution.
        available_rows: rows that it has, blank ones not counted; None if it was not read to its end.
        available_tokens: their tokens, or None.
    """

    rows: int
    tokens: int
    asked_tokens: int
    available_rows: int | None = None
    available_tokens: int | None = None

    @property
    def passes(self) -> float | None:
        """How often the language's text was gone through; above 1, rows are repeated."""
        return None if not self.available_tokens else self.tokens / self.available_tokens


@dataclass(frozen=True)
class BalanceReport:
    """What was drawn from every language, and by which rule. Plain values only.

    Attributes:
        languages: draws by language.
        rule: one of `hf_kd.balance.RULES`.
        budget_tokens: tokens asked for in all.
        alpha: exponent of the rule "alpha"; None for the others.
        redistributes: whether what short languages lack was drawn from the others.
        seed: of the draw and the order.
    """

    languages: Mapping[str, LanguageDraw]
    rule: str
    budget_tokens: int
    alpha: float | None
    redistributes: bool
    seed: int

    @property
    def rows(self) -> int:
        """Rows of all languages."""
        return sum(draw.rows for draw in self.languages.values())

    @property
    def tokens(self) -> int:
        """Tokens of all languages."""
        return sum(draw.tokens for draw in self.languages.values())

    @property
    def shares(self) -> dict[str, float]:
        """Each language's share of the tokens drawn, 0 to 1."""
        total = self.tokens
        return {language: draw.tokens / total for language, draw in self.languages.items()}

    @property
    def short(self) -> tuple[str, ...]:
        """Languages that have less than their equal share, and so gave all they have."""
        if self.rule != "equal":
            return ()
        known = {language: draw.available_tokens for language, draw in self.languages.items()}
        asked = {language: draw.asked_tokens for language, draw in self.languages.items()}
        return tuple(name for name, tokens in known.items() if tokens is not None and tokens < asked[name])

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return asdict(self) | {"rows": self.rows, "tokens": self.tokens, "shares": self.shares}


def balance_table(report: BalanceReport) -> Table:
    """The report as a table for the terminal, a row a language."""
    from rich.table import Table

    rule = f"n^{report.alpha:g}" if report.alpha is not None else report.rule
    table = Table(title=f"Drawn from each language ({rule}, {report.budget_tokens:,} tokens asked for)")
    for heading in ("language", "rows", "tokens", "share", "available tokens", "passes", ""):
        table.add_column(heading, justify="left" if heading in ("language", "") else "right")
    for language, draw in report.languages.items():
        available = "" if draw.available_tokens is None else f"{draw.available_tokens:,}"
        passes = "" if draw.passes is None else f"{draw.passes:.2f}"
        note = f"short of {draw.asked_tokens:,}" if language in report.short else ""
        share = f"{report.shares[language]:.1%}"
        table.add_row(language, f"{draw.rows:,}", f"{draw.tokens:,}", share, available, passes, note)
    table.add_section()
    table.add_row("all", f"{report.rows:,}", f"{report.tokens:,}", "", "", "", "")
    return table
