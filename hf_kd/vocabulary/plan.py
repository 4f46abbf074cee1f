"""Which tokens to keep: those that must be, those that they are made of, then the most frequent."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel
from transformers.utils import logging

from ..plans import TrimPlan
from .backend import fingerprint, is_byte_level, merge_parts, read_backend, template_ids, unknown_id

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from .counts import TokenCounts

logger = logging.get_logger(__name__)

_WORD_START = "▁"
_PARTS = "part of a kept token"

Parts = Callable[[int], Iterable[int]]


def plan_trim(
    tokenizer: PreTrainedTokenizerBase,
    counts: TokenCounts,
    *,
    vocab_size: int | None = None,
    coverage: float | None = None,
    keep: Iterable[str] = (),
    model_config: PreTrainedConfig | None = None,
    balance: bool = True,
) -> TrimPlan:
    """Choose the tokens of a smaller vocabulary.

    Always kept: special and added tokens, the unknown token, bytes, the ids that the model's
    configuration names, `keep`, and the characters of the corpus. Then come the most frequent tokens,
    the lower id first among equals, and none that does not occur. With each go the tokens it is made
    of: in BPE the parts of every merge that makes it, in Unigram its characters; one that no longer
    fits with its parts is passed over. So a text that the full tokenizer cuts into kept tokens alone
    is cut alike by the trimmed one (in WordPiece: a text without unknown words).

    Args:
        tokenizer: a fast tokenizer with a BPE, Unigram or WordPiece model.
        counts: what `count_tokens` counted with this tokenizer.
        vocab_size: most tokens to keep; reached exactly if enough tokens occur and fit.
        coverage: share of the token occurrences to keep at least, above 0 and up to 1.
        keep: further tokens, as the vocabulary spells them.
        model_config: configuration of the model to trim with the tokenizer, for its token ids.
        balance: whether each language counts the same, however much text it has.

    Raises:
        TypeError: a slow tokenizer.
        ValueError: not exactly one of `vocab_size` and `coverage`, one out of range, a size below what
            must be kept, counts of another tokenizer, an unknown token in `keep`, or too few model rows.

    Source:
        Load What You Need, Abdaoui et al. (2020), arXiv:2010.05609, for keeping what a corpus uses.
    """
    backend, vocabulary = read_backend(tokenizer), tokenizer.get_vocab()
    _check_asked(vocab_size, coverage, len(vocabulary))
    _check_counts(tokenizer, counts)
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    draft = _Draft(_parts(backend, vocabulary))
    for reason, ids in _required(tokenizer, backend, vocabulary, counts, keep, model_config):
        draft.require(reason, ids)
    weights = _weights(counts, balance)
    if vocab_size is not None:
        _fill(draft, weights, vocab_size)
    else:
        _cover(draft, weights, coverage or 0.0)
    kept = np.sort(np.fromiter(draft.reasons, dtype=np.int64))
    return TrimPlan(
        kept_ids=tuple(kept.tolist()),
        source_size=len(vocabulary),
        algorithm=backend["model"]["type"],
        reasons=dict(Counter(draft.reasons.values())),
        coverage=float(weights[kept].sum()),
        language_coverage=_language_coverage(counts, kept),
        asked={"vocab_size": vocab_size, "coverage": coverage, "keep": list(keep), "balance": balance},
        fingerprint=counts.fingerprint,
        model_rows=None if model_config is None else _rows(model_config, int(kept[-1])),
    )


class _Draft:
    """The ids kept so far, each with the first reason that kept it; always whole with their parts."""

    def __init__(self, parts: Parts) -> None:
        self.reasons: dict[int, str] = {}
        self._parts = parts

    def require(self, reason: str, ids: Iterable[int]) -> None:
        """Keep ids for the reason, and then what they are made of."""
        wanted = [token_id for token_id in ids if token_id not in self.reasons]
        self.reasons.update(dict.fromkeys(wanted, reason))
        for token_id in wanted:
            for part in self.missing(token_id):
                self.reasons.setdefault(part, _PARTS)

    def missing(self, token_id: int, most: int | None = None) -> list[int]:
        """The id, if not kept, and all its parts that are not kept either, `most` + 1 of them at most."""
        found = {} if token_id in self.reasons else {token_id: None}
        pending = [token_id]
        while pending and (most is None or len(found) <= most):
            for part in self._parts(pending.pop()):
                if part not in self.reasons and part not in found:
                    found[part] = None
                    pending.append(part)
        return list(found)

    def add(self, ids: Sequence[int]) -> None:
        """Keep a frequent token, the first of the ids, and its parts."""
        self.reasons[ids[0]] = "frequent"
        self.reasons.update(dict.fromkeys(ids[1:], _PARTS))


def _check_asked(vocab_size: int | None, coverage: float | None, size: int) -> None:
    if (vocab_size is None) == (coverage is None):
        given = "neither is" if vocab_size is None else f"both are ({vocab_size} and {coverage})"
        raise ValueError(f"One of `vocab_size` and `coverage` is needed; {given} given. Choose one.")
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(
            f"`coverage` is {coverage}; it is a share of the token occurrences, above 0 and up to 1. Use 0.995, say."
        )
    if vocab_size is not None and vocab_size >= size:
        raise ValueError(
            f"`vocab_size` is {vocab_size}, but the tokenizer has {size} tokens: there is nothing to cut. Ask for "
            "fewer."
        )


def _check_counts(tokenizer: PreTrainedTokenizerBase, counts: TokenCounts) -> None:
    if counts.fingerprint != fingerprint(tokenizer):
        raise ValueError(
            "The counts were made with another tokenizer: its vocabulary differs. Count again with this tokenizer."
        )


def _rows(model_config: PreTrainedConfig, highest: int) -> int:
    """Rows of the model's embedding, which must hold the highest kept id."""
    rows = int(model_config.get_text_config().vocab_size)
    if highest >= rows:
        raise ValueError(
            f"Token id {highest} must be kept, but the model has {rows} rows. Resize the model to its tokenizer first."
        )
    return rows


