"""One dataset of many languages, sampled by their sizes in tokens, and a report of what was drawn."""

from .draw import BalancedData as BalancedData
from .draw import balance_languages as balance_languages
from .report import BalanceReport as BalanceReport
from .report import LanguageDraw as LanguageDraw
from .report import balance_table as balance_table
from .shares import RULES as RULES

__all__ = ["RULES", "BalanceReport", "BalancedData", "LanguageDraw", "balance_languages", "balance_table"]
