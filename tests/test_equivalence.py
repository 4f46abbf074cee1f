"""One run, however split: the same loss, the same gradient, the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each case on 32 rows at once: what every split must reproduce."""
    made = {}

    def get(case):
        if case not in made:
            trainer = runs.train(tmp_path_factory.mktemp(case), case)
            made[case] = runs.steps(trainer), runs.weights(trainer), trainer.evaluate()["eval_loss"]
        return made[case]

    return get


@pytest.mark.parametrize("case", runs.CASES)
@pytest.mark.parametrize("accumulate", [4, 8])
def test_accumulated_batches_equal_one_batch(case, accumulate, whole, tmp_path):
    trainer = runs.train(tmp_path, case, batch=32 // accumulate, accumulate=accumulate)
    steps, weights, _ = whole(case)
    assert runs.close(runs.steps(trainer), steps)
    assert runs.weights(trainer) == pytest.approx(weights, rel=1e-9)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_two_processes_equal_one(accumulate, whole, tmp_path):
    cases = [case for case in runs.CASES]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    worker = [str(root / "tests" / "runs.py"), str(tmp_path), ",".join(cases), str(16 // accumulate), str(accumulate)]
    done = subprocess.run(launch + worker, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for case in cases:
        steps, weights, eval_loss = whole(case)
        for rank in ranks:
            assert runs.close(rank[case]["steps"], steps)
            assert rank[case]["weights"] == pytest.approx(weights, rel=1e-9)
        # Trainer averages evaluation batches, whose label counts differ between the two splits.
        assert rank[case]["eval_loss"] == pytest.approx(eval_loss, rel=0.05)


def test_terms_sum_to_the_loss(whole):
    for case in ("every_term", "all_positions", "answers"):
        for entry in whole(case)[0]:
            terms = [value for name, value in entry.items() if name.startswith("kd_")]
            assert len(terms) > 1
            assert sum(terms) == pytest.approx(entry["loss"], rel=1e-5)


def test_the_stock_trainer_would_fail_this(monkeypatch, tmp_path, whole):
    """The check can fail: without our scaling the accumulated loss is four times too large."""
    monkeypatch.setattr("hf_kd.trainer.ignores_item_count", lambda model: False)
    trainer = runs.train(tmp_path, "no_teacher", batch=8, accumulate=4)
    ratio = runs.steps(trainer)[0]["loss"] / whole("no_teacher")[0][0]["loss"]
    assert ratio == pytest.approx(4, rel=0.1)