def _required(
    tokenizer: PreTrainedTokenizerBase,
    backend: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    counts: TokenCounts,
    keep: Sequence[str],
    model_config: PreTrainedConfig | None,
) -> Iterator[tuple[str, Iterable[int]]]:
    """What must be kept, as reasons with ids; an id may come twice."""
    for token in keep:
        if token not in vocabulary:
            raise ValueError(
                f"`keep` names {token!r}, which is not in the vocabulary. Spell it as `tokenizer.tokenize` does, or "
                "leave it out."
            )
    known = set(vocabulary.values())
    yield "special", [
        token_id for token_id in (*tokenizer.all_special_ids, *template_ids(backend)) if token_id in known
    ]
    yield "added", sorted(tokenizer.added_tokens_decoder)
    unknown = unknown_id(backend, vocabulary)
    yield "unknown", [] if unknown is None else [unknown, *_lowest_score(backend["model"])]
    named = [] if model_config is None else _config_ids(model_config.to_dict())
    yield "model configuration", [token_id for token_id in named if token_id in known]
    yield "byte", _ids(vocabulary, _bytes(backend))
    yield "asked for", _ids(vocabulary, keep)
    if not is_byte_level(backend):  # there, a character is several bytes
        yield "character", _ids(vocabulary, _character_forms(backend["model"], sorted(counts.characters)))


def _ids(vocabulary: Mapping[str, int], tokens: Iterable[str]) -> list[int]:
    return [vocabulary[token] for token in tokens if token in vocabulary]


def _lowest_score(model: Mapping[str, Any]) -> list[int]:
    """The Unigram token with the lowest score, from which the penalty of an unknown character is derived."""
    if model["type"] != "Unigram":
        return []
    scores = [score for _, score in model["vocab"]]
    return [scores.index(min(scores))]


