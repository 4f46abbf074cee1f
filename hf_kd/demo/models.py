"""The demo's tokenizer and teacher, both made from the demo's own text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    set_seed,
)

if TYPE_CHECKING:
    from .settings import DemoSettings

_INITIAL_SPREAD = 0.08
"""Of the initial weights: the default of 0.02 suits wide models; a narrow one then learns slowly."""

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train_tokenizer(lines: Iterable[str], settings: DemoSettings) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer in memory.

    The same lines give the same tokenizer. Unigram, XLM-R's kind, does not: its scores
    depend on the order of a hash table, and with them every figure of the demo.

    Args:
        lines: text of all languages, each in the same amount.
        settings: `vocabulary_size` and `max_tokens` are read.

    Returns:
        A fast tokenizer that puts `<s>` and `</s>` around a line.
    """
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = BpeTrainer(
        vocab_size=settings.vocabulary_size,
        special_tokens=list(_SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[(name, _SPECIAL.index(name)) for name in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=settings.max_tokens,
    )


def new_teacher(tokenizer: PreTrainedTokenizerFast, settings: DemoSettings) -> ModernBertForMaskedLM:
    """A pre-norm encoder with random weights.

    Pre-norm, since a post-norm model of this size does not leave the plateau of
    guessing by frequency within a demo's time.

    Args:
        tokenizer: gives the vocabulary and the special tokens' numbers.
        settings: `layers`, `width`, `heads`, `max_tokens` and `seed` are read.
    """
    set_seed(settings.seed)
    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=settings.layers,
            hidden_size=settings.width,
            intermediate_size=settings.width,
            num_attention_heads=settings.heads,
            max_position_embeddings=settings.max_tokens,
            global_attn_every_n_layers=1,
            initializer_range=_INITIAL_SPREAD,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
        )
    )
