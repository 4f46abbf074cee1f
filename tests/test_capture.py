"""What taps capture equals what eager attention and `output_hidden_states` give, on padded batches."""

import models
import pytest
import torch
from transformers import AlbertConfig, AlbertForMaskedLM, AutoModelForMaskedLM, MPNetConfig, MPNetForMaskedLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_kd.capture import Capture, Complete
from hf_kd.losses import grouped, relation_kl
from hf_kd.records import EMBEDDINGS

FAMILIES = (*models.MASKED, *models.CAUSAL)


def batch_for(family):
    head = "causal_lm" if family in models.CAUSAL else "masked_lm"
    batch = models.collate(models.rows(6, head=head))
    batch.pop("labels")
    return batch


def captured(model, batch, selected=None, **wanted):
    capture = Capture(model, **wanted)
    capture.install()
    try:
        capture.start(selected)
        with torch.no_grad():
            outputs = model(**batch)
        return capture.take(), outputs
    finally:
        capture.remove()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_equals_eager(family, implementation):
    model = models.model(family, attn_implementation=implementation, spread=4.0).eval()
    reference = models.model(family, attn_implementation="eager", spread=4.0).eval()
    batch = batch_for(family)
    with torch.no_grad():
        plain = model(**batch).logits
        expected = reference(**batch, output_attentions=True).attentions
    for head_mean in (False, True):
        signal, outputs = captured(model, batch, attention=(1, 3), head_mean=head_mean)
        assert sorted(signal.attention) == [1, 3]
        real = batch["attention_mask"].bool()
        for layer, weights in signal.attention.items():
            wanted = expected[layer].mean(1) if head_mean else expected[layer].transpose(1, 2)
            weights = weights if head_mean else weights.transpose(1, 2)
            assert weights[real].std() > 1e-3, "a flat map would prove nothing"
            torch.testing.assert_close(weights[real], wanted[real], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(outputs.logits, plain, atol=0, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_transformers(family):
    model = models.model(family).eval()
    batch = batch_for(family)
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
    signal, _ = captured(model, batch, hidden=(EMBEDDINGS, 0, 2, 3))
    for layer, state in signal.hidden.items():
        torch.testing.assert_close(state, expected[layer + 1], atol=0, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_sees_only_selected_positions(family):
    model = models.model(family).eval()
    batch = batch_for(family)
    selected = torch.rand(batch["input_ids"].shape) < 0.3
    with torch.no_grad():
        full = model(**batch).logits
    signal, outputs = captured(model, batch, selected, hidden=(3,))
    assert outputs.logits.shape == (1, int(selected.sum()), models.VOCABULARY)
    torch.testing.assert_close(outputs.logits[0], full[selected], atol=1e-6, rtol=1e-5)
    assert signal.hidden[3].shape[:2] == batch["input_ids"].shape, "the captured state is not narrowed"
    nothing = torch.zeros_like(selected)
    assert captured(model, batch, nothing)[1].logits.shape == (1, 0, models.VOCABULARY)


@pytest.mark.parametrize("family", FAMILIES)
def test_relations_have_the_joined_widths(family):
    model = models.model(family).eval()
    signal, _ = captured(model, batch_for(family), relation=(0, 3))
    for states in signal.relation.values():
        widths = [state.shape[-1] for state in states]
        assert widths == ([16, 8, 8] if family in models.CAUSAL else [16, 16, 16])


def test_relation_states_are_the_projections_of_the_layer_input():
    model = models.model("bert").eval()
    batch = batch_for("bert")
    signal, _ = captured(model, batch, relation=(2,), hidden=(1,))
    attention = model.bert.encoder.layer[2].attention.self
    for linear, state in zip((attention.query, attention.key, attention.value), signal.relation[2], strict=True):
        torch.testing.assert_close(state, linear(signal.hidden[1]).detach())


@pytest.mark.parametrize("family", ["bert", "deberta_v2"])
def test_attention_is_taken_before_dropout(family):
    config = models.config(family)
    config.attention_probs_dropout_prob = 0.5
    model = AutoModelForMaskedLM.from_config(config)
    batch = batch_for(family)
    quiet, _ = captured(model.eval(), batch, attention=(0,))
    noisy, _ = captured(model.train(), batch, attention=(0,))
    torch.testing.assert_close(noisy.attention[0], quiet.attention[0], atol=1e-6, rtol=1e-5)


def test_scores_are_taken_before_the_softmax_and_zero_where_attention_is_not_allowed():
    model = models.model("llama", spread=4.0).eval()
    batch = batch_for("llama")
    scores = captured(model, batch, attention=(1,), head_mean=False, scores=True)[0].attention[1]
    weights = captured(model, batch, attention=(1,), head_mean=False)[0].attention[1]
    allowed = (weights > 0) & batch["attention_mask"].bool()[:, None, None, :]
    assert scores[:, :, 0, 1:].abs().max() == 0, "the future is not allowed"
    rebuilt = torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(rebuilt.transpose(1, 2)[real], weights.transpose(1, 2)[real], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_may_stop_once_all_is_captured(family):
    model, batch = models.model(family).eval(), batch_for(family)
    wanted = {"hidden": (EMBEDDINGS, 0), "attention": (1,), "relation": (1,)}
    whole, _ = captured(model, batch, **wanted)
    capture, ran = Capture(model, **wanted), []
    layers = capture._layers
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *args, index=index: ran.append(index))
    capture.install()
    capture.start(stops=True)
    with torch.no_grad(), pytest.raises(Complete):
        model.base_model(**batch)
    signal = capture.take()
    capture.remove()
    assert ran == [0], "layer 1 gave its attention before it ended"
    for name in wanted:
        torch.testing.assert_close(getattr(signal, name), getattr(whole, name), atol=0, rtol=0)


# ---- heads in groups ----


@pytest.mark.parametrize("family", ["bert", "llama", "modernbert"])
@pytest.mark.parametrize("scores", [False, True])
def test_head_means_and_their_gradients_are_those_of_all_heads_at_once(family, scores, monkeypatch):
    model, batch = models.model(family, spread=4.0).double().train(), batch_for(family)
    found = []
    for group_bytes, head_mean in ((1, True), (2 * 6 * 19 * 19 * 8, True), (2**30, False)):
        monkeypatch.setattr(grouped, "GROUP_BYTES", group_bytes)
        capture = Capture(model, attention=(1, 3), head_mean=head_mean, scores=scores)
        capture.install()
        capture.start()
        model(**batch)
        maps = [weights if head_mean else weights.mean(1) for weights in capture.take().attention.values()]
        capture.remove()
        model.zero_grad()
        sum(each.square().sum() for each in maps).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((*(each.detach() for each in maps), *gradients))
    for one in found[:2]:
        torch.testing.assert_close(one, found[2], rtol=1e-9, atol=1e-12)


def test_relations_in_groups_equal_relations_at_once(monkeypatch):
    student = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    teacher, keys = torch.randn(2, 5, 12, dtype=torch.float64), torch.ones(2, 5)
    whole = relation_kl(student, teacher, keys, relation_heads=4)
    expected = torch.autograd.grad(whole.square().sum(), student)[0]
    monkeypatch.setattr(grouped, "GROUP_BYTES", 1)
    parts = relation_kl(student, teacher, keys, relation_heads=4)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), student)[0], expected)
    assert torch.autograd.gradcheck(lambda x: relation_kl(x, teacher, keys, relation_heads=4), student)


