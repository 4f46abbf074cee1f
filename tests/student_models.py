"""Tiny teachers of every family and head, with weights, biases and norms far from their initial values."""

import torch
import transformers as hf

VOCABULARY, LAYERS, LENGTH = 64, 4, 12
PAD, BOS, EOS, CLS, SEP, MASK = 1, 2, 3, 4, 5, 6

_BASE = {"vocab_size": VOCABULARY, "num_hidden_layers": LAYERS, "max_position_embeddings": 40, "pad_token_id": PAD}
_WIDTH = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24}
_STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_BERT = _BASE | _WIDTH | _STILL
_ROBERTA = _BERT | {"bos_token_id": BOS, "eos_token_id": EOS, "type_vocab_size": 1}
_DEBERTA = _BERT | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}
_DISTILBERT = {"dim": 16, "hidden_dim": 24, "n_heads": 4, "dropout": 0.0, "attention_dropout": 0.0}
_MODERNBERT = {"local_attention": 8, "cls_token_id": CLS, "sep_token_id": SEP, "bos_token_id": CLS, "eos_token_id": SEP}
_DECODER = _BASE | _WIDTH | {"num_key_value_heads": 2, "bos_token_id": BOS, "eos_token_id": EOS}

VARIANTS = {
    "bert": (hf.BertConfig, _BERT),
    "roberta": (hf.RobertaConfig, _ROBERTA),
    "xlm-roberta": (hf.XLMRobertaConfig, _ROBERTA),
    "camembert": (hf.CamembertConfig, _ROBERTA),
    "distilbert": (hf.DistilBertConfig, _BASE | _DISTILBERT),
    "electra": (hf.ElectraConfig, _BERT | {"embedding_size": 6}),
    "electra-even": (hf.ElectraConfig, _BERT | {"embedding_size": 16}),
    "modernbert": (hf.ModernBertConfig, _BASE | _WIDTH | _MODERNBERT),
    "deberta-v2": (hf.DebertaV2Config, _DEBERTA | {"share_att_key": True, "position_biased_input": False}),
    "deberta-own-keys": (hf.DebertaV2Config, _DEBERTA | {"embedding_size": 6, "type_vocab_size": 2}),
    "deberta-conv": (hf.DebertaV2Config, _DEBERTA | {"conv_kernel_size": 3, "share_att_key": True}),
    "deberta-new-head": (hf.DebertaV2Config, _DEBERTA | {"legacy": False, "share_att_key": True}),
    "llama": (hf.LlamaConfig, _DECODER),
    "qwen2": (hf.Qwen2Config, _DECODER | {"tie_word_embeddings": True}),
    "qwen3": (hf.Qwen3Config, _DECODER | {"head_dim": 4}),
    "mistral": (hf.MistralConfig, _DECODER),
    "olmo2": (hf.Olmo2Config, _DECODER),
    "smollm3": (hf.SmolLM3Config, _DECODER | {"tie_word_embeddings": True}),
}
DECODERS = ("llama", "qwen2", "qwen3", "mistral", "olmo2", "smollm3")
ENCODERS = tuple(name for name in VARIANTS if name not in DECODERS)

_AUTO = {
    "base": hf.AutoModel,
    "masked_lm": hf.AutoModelForMaskedLM,
    "causal_lm": hf.AutoModelForCausalLM,
    "sequence_classification": hf.AutoModelForSequenceClassification,
    "token_classification": hf.AutoModelForTokenClassification,
    "question_answering": hf.AutoModelForQuestionAnswering,
}
_LACKING = {("olmo2", "token_classification"), ("olmo2", "question_answering")}


def heads(variant):
    """The supported heads that transformers has for a variant."""
    other = "masked_lm" if variant in DECODERS else "causal_lm"
    return [head for head in _AUTO if head != other and (variant, head) not in _LACKING]


EVERY = [(variant, head) for variant in VARIANTS for head in heads(variant)]


def make(variant, head=None, *, seed=0, spread=0.3, attn_implementation=None, **changes):
    """A teacher of a variant, in evaluation mode."""
    head = head or ("causal_lm" if variant in DECODERS else "masked_lm")
    cls, values = VARIANTS[variant]
    more = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model = _AUTO[head].from_config(cls(**(values | {"num_labels": 3 if "class" in head else 2} | changes)), **more)
    return shaken(model, seed, spread)


def shaken(model, seed=0, spread=0.3):
    """The model with every weight, bias and norm drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * spread
            is_scale = parameter.dim() == 1 and "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + drawn if is_scale else drawn)
    return model.eval()


def batch(ids=None, rows=3, seed=1):
    """Ragged rows of the given tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(7, VOCABULARY) if ids is None else torch.as_tensor(ids)
    drawn = ids[torch.randint(0, len(ids), (rows, LENGTH), generator=generator)]
    mask = torch.ones_like(drawn)
    for row in range(1, rows):
        mask[row, LENGTH - 2 * row :] = 0
    return {"input_ids": drawn.masked_fill(mask == 0, PAD), "attention_mask": mask}


def outputs(model, inputs=None):
    """Every tensor that the model answers with: logits, starts and ends, or hidden and pooled states."""
    with torch.no_grad():
        answer = (
            model(**(batch() if inputs is None else inputs), use_cache=False)
            if decodes(model)
            else model(**(batch() if inputs is None else inputs))
        )
    return [value for value in answer.to_tuple() if isinstance(value, torch.Tensor)]


def decodes(model):
    """Whether the model would answer with a cache."""
    return model.config.model_type in DECODERS


def assert_same(one, other, **tolerance):
    """Outputs agree; bit for bit without a tolerance."""
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        if tolerance:
            torch.testing.assert_close(left, right, **tolerance)
        else:
            assert torch.equal(left, right)


def frozen(model):
    """All that must not change about a teacher."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for name, module in model.named_modules()
    }
    generation = getattr(model, "generation_config", None)
    settings = (model.config.to_dict(), None if generation is None else generation.to_dict())
    return state, (modes, hooks, settings, [p.requires_grad for p in model.parameters()])


def assert_unchanged(model, before):
    """The teacher is what it was."""
    state, rest = frozen(model)
    assert state.keys() == before[0].keys()
    assert all(torch.equal(value, before[0][name]) for name, value in state.items())
    assert rest == before[1]
