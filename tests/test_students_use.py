"""What becomes of a student: it is saved, loaded, trained, compiled and exported like any model of its class."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import student_models as sm
import torch
import transformers as hf

from hf_kd import build_student
from hf_kd.plans import TrimPlan
from hf_kd.students import plan_student
from hf_kd.students.sizes import planned_sizes, sizes_of

KEPT = tuple(sorted({*range(1, 7), *range(9, 60, 2)}))
TRIM = TrimPlan(KEPT, sm.VOCABULARY, "Unigram", {"by hand": len(KEPT)}, 1.0, {}, {}, "0" * 64)
NARROW = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
CUTS = ("depth", "width", "vocabulary", "all")
EVERY = [(variant, cut) for variant in sm.VARIANTS for cut in CUTS if cut != "width" or variant in sm.ENCODERS]


def cut_out(variant, cut, head=None, **changes):
    """A teacher and a student cut from it."""
    teacher = sm.make(variant, head, **changes)
    wide = {} if variant in sm.DECODERS or cut in ("depth", "vocabulary") else NARROW
    plan = plan_student(teacher, 2 if cut in ("depth", "all") else None, layers="uniform", **wide)
    if cut in ("vocabulary", "all"):
        plan = replace(plan, trim=TRIM)
    student, plan = build_student(teacher, plan=plan)
    return teacher, student, plan


def known():
    """Rows of tokens that every student knows."""
    return sm.batch(range(7, len(KEPT)))


@pytest.mark.parametrize(("variant", "cut"), EVERY)
def test_students_are_saved_loaded_tied_and_trained(variant, cut, tmp_path):
    teacher, student, plan = cut_out(variant, cut)
    before = sm.frozen(teacher)
    expected = sm.outputs(student, known())
    sizes = sizes_of(student)
    assert sizes.total == student.num_parameters() and sizes == planned_sizes(teacher, plan)
    assert sizes.output_multiply_adds == student.get_input_embeddings().weight.numel()
    student.save_pretrained(tmp_path)
    loaded, info = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (
        loaded.state_dict().keys() == student.state_dict().keys() == type(student)(student.config).state_dict().keys()
    )
    sm.assert_same(sm.outputs(loaded, known()), expected)
    assert _settings(loaded) == _settings(student)
    ties = sum(1 for _ in student.named_parameters(remove_duplicate=False)) - sum(1 for _ in student.parameters())
    for model in (student, loaded):
        model.tie_weights()
        names = sum(1 for _ in model.named_parameters(remove_duplicate=False))
        assert names - sum(1 for _ in model.parameters()) == ties
        sm.assert_same(sm.outputs(model, known()), expected)
    _train_one_step(loaded)
    _train_one_step(student)
    sm.assert_unchanged(teacher, before)


def _settings(model):
    return {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}


def _train_one_step(model):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    rows = known()
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    loss = model(**rows, labels=labels).loss
    assert torch.isfinite(loss)
    loss.backward()
    matrices = {name: (p, p.detach().clone()) for name, p in model.named_parameters() if p.dim() > 1}
    optimizer.step()
    still = [name for name, (parameter, old) in matrices.items() if torch.equal(parameter, old)]
    assert still == [name for name in still if name.endswith("pooler.dense.weight")]
    with torch.no_grad():
        assert model(**rows, labels=labels).loss < loss


@pytest.mark.parametrize("head", ["base", "sequence_classification", "token_classification", "question_answering"])
@pytest.mark.parametrize(
    "variant", ["bert", "xlm-roberta", "distilbert", "electra", "modernbert", "deberta-conv", "qwen3"]
)
def test_task_heads_are_saved_and_loaded(variant, head, tmp_path):
    _, student, _ = cut_out(variant, "all", head)
    student.save_pretrained(tmp_path)
    loaded, info = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    sm.assert_same(sm.outputs(loaded, known()), sm.outputs(student, known()))


@pytest.mark.parametrize("variant", ["bert", "electra", "deberta-v2", "llama"])
def test_untied_students_stay_untied(variant, tmp_path):
    _, student, _ = cut_out(variant, "all", tie_word_embeddings=False)
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path)
    for model in (student, loaded):
        model.tie_weights()
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    sm.assert_same(sm.outputs(loaded, known()), sm.outputs(student, known()))


@pytest.mark.parametrize("size", [16, 32])
def test_a_head_size_of_its_own_follows_the_cut(size, tmp_path):
    """DeBERTa-v2-xlarge names its head size in the configuration."""
    teacher = sm.make("deberta-v2", hidden_size=32, attention_head_size=8)
    student, _ = build_student(teacher, hidden_size=16, num_attention_heads=4 if size == 16 else 2)
    assert student.config.attention_head_size == (4 if size == 16 else 8)
    student.save_pretrained(tmp_path)
    sm.assert_same(sm.outputs(type(student).from_pretrained(tmp_path)), sm.outputs(student))


def compiled(model, backend):
    """The model's logits when compiled."""
    torch._dynamo.reset()
    run = torch.compile(model, backend=backend)
    rows = known()
    with torch.no_grad():
        answer = run(**rows, use_cache=False) if sm.decodes(model) else run(**rows)
    return answer.logits


