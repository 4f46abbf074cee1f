"""Models and settings that do not fit are refused before training; those that do, train rightly."""

from types import SimpleNamespace

import datasets
import models
import pytest
import runs
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from transformers.trainer_utils import HPSearchBackend

from hf_kd import DistillationArguments, DistillationTrainer
from hf_kd.capture import Capture
from hf_kd.projections import FILE_NAME

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}


def arguments(folder, **more):
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "max_steps": 2}
    return DistillationArguments(output_dir=str(folder), logging_steps=1, **{**quiet, **more})


def pair(folder, student, teacher, head="masked_lm", rows=None, trainer_kwargs=None, **more):
    return DistillationTrainer(
        student,
        arguments(folder, **more),
        models.collate,
        models.rows(8, head=head) if rows is None else rows,
        teacher=teacher,
        **(trainer_kwargs or {}),
    )


# ---- architectures ----


def test_soft_capped_attention_equals_eager():
    config = hf.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=4, attn_logit_softcapping=2.0, pad_token_id=1)
    torch.manual_seed(0)
    model = hf.Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    batch = models.collate(models.rows(4, head="causal_lm"))
    batch.pop("labels")
    capture = Capture(model, attention=(0, 1), head_mean=False)
    capture.probe(narrows_head=True)
    capture.install()
    capture.start()
    with torch.no_grad():
        model(**batch)
        found = capture.take().attention
        capture.remove()
        expected = model(**batch, output_attentions=True).attentions
    real = batch["attention_mask"].bool()
    for layer, weights in found.items():
        one, other = weights.transpose(1, 2)[real], expected[layer].transpose(1, 2)[real]
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_attention_sinks_are_refused():
    config = hf.GptOssConfig(
        **SMALL, num_key_value_heads=2, head_dim=4, num_local_experts=2, num_experts_per_tok=2, pad_token_id=1
    )
    model = hf.GptOssForCausalLM._from_config(config, attn_implementation="eager")
    with pytest.raises(ValueError, match="changes its attention by s_aux, which cannot be captured"):
        Capture(model, attention=(1,)).probe(narrows_head=True)


def test_attention_that_its_query_and_key_do_not_explain_is_refused(monkeypatch):
    model = models.model("bert")
    monkeypatch.setattr("hf_kd.capture.allowed_pairs", lambda *args: None)
    monkeypatch.setattr(Capture, "_attention_map", lambda self, *args: torch.full((1, 4, 4, 4), 0.25) + 0.1)
    with pytest.raises(ValueError, match="is not what its query, key and mask say"):
        Capture(model, attention=(1,)).probe(narrows_head=True)


@pytest.mark.parametrize(
    ("model", "wanted", "message"),
    [
        (
            lambda: hf.XLMWithLMHeadModel(hf.XLMConfig(n_words=64, emb_dim=16, n_layers=2, n_heads=2)),
            {"hidden": (0,)},
            "no one list",
        ),
        (
            lambda: hf.OPTForCausalLM(hf.OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=16)),
            {},
            "cannot be captured|does not show",
        ),
        (
            lambda: hf.DebertaForMaskedLM(hf.DebertaConfig(**SMALL, pad_token_id=1)),
            {"relation": (0,)},
            "DebertaForMaskedLM` cannot be captured: on four tokens it failed with AttributeError",
        ),
    ],
    ids=["xlm", "opt", "deberta"],
)
def test_models_that_the_taps_do_not_fit_are_refused(model, wanted, message):
    made = model()
    with pytest.raises(ValueError, match=message):
        Capture(made, **wanted).probe(narrows_head=True)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())


def test_convolution_after_the_first_layer_of_deberta_is_part_of_its_hidden_state():
    config = models.config("deberta_v2", layers=3)
    config.conv_kernel_size = 3
    model = hf.DebertaV2ForMaskedLM(config).eval()
    batch = models.collate(models.rows(4))
    batch.pop("labels")
    capture = Capture(model, hidden=(0,))
    capture.install()
    capture.start()
    with torch.no_grad():
        model(**batch)
        found = capture.take().hidden[0]
        capture.remove()
        expected = model(**batch, output_hidden_states=True).hidden_states[1]
    assert torch.equal(found, expected)


def test_heads_with_losses_of_their_own_are_refused(tmp_path):
    xlnet = hf.XLNetLMHeadModel(hf.XLNetConfig(vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=16))
    with pytest.raises(ValueError, match="`XLNetLMHeadModel` has a head that `hf_kd` cannot distil"):
        pair(tmp_path, xlnet, models.model("llama"))
    config = hf.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=2, output_router_logits=True)
    with pytest.raises(ValueError, match="`output_router_logits`, whose balancing loss"):
        pair(tmp_path, hf.MixtralForCausalLM(config), models.model("llama"), "causal_lm")


# ---- settings ----


def test_a_layer_map_that_leaves_a_term_no_layer_is_refused(tmp_path):
    more = {"kd_attention_weight": 1.0, "kd_layer_map": "embeddings"}
    with pytest.raises(
        ValueError, match="The layer map of the attention term is 'embeddings', which leaves it no layer"
    ):
        pair(tmp_path, models.model("bert"), models.model("bert", seed=1), **more)