def _config_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Every token id that a configuration names, those of nested configurations included."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _config_ids(value)
        elif isinstance(name, str) and name.endswith(("_token_id", "_token_ids")):
            values = value if isinstance(value, (list, tuple)) else [value]
            yield from (entry for entry in values if isinstance(entry, int) and not isinstance(entry, bool))


def _bytes(backend: Mapping[str, Any]) -> list[str]:
    """The tokens that stand for single bytes."""
    tokens = list(_character_forms(backend["model"], sorted(ByteLevel.alphabet()))) if is_byte_level(backend) else []
    if backend["model"].get("byte_fallback"):
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    return tokens


def _character_forms(model: Mapping[str, Any], characters: Iterable[str]) -> Iterator[str]:
    """Each character as a token at a word's start, within it and at its end."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    yield _WORD_START
    for character in characters:
        yield from (character, _WORD_START + character, prefix + character, character + suffix)
        yield prefix + character + suffix


def _parts(backend: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Parts:
    """A function from a token id to the ids that it is made of."""
    model = backend["model"]
    if model["type"] == "BPE":
        made: dict[int, list[int]] = defaultdict(list)
        for left, right, whole in merge_parts(model):
            made[vocabulary[whole]] += (vocabulary[left], vocabulary[right])
        return lambda token_id: made.get(token_id, ())
    if model["type"] == "Unigram":
        pieces = [piece for piece, _ in model["vocab"]]
        added = {entry["id"] for entry in backend["added_tokens"]}  # matched before the model looks at characters
        return lambda token_id: () if token_id in added else _ids(vocabulary, pieces[token_id])
    return lambda token_id: ()


def _weights(counts: TokenCounts, balance: bool) -> NDArray[np.float64]:
    """Each token's share of the corpus: pooled, or the mean of the languages' shares. Shape (V,)."""
    if not balance:
        return counts.counts / counts.tokens
    shares = [language.counts / language.tokens for language in counts.languages.values()]
    return np.mean(shares, axis=0)


def _language_coverage(counts: TokenCounts, kept: NDArray[np.int64]) -> dict[str, float]:
    return {name: float(language.counts[kept].sum() / language.tokens) for name, language in counts.languages.items()}


def _by_weight(weights: NDArray[np.float64]) -> Iterator[int]:
    """Ids that occur, the heaviest first, of equal ones the lower first."""
    order = np.argsort(-weights, kind="stable")
    return iter(order[weights[order] > 0].tolist())


def _fill(draft: _Draft, weights: NDArray[np.float64], vocab_size: int) -> None:
    if len(draft.reasons) > vocab_size:
        parts = ", ".join(f"{number} {reason}" for reason, number in Counter(draft.reasons.values()).items())
        raise ValueError(
            f"`vocab_size` is {vocab_size}, but {len(draft.reasons)} tokens must be kept ({parts}). Ask for at least "
            f"{len(draft.reasons)}, or count on text with fewer stray characters."
        )
    for token_id in _by_weight(weights):
        room = vocab_size - len(draft.reasons)
        if token_id not in draft.reasons and room:
            missing = draft.missing(token_id, most=room)
            if len(missing) <= room:
                draft.add(missing)
    if len(draft.reasons) < vocab_size:
        logger.info(f"{len(draft.reasons)} tokens are kept, not {vocab_size}: no further one occurs or fits.")


def _cover(draft: _Draft, weights: NDArray[np.float64], coverage: float) -> None:
    covered = float(weights[list(draft.reasons)].sum())
    for token_id in _by_weight(weights):
        if covered >= coverage - 1e-12:  # what rounding takes
            return
        if token_id not in draft.reasons:
            missing = draft.missing(token_id)
            draft.add(missing)
            covered += float(weights[missing].sum())