@pytest.mark.parametrize("variant", ["bert", "modernbert", "llama"])
def test_compiled_students_answer_the_same(variant):
    _, student, _ = cut_out(variant, "all")
    torch.testing.assert_close(compiled(student, "eager"), sm.outputs(student, known())[0], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("variant", sm.VARIANTS)
def test_students_are_compiled_in_full(variant, backend):
    _, student, _ = cut_out(variant, "all")
    torch.testing.assert_close(compiled(student, backend), sm.outputs(student, known())[0], atol=1e-5, rtol=1e-4)


class LogitsOf(torch.nn.Module):
    """A model with plain tensors in and out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        more = {"use_cache": False} if sm.decodes(self.model) else {}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **more).logits


def exported(model, path):
    """The exported model's logits, or the kind of error that exporting it raises."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime runs the exported model")
    rows = known()
    inputs = (rows["input_ids"], rows["attention_mask"])
    try:
        torch.onnx.export(LogitsOf(model).eval(), inputs, str(path), input_names=list(rows), dynamo=True, verbose=False)
    except Exception as error:  # whatever it is: a student must do what its class does
        return type(error).__name__
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in rows.items()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("variant", sm.VARIANTS)
def test_students_are_exported_as_their_class_is(variant, tmp_path):
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs it")
    _, student, _ = cut_out(variant, "all")
    plain = type(student)(student.config).eval()
    ours, theirs = exported(student, tmp_path / "student.onnx"), exported(plain, tmp_path / "plain.onnx")
    if isinstance(theirs, str):
        assert ours == theirs
        pytest.skip(f"transformers' own {type(student).__name__} cannot be exported: {theirs}")
    torch.testing.assert_close(ours, sm.outputs(student, known())[0], atol=1e-4, rtol=1e-3)


def large(**more):
    """The shape of AfroXLMR-large, without its weights."""
    config = hf.XLMRobertaConfig(
        vocab_size=250_002,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        **more,
    )
    with torch.device("meta"):
        return hf.XLMRobertaModel(config)


COMET = {"num_hidden_layers": 6, "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 1024}


def test_afroxlmr_large_becomes_comet_to_the_parameter():
    teacher = large()
    plan = plan_student(teacher, **COMET)
    assert sizes_of(teacher).total == 559_890_432
    assert planned_sizes(teacher, plan).total == 68_937_216
    kept = tuple(range(30_000))
    trim = TrimPlan(kept, 250_002, "Unigram", {"by hand": 30_000}, 1.0, {}, {}, "0" * 64)
    trimmed = planned_sizes(teacher, replace(plan, trim=trim))
    assert trimmed.total == 68_937_216 - 220_002 * 256 == 12_616_704
    assert trimmed.embedding_share == 30_000 * 256 / 12_616_704


CUT_FOR_REAL = """
import json, sys, threading, time
import torch, transformers as hf
from hf_kd import build_student
from hf_kd.students import plan_student

torch.set_num_threads(2)
def resident():
    with open("/proc/self/statm") as lines:
        return int(lines.read().split()[1]) * 4096

rule, comet = sys.argv[1], json.loads(sys.argv[2])
tiny = hf.XLMRobertaModel(hf.XLMRobertaConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=16))
build_student(tiny, 1, hidden_size=8, num_attention_heads=2, width="svd")  # what libraries load when first used
base = resident()
config = hf.XLMRobertaConfig(vocab_size=250_002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
    intermediate_size=4096, max_position_embeddings=514, type_vocab_size=1)
with torch.device("meta"):
    teacher = hf.XLMRobertaModel(config)
teacher = teacher.to_empty(device="cpu")
with torch.no_grad():
    for parameter in teacher.parameters():
        parameter.normal_(std=0.02)
teacher_bytes = resident() - base
peak, done = 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
start = time.perf_counter()
student, plan = build_student(teacher, width=rule, **comet)
seconds = time.perf_counter() - start
done = True
thread.join()
parameters = sum(p.numel() for p in teacher.parameters()), sum(p.numel() for p in student.parameters())
print(json.dumps({"seconds": seconds, "peak": peak - base, "teacher": teacher_bytes, "parameters": parameters}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["truncate", "svd"])
def test_the_real_cut_takes_little_memory_and_time(rule):
    command = [sys.executable, "-c", CUT_FOR_REAL, rule, json.dumps(COMET)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["parameters"] == [559_890_432, 68_937_216]
    assert found["seconds"] < 60
    assert found["peak"] < 1.1 * 4 * sum(found["parameters"])