def test_groups_are_even_and_fit():
    assert [group.stop - group.start for group in grouped.group_heads(12, grouped.GROUP_BYTES // 5)] == [4, 4, 4]
    assert grouped.group_heads(3, 2 * grouped.GROUP_BYTES) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert grouped.group_heads(8, 0) == [slice(0, 8)]


def test_the_memory_of_head_means_does_not_grow_with_heads_or_layers(monkeypatch):
    """What autograd keeps until the backward pass: in groups nothing beside the maps, at once every head's."""
    kept = {}
    for head_mean in (True, False):
        for layers in ((3,), (0, 1, 2, 3)):
            monkeypatch.setattr(grouped, "GROUP_BYTES", 1)
            model = models.model("bert", width=32, heads=16).train()
            batch = {"input_ids": torch.randint(5, 64, (4, 40))}
            capture = Capture(model, attention=layers, head_mean=head_mean)
            capture.install()
            capture.start()
            sizes = []

            def pack(tensor, sizes=sizes):
                sizes.append(tensor.shape[-2:].numel() * 4 if tensor.shape[-2:] == (40, 40) else 0)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                model(**batch)
            kept[head_mean, len(layers)] = sum(sizes)
            capture.remove()
    assert kept[True, 1] == kept[True, 4] == 0
    assert kept[False, 4] == 4 * kept[False, 1] > 0


def test_nothing_is_left_behind():
    model = models.model("bert")
    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    configs = {name: module.config for name, module in model.named_modules() if hasattr(module, "config")}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    captured(model, batch_for("bert"), hidden=(EMBEDDINGS, 1), attention=(1, 2), relation=(3,))
    assert dict(ALL_ATTENTION_FUNCTIONS.items()) == before
    assert all(module.config is configs[name] for name, module in model.named_modules() if name in configs)
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_models_that_cannot_be_tapped_are_refused():
    shape = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    albert = AlbertForMaskedLM(AlbertConfig(embedding_size=8, **shape))
    with pytest.raises(ValueError, match="no one list of 12 separate layers"):
        Capture(albert, hidden=(0,))
    mpnet = MPNetForMaskedLM(MPNetConfig(num_hidden_layers=2, **shape))
    with pytest.raises(ValueError, match="bypasses the attention interface"):
        Capture(mpnet, attention=(0,))
    with pytest.raises(ValueError, match="Use `kd_attention_values probabilities`"):
        Capture(models.model("deberta_v2"), attention=(0,), scores=True)
