"""Terms as pure functions: tensors in, one unreduced value a position out.

No term averages over positions: `reduce.py` alone does.
"""

from types import MappingProxyType

from .attention import attention_kl, attention_mse
from .hidden import hidden_cosine, hidden_mse, hidden_normalized_mse
from .logits import forward_kl, jensen_shannon, logits_mse, reverse_kl
from .relation import relation_kl

LOGITS_DIVERGENCES = MappingProxyType(
    {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jensen_shannon": jensen_shannon,
        "mse": logits_mse,
    }
)
ATTENTION_DISTANCES = MappingProxyType({"mse": attention_mse, "kl": attention_kl})
HIDDEN_DISTANCES = MappingProxyType(
    {"mse": hidden_mse, "cosine": hidden_cosine, "normalized_mse": hidden_normalized_mse}
)

__all__ = [
    "ATTENTION_DISTANCES",
    "HIDDEN_DISTANCES",
    "LOGITS_DIVERGENCES",
    "attention_kl",
    "attention_mse",
    "forward_kl",
    "hidden_cosine",
    "hidden_mse",
    "hidden_normalized_mse",
    "jensen_shannon",
    "logits_mse",
    "relation_kl",
    "reverse_kl",
]
