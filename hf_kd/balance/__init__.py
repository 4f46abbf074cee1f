"""One dataset of many languages, sampled by their sizes in tokens, and a report of what was drawn.

A `Dataset` is drawn in an order that depends on the seed and the language's name alone: a larger
budget adds rows to those of a smaller one, and a language that is repeated comes in another order in
each pass. Then all languages' rows are shuffled together.

A stream gives its first rows, in its own order and again in each pass, and languages alternate at
random; shuffle it beforehand if its order matters. Its `state_dict` resumes exactly.

Tokens are counted first, up to a language's share, or to its end where shares depend on what there
is. A stream is therefore read twice.
"""

from .draw import BalancedData as BalancedData
from .draw import balance_languages as balance_languages
from .report import BalanceReport as BalanceReport
from .report import LanguageDraw as LanguageDraw
from .report import balance_table as balance_table
from .shares import RULES as RULES

__all__ = ["RULES", "BalanceReport", "BalancedData", "LanguageDraw", "balance_languages", "balance_table"]
