"""Plans: what is kept of a teacher, decided before anything is cut. All are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TrimPlan:
    """Which tokens of a vocabulary are kept, and why. A token's new id is its place in `kept_ids`.

    Attributes:
        kept_ids: old ids, ascending.
        source_size: tokens of the untrimmed tokenizer.
        algorithm: the tokenizer's model: BPE, Unigram or WordPiece.
        reasons: number of kept tokens by the first reason that kept them; they sum to `size`.
        coverage: share of the corpus' token occurrences that is kept, 0 to 1, as the languages were weighted.
        language_coverage: the same share of each language's own occurrences.
        asked: the arguments that the plan answers.
        fingerprint: SHA-256 of the untrimmed vocabulary, in hexadecimal.
        model_rows: rows of the model's embedding, padding rows included; None where no model was named.
    """

    kept_ids: tuple[int, ...]
    source_size: int
    algorithm: str
    reasons: Mapping[str, int]
    coverage: float
    language_coverage: Mapping[str, float]
    asked: Mapping[str, Any]
    fingerprint: str
    model_rows: int | None = None

    @property
    def size(self) -> int:
        """Number of kept tokens."""
        return len(self.kept_ids)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for JSON."""
        return asdict(self) | {"kept_ids": list(self.kept_ids)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrimPlan:
        """Read a plan that `to_dict` wrote.

        Raises:
            ValueError: a field is missing or unknown, or the ids are not ascending.
        """
        names = {entry.name for entry in fields(cls)}
        if set(values) != names:
            raise ValueError(
                f"The trim plan has unknown fields ({_list(set(values) - names)}) or lacks some "
                f"({_list(names - set(values))}). Read a plan that this version's `TrimPlan.to_dict` wrote."
            )
        kept = tuple(int(token_id) for token_id in values["kept_ids"])
        if not kept or kept[0] < 0 or any(later <= earlier for earlier, later in zip(kept, kept[1:], strict=False)):
            raise ValueError("`kept_ids` of the trim plan must be ids from 0, ascending, each once. Plan anew.")
        return cls(**{**values, "kept_ids": kept})


@dataclass(frozen=True)
class StudentPlan:
    """How a student is cut from its teacher: what is kept, and why. Plain values only.

    Units are numbered as in the teacher; per-layer entries stand in the order of `kept_layers`.

    Attributes:
        teacher_layers: number of layers of the teacher.
        kept_layers: teacher layers, counted from 0, that become the student's, in order.
        rule: why these layers.
        sizes: for each size that changes, by its name in the configuration, the teacher's and
            the student's.
        width_rule: "truncate", "svd" or "importance"; None where no width is cut.
        hidden_units: kept units of the residual stream; None if all, or if they are mixed.
        ffn_units: kept neurons of each layer; None if all.
        heads: kept attention heads of each layer; None if all.
        query_units: kept query and key units of each layer, head after head; None if all or mixed.
        value_units: kept value units of each layer, head after head; None if all or mixed.
        mixed: axes whose units are mixed by a singular value decomposition instead of picked.
        trim: which tokens are kept; None if all.
        weights: "teacher" if copied, "random" if only the shape is taken.
        sample: the text that importance was measured on, in words; None if nothing was measured.
        teacher: Hub id of the teacher; None if it has none.
        teacher_revision: commit of that repository.
        notes: what else a reader should know.
    """

    teacher_layers: int
    kept_layers: tuple[int, ...]
    rule: str
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    width_rule: str | None = None
    hidden_units: tuple[int, ...] | None = None
    ffn_units: tuple[tuple[int, ...], ...] | None = None
    heads: tuple[tuple[int, ...], ...] | None = None
    query_units: tuple[tuple[int, ...], ...] | None = None
    value_units: tuple[tuple[int, ...], ...] | None = None
    mixed: tuple[str, ...] = ()
    trim: TrimPlan | None = None
    weights: str = "teacher"
    sample: str | None = None
    teacher: str | None = None
    teacher_revision: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def kept_ids(self) -> tuple[int, ...] | None:
        """The kept token ids, ascending; None if all are kept."""
        return None if self.trim is None else self.trim.kept_ids


@dataclass(frozen=True)
class VocabularyMatch:
    """How the student's token ids become the teacher's.

    Attributes:
        compared: number of tokens that both know, whose logits are compared.
        student_columns: ids of these tokens, int64; None for the first `compared`. Shape (compared,).
        teacher_columns: the teacher's ids of the same tokens, int64; None for the first
            `compared`. Shape (compared,).
        teacher_ids: the id that the teacher reads in place of each student id, int64; None if they
            agree. Shape (rows of the student,).
    """

    compared: int
    student_columns: Tensor | None = None
    teacher_columns: Tensor | None = None
    teacher_ids: Tensor | None = None


def _list(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"