def test_fractional_labels_need_mse(tmp_path):
    rows = models.rows(8, head="sequence_classification")

    def collate(batch):
        return models.collate(batch) | {"labels": torch.tensor([[0.0, 1.0, 1.0]] * len(batch))}

    students = [models.model("bert", "sequence_classification", seed=s, num_labels=3) for s in (1, 2)]
    with pytest.raises(ValueError, match="The labels are fractions"):
        DistillationTrainer(students[0], arguments(tmp_path), collate, rows, teacher=students[1]).train()
    args = arguments(tmp_path, kd_recipe="privileged")
    DistillationTrainer(students[0], args, collate, rows, teacher=students[1]).train()


def test_a_build_student_needs_an_optimizer_of_its_own(tmp_path):
    model = models.model("bert")
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    with pytest.raises(ValueError, match="holds the parameters of the model given, which becomes the teacher"):
        pair(tmp_path, model, None, trainer_kwargs={"optimizers": optimizers}, student_num_hidden_layers=2)


def test_a_trial_of_a_search_trains_on_its_own_settings(tmp_path):
    run = pair(
        tmp_path,
        None,
        models.model("bert", seed=1),
        trainer_kwargs={"model_init": lambda: models.model("bert", seed=2)},
    )
    run.hp_search_backend = HPSearchBackend.OPTUNA
    run.hp_name = None
    for temperature in (3.0, 7.0):
        run.hp_space = lambda trial, temperature=temperature: {"kd_temperature": temperature}
        run._hp_search_setup(SimpleNamespace(params={}))
        assert run.distillation.objective.temperature == temperature
    run.hp_space = lambda trial: {"kd_temperature": -1.0}
    with pytest.raises(ValueError, match="`kd_temperature` is -1.0"):
        run._hp_search_setup(SimpleNamespace(params={}))


# ---- what each model reads ----


def test_the_teacher_reads_segments_that_the_student_lacks(tmp_path):
    rows = [{**row, "token_type_ids": [1] * len(row["input_ids"])} for row in models.rows(8)]

    def collate(batch):
        made = models.collate(batch)
        assert "token_type_ids" in made, "the Trainer would drop the column"
        return made

    teacher = models.model("bert", seed=1, spread=3.0)
    seen = []
    teacher.bert.embeddings.token_type_embeddings.register_forward_hook(lambda module, args, out: seen.append(args[0]))

    run = DistillationTrainer(
        models.model("distilbert"),
        arguments(tmp_path),
        collate,
        datasets.Dataset.from_list(rows),
        rows,
        teacher=teacher,
    )
    seen.clear()
    run.train()
    assert seen and all(ids.max() == 1 for ids in seen)
    assert run.evaluate()["eval_loss"] > 0


def test_an_adapter_on_the_output_layer_learns(tmp_path):
    """The head runs as a module: a loss that read its weight would pass the adapter by."""
    student = get_peft_model(models.model("bert", seed=2), LoraConfig(r=2, target_modules=["decoder"]))
    pair(tmp_path, student, models.model("bert", seed=1)).train()
    adapters = [parameter for name, parameter in student.named_parameters() if "decoder.lora_B" in name]
    assert adapters and all(parameter.abs().max() > 0 for parameter in adapters)


def test_frozen_lower_layers_are_no_checkpointing(tmp_path):
    student = get_peft_model(models.model("bert", seed=2), LoraConfig(r=2, target_modules=["query"]))
    pair(tmp_path, student, models.model("bert", seed=1), kd_recipe="tinybert").train()
    frozen = models.model("bert", seed=2)
    frozen.bert.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing that can be trained lies below the student layers"):
        pair(tmp_path, frozen, models.model("bert", seed=1), kd_recipe="minilmv2").train()


def test_a_checkpoint_with_projections_is_refused_by_a_run_without(tmp_path):
    more = {"save_strategy": "steps", "save_steps": 1, "double": False}
    runs.train(tmp_path, steps=2, **more)
    (tmp_path / "checkpoint-1" / FILE_NAME).rename(tmp_path / FILE_NAME)
    runs.train(tmp_path / "plain", "tokens", steps=2, **more)
    (tmp_path / FILE_NAME).rename(tmp_path / "plain" / "checkpoint-1" / FILE_NAME)
    with pytest.raises(ValueError, match="but this run trains no projections"):
        runs.train(tmp_path / "plain", "tokens", steps=2, resume=str(tmp_path / "plain" / "checkpoint-1"), **more)


def test_two_captures_may_share_a_model():
    """Whichever is taken out first, the model runs on."""
    teacher = models.model("bert").eval()
    one, other = Capture(teacher, attention=(0,)), Capture(teacher, attention=(0,))
    one.install()
    other.install()
    one.remove()
    batch = models.collate(models.rows(2))
    with torch.no_grad():
        teacher(**batch)
    other.remove()
    with torch.no_grad():
        teacher(**batch)
