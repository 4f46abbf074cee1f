"""The Trainer's push, against a Hub on loopback, by the real client in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stock_helpers as stock
from hub_server import Hub, card_errors
from transformers import AutoModelForMaskedLM

import hf_kd
from hf_kd import card, facts_file

pytestmark = pytest.mark.hub
TOKEN = "hf_sentinelSentinelSentinel"
HERE = Path(__file__).parent


def run(script, *arguments, endpoint, home, cwd=None, **environment):
    """Run a script, by its name in this folder or its path, with the client pointed at `endpoint`."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(hf_kd.__file__).parents[1]), str(HERE)]),
        **environment,
    }
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """One training run with `push_to_hub`: the Hub, its report, and everything that it printed."""
    folder = tmp_path_factory.mktemp("push")
    hub = Hub(TOKEN)
    with hub.serve() as endpoint:
        words = (folder, "tester/tiny-student", json.dumps({"hub_token": TOKEN}))
        done = run("push_student.py", *words, endpoint=endpoint, home=folder / "home")
    assert done.returncode == 0, done.stderr
    return folder, hub, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_a_pushed_student_comes_back(pushed):
    _, hub, report, _ = pushed
    assert not any(report["loading"].values()), report["loading"]
    assert report["same_weights"] and report["layers"] == 1 and report["vocabulary"] == 64
    repository = hub.repositories["tester/tiny-student"]
    assert repository.branches["main"] == report["commit"] and repository.messages[-1] == "End of training"


def test_the_hub_holds_what_the_folder_holds(pushed):
    folder, hub, report, _ = pushed
    content = hub.content("tester/tiny-student")
    assert set(content) - {".gitattributes"} == set(report["folder"])
    for name in set(content) - {".gitattributes"}:
        assert content[name] == (folder / "secret-user" / "student" / name).read_bytes()


def test_the_card_passes_the_hubs_check(pushed):
    _, hub, *_ = pushed
    assert "POST /api/validate-yaml" in hub.requests
    assert card_errors(hub.content("tester/tiny-student")["README.md"].decode()) == []


def test_the_published_card_is_made_of_the_published_facts(pushed):
    _, hub, *_ = pushed
    content = hub.content("tester/tiny-student")
    facts = facts_file.loads(content[facts_file.FILE_NAME].decode())
    assert card.compose(facts).encode() == content["README.md"]
    assert facts.repository == "tester/tiny-student" and facts.command[:2] == ("python", "push_student.py")


def test_the_student_on_the_hub_measures_as_the_one_in_the_folder(pushed):
    in_folder, on_hub = pushed[2]["figures"]
    assert in_folder == on_hub and in_folder["items"] > 0


@pytest.mark.stock
@pytest.mark.skipif(stock.ENVIRONMENT not in os.environ, reason=f"needs upstream's scripts: set {stock.ENVIRONMENT}")
def test_stock_run_mlm_pushes_a_student_that_comes_back(tmp_path):
    """Two lines and `--push_to_hub`; then the student by its Hub id, and its card by the Hub's check."""
    stock.save_model(AutoModelForMaskedLM, tmp_path / "teacher")
    stock.write_metrics(tmp_path)
    script = stock.copy_script("run_mlm.py", tmp_path)
    flags = [
        *stock.write_data("run_mlm.py", tmp_path),
        *("--model_name_or_path", "teacher", "--student_num_hidden_layers", 1, "--output_dir", "saved"),
        *("--do_train", "--do_eval", "--max_steps", 2, "--max_seq_length", 32, "--use_cpu", "--push_to_hub"),
        *("--hub_model_id", "tester/stock", "--hub_token", TOKEN),
    ]
    hub = Hub(TOKEN)
    back = (
        "from transformers import AutoModelForMaskedLM\n"
        "student, loading = AutoModelForMaskedLM.from_pretrained('tester/stock', output_loading_info=True)\n"
        "assert not any(loading.values()) and student.config.num_hidden_layers == 1"
    )
    (tmp_path / "back.py").write_text(back)
    with hub.serve() as endpoint:
        for words in ((script, *flags), (tmp_path / "back.py",)):
            done = run(*words, endpoint=endpoint, home=tmp_path / "home", cwd=tmp_path)
            assert done.returncode == 0, done.stderr[-3000:]
            assert TOKEN not in done.stdout + done.stderr
    content = hub.content("tester/stock")
    assert card_errors(content["README.md"].decode()) == []
    assert not any(TOKEN.encode() in given for given in content.values())
    facts = facts_file.loads(content[facts_file.FILE_NAME].decode())
    assert facts.command[:2] == ("python", "run_mlm.py") and card.compose(facts).encode() == content["README.md"]


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_every_strategy_publishes_the_student(pushed, strategy):
    folder, hub, *_ = pushed
    repository, content = hub.repositories[f"tester/{strategy}"], hub.content(f"tester/{strategy}")
    assert repository.private and repository.messages[-1] == "End of training"
    assert any("Training in progress, step 2" in message for message in repository.messages)
    checkpoints = {path.split("/")[0] for path in content if "/" in path and not path.startswith("images/")}
    wanted = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-2", "checkpoint-4"}}
    assert checkpoints == wanted.get(strategy, set())
    assert content["model.safetensors"] == (folder / strategy / "model.safetensors").read_bytes()
    assert card.compose(facts_file.loads(content[facts_file.FILE_NAME].decode())).encode() == content["README.md"]


def test_no_token_and_no_path_is_published(pushed):
    folder, hub, _, printed = pushed
    text = printed.encode() + b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert TOKEN.encode() not in text
    for name in ("README.md", facts_file.FILE_NAME):
        content = hub.content("tester/tiny-student")[name]
        assert b"secret-user" not in content and str(folder).encode() not in content


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("# no metadata", "the card has no metadata"),
        ("---\nlanguage: [Swahili!]\n---\n", "\"language\" holds 'Swahili!'"),
        ("---\nbase_model: ./student\n---\n", "\"base_model\" holds './student'"),
        ("---\nx: [\n---\n", "the metadata is no YAML"),
        ("---\nmodel-index:\n- name: x\n  results:\n  - task: {type: x}\n---\n", "dataset.type"),
    ],
)
def test_the_hubs_check_can_fail(content, error):
    assert any(error in found for found in card_errors(content)), card_errors(content)
