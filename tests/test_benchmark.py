"""The benchmark runs, its contenders agree, and its floor is that of a step counted by hand."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "benchmark"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_floor_counts_every_product(benchmark):
    shape = {"vocabulary": 100, "teacher": [1, 4, 2, 8], "student": [2, 2, 1, 4], "rows": 5, "tokens": 4}
    teacher = 20 * (4 * 4 * 4 + 2 * 4 * 8) + 5 * 2 * 4 * 4 * 4 + 3 * (4 * 4 + 4 * 100)
    student = 2 * (20 * (4 * 2 * 2 + 2 * 2 * 4) + 5 * 2 * 4 * 4 * 2) + 3 * (2 * 2 + 2 * 100)
    assert benchmark.step_flops(shape) == pytest.approx(2 * (teacher + 3 * student))


def test_a_contender_that_cannot_run_is_skipped_with_its_reason(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "matrix_rate", lambda threads: 1e9)
    turn = {
        "seconds": [0.5, 0.7],
        "cpu_seconds": [1.0, 1.2],
        "losses": [2.0, 1.5],
        "weights_mb": 100.0,
        "peak_mb": 130.0,
    }
    answers = {"hf_kd": turn, "textbook": turn | {"seconds": [1.2]}, "modelopt": {"reason": "ModuleNotFoundError: no"}}
    monkeypatch.setattr(benchmark, "run_contender", lambda name, *args: answers[name])
    benchmark.main(["--shape", "tiny", "--contenders", ",".join(answers), "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "modelopt                   skipped: ModuleNotFoundError: no" in shown
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert found["contenders"]["textbook"]["seconds"] / found["contenders"]["hf_kd"]["seconds"] == pytest.approx(2)
    assert found["contenders"]["hf_kd"]["above_weights_mb"] == 30
    assert (tmp_path / "tiny.png").stat().st_size > 5000


@pytest.mark.slow
def test_ours_and_the_textbook_trainer_train_alike(benchmark, tmp_path):
    names = "hf_kd,hf_kd_loop,textbook"
    settings = ["--shape", "tiny", "--rounds", "1", "--steps", "2", "--threads", "1", "--output", str(tmp_path)]
    found = benchmark.main([*settings, "--contenders", names])
    assert not found["skipped"]
    losses = [figures["losses"] for figures in found["contenders"].values()]
    assert losses[0] == pytest.approx(losses[2], rel=1e-5) and losses[1] == pytest.approx(losses[2], rel=1e-5)
