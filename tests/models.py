"""Tiny models of each family, and ragged batches for them."""

import torch
import transformers as hf

VOCABULARY = 64
PAD, CLS, SEP, MASK = 1, 2, 3, 4


def _shape(width, layers, heads, **more):
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 40,
        "pad_token_id": PAD,
        **more,
    }


_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def config(family, width=16, layers=4, heads=4, **more):
    """A tiny configuration of the family, without dropout."""
    if family == "bert":
        return hf.BertConfig(**_shape(width, layers, heads, **_NO_DROPOUT, **more))
    if family == "xlm_roberta":
        return hf.XLMRobertaConfig(**_shape(width, layers, heads, **_NO_DROPOUT, **more))
    if family == "electra":
        return hf.ElectraConfig(**_shape(width, layers, heads, embedding_size=8, **_NO_DROPOUT, **more))
    if family == "deberta_v2":
        extra = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
        return hf.DebertaV2Config(**_shape(width, layers, heads, share_att_key=True, **extra, **_NO_DROPOUT, **more))
    if family == "distilbert":
        return hf.DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=width,
            hidden_dim=2 * width,
            n_layers=layers,
            n_heads=heads,
            max_position_embeddings=40,
            pad_token_id=PAD,
            dropout=0.0,
            attention_dropout=0.0,
            **more,
        )
    if family == "modernbert":
        ids = {"bos_token_id": CLS, "eos_token_id": SEP, "cls_token_id": CLS, "sep_token_id": SEP}
        return hf.ModernBertConfig(**_shape(width, layers, heads, local_attention=8, **ids, **more))
    if family in ("llama", "qwen3"):
        shape = _shape(width, layers, heads, num_key_value_heads=2, bos_token_id=CLS, eos_token_id=SEP, **more)
        if family == "qwen3":
            shape["head_dim"] = width // heads
        return (hf.LlamaConfig if family == "llama" else hf.Qwen3Config)(**shape)
    raise ValueError(family)


MASKED = ("bert", "xlm_roberta", "distilbert", "modernbert", "electra", "deberta_v2")
CAUSAL = ("llama", "qwen3")

_AUTO = {
    "masked_lm": hf.AutoModelForMaskedLM,
    "causal_lm": hf.AutoModelForCausalLM,
    "sequence_classification": hf.AutoModelForSequenceClassification,
    "token_classification": hf.AutoModelForTokenClassification,
    "question_answering": hf.AutoModelForQuestionAnswering,
}


def model(family="bert", head=None, seed=0, attn_implementation="sdpa", spread=1.0, **shape):
    """A tiny model with its own random weights; `spread` widens them, so that outputs are far from uniform."""
    head = head or ("causal_lm" if family in CAUSAL else "masked_lm")
    torch.manual_seed(seed)
    kwargs = {} if family == "deberta_v2" else {"attn_implementation": attn_implementation}
    made = _AUTO[head].from_config(config(family, **shape), **kwargs)
    if spread != 1.0:
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(spread)
    return made


def rows(count=32, seed=1, head="masked_lm", classes=3):
    """Ragged rows with uneven numbers of labels; one row has a single label, some have many."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, size=()):
        return torch.randint(low, high, size, generator=generator)

    made = []
    for _ in range(count):
        length = int(draw(5, 20))
        ids = draw(5, VOCABULARY, (length,))
        ids[0], ids[-1] = CLS, SEP
        row = {"input_ids": ids, "attention_mask": torch.ones(length, dtype=torch.long)}
        if head == "masked_lm":
            masked = torch.rand(length, generator=generator) < torch.rand((), generator=generator) * 0.6
            masked[0] = masked[-1] = False
            masked[1] = True
            row["labels"] = torch.where(masked, ids, -100)
            row["input_ids"] = torch.where(masked, MASK, ids)
        elif head == "causal_lm":
            row["labels"] = ids.clone()
            row["labels"][: int(draw(0, 3))] = -100
        elif head == "sequence_classification":
            row["labels"] = draw(0, classes)
        elif head == "token_classification":
            row["labels"] = draw(0, classes, (length,))
            row["labels"][0] = row["labels"][-1] = -100
        elif head == "question_answering":
            row["start_positions"] = draw(0, length)
            row["end_positions"] = draw(0, length)
        made.append({name: value.tolist() for name, value in row.items()})
    return made


def collate(batch):
    """Pad to the longest row."""
    length = max(len(row["input_ids"]) for row in batch)
    padding = {"input_ids": PAD, "attention_mask": 0, "labels": -100, "token_type_ids": 0}
    return {
        name: torch.tensor(
            [
                row[name] + [padding[name]] * (length - len(row[name])) if isinstance(row[name], list) else row[name]
                for row in batch
            ]
        )
        for name in batch[0]
    }
