"""`hf-kd push`: every request may fail, nothing is lost, and no token is shown."""

import copy
import json
import pickle

import models
import pytest
from push_student import tokenizer
from test_publication import facts
from test_push import TOKEN, run
from typer.testing import CliRunner

from hf_kd import DistillationArguments, facts_file, hub, publication
from hf_kd.cli import app

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A saved student with card and facts, and with what a training run leaves beside it."""
    folder = tmp_path_factory.mktemp("hub") / "student"
    models.model(layers=1).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    publication.write(folder, facts())
    for name in ("training_args.bin", "trainer_state.json", "checkpoint-2/model.safetensors", ".cache/x", "runs/a/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("/home/amina")
    return folder


@pytest.fixture(scope="module")
def faults(student, tmp_path_factory):
    """What pushes did under every fault, and all that the process wrote."""
    home = tmp_path_factory.mktemp("home")
    done = run("push_faults.py", student, endpoint="http://127.0.0.1:9", home=home)
    assert done.returncode == 0, done.stderr[-3000:]
    written = done.stdout.encode() + done.stderr.encode()
    written += b"".join(path.read_bytes() for path in (*home.rglob("*"), *student.rglob("*")) if path.is_file())
    return json.loads(done.stdout.splitlines()[-1]), written


def test_only_what_a_reader_needs_is_uploaded(faults):
    report, _ = faults
    assert report["first"] == "pushed"
    wanted = {"README.md", "config.json", "distillation_facts.json", "model.safetensors", "tokenizer.json"}
    assert set(report["files"]) == wanted | {"tokenizer_config.json", ".gitattributes"}


def test_every_request_is_among_those_that_fail(faults):
    kinds = " ".join(request.split("/")[-1] if "PUT" not in request else "PUT" for request in faults[0]["requests"])
    assert kinds == "create validate-yaml main batch PUT verify main"


def test_after_any_fault_a_repetition_gives_the_same_content(faults):
    report, _ = faults
    assert len(report["runs"]) == len(report["requests"]) * (7 + 4), "seven kinds, four of them lasting too"
    for one in report["runs"]:
        assert one["again"] == "pushed" and one["same"], one
    assert report["before"] == report["after"], "the folder is as it was"


def test_what_passes_is_tried_again_and_what_lasts_is_said(faults):
    report, _ = faults
    for one in report["runs"]:
        kind, _, times = one["fault"].partition(" x ")
        if kind in ("429", "500", "cut", "cut obeyed") and times == "1":
            assert one["under_fault"] == "pushed", one
        if times == "1000":
            assert one["under_fault"].startswith("PublishError: ") or one["under_fault"] == "pushed", one
            assert "as it was" in one["under_fault"] or one["under_fault"] == "pushed", one
        is_storage = one["request"].startswith("PUT")  # whose addresses expire: they are asked for anew
        if (kind, times) == ("401", "1000") and not is_storage:
            assert "Run `hf auth login`" in one["under_fault"], one
        if (kind, times) == ("403", "1000") and not is_storage:
            assert "may not write to `tester/student`" in one["under_fault"], one
        if (kind, times) == ("500", "1000"):
            assert "could not be uploaded" in one["under_fault"] and "500" in one["under_fault"], one


def test_without_a_network_that_is_said(faults):
    assert "could not be uploaded to http://127.0.0.1" in faults[0]["unreachable"]
    assert "repeat the command when the network is back" in faults[0]["unreachable"]


def test_private_repositories_branches_and_wrong_names(faults):
    found = faults[0]["others"]
    assert found["private"] == found["private again"] == found["unchanged"] == found["revision"] == "pushed"
    assert found["is_private"] and found["no empty commit"] and found["branches"] == ["main", "v2"]
    assert "exists and is public, but --private was asked for" in found["public"]
    assert "may not write to `stranger/student`" in found["stranger/student"]
    assert "`not an id` is no Hub id" in found["not an id"]


def test_no_token_is_written_anywhere(faults):
    report, written = faults
    assert b"Traceback" in written and b"Attempt 1 of 2 failed" in written, "there is something to look through"
    assert TOKEN.encode() not in written


# ---- before anything is sent ----


def invoke(*words):
    found = CliRunner().invoke(app, ["push", *map(str, words)])
    assert "Traceback" not in found.output
    return found.exit_code, " ".join(found.output.split())


def test_what_is_no_student_is_refused(tmp_path):
    assert invoke(tmp_path, "a/b") == (2, f"Error: Folder `{tmp_path}` holds no config.json, so it is no saved model. "
                                          "Name the folder that the student was saved in.")  # fmt: skip
    (tmp_path / "config.json").write_text("{}")
    assert "holds no weights (*.safetensors). Save the student again." in invoke(tmp_path, "a/b")[1]


def test_offline_mode_is_named(student):
    code, output = invoke(student, "tester/student")
    assert code == 2 and "HF_HUB_OFFLINE is set, so nothing can be uploaded." in output


def test_a_file_that_holds_the_token_is_refused(student, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: TOKEN)
    (student / "notes.txt").write_text(f"remember {TOKEN}")
    try:
        code, output = invoke(student, "tester/student")
    finally:
        (student / "notes.txt").unlink()
    assert code == 2 and "File `notes.txt` holds the very token" in output and TOKEN not in output


def test_the_published_card_names_the_repository(student):
    content = hub._content(student, "tester/student", None)
    assert b'model="tester/student"' in content["README.md"]
    assert facts_file.loads(content[facts_file.FILE_NAME].decode()).repository == "tester/student"
    assert facts_file.load(student).repository is None


def test_arguments_keep_the_token_in_memory_and_out_of_their_pickle(tmp_path):
    args = DistillationArguments(output_dir=str(tmp_path), hub_token=TOKEN, use_cpu=True)
    assert TOKEN.encode() not in pickle.dumps(args) and pickle.loads(pickle.dumps(args)).hub_token is None
    assert copy.copy(args).hub_token == copy.deepcopy(args).hub_token == args.hub_token == TOKEN
    assert copy.deepcopy(args) is not args and copy.deepcopy(args).output_dir == args.output_dir
