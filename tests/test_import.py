"""`import hf_kd` is light, and its names are found on first use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_kd

HEAVY = ("torch", "transformers", "transformers.trainer", "numpy")


def loaded_by(code, root=Path(hf_kd.__file__).parents[1]):
    """Which of the heavy modules a fresh interpreter holds after this code, `hf_kd` taken from `root`."""
    check = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_loads_nothing_heavy():
    assert loaded_by("import hf_kd") == []
    assert loaded_by("from hf_kd import RECIPES, __version__\ndir(RECIPES)") == []


def test_the_check_can_fail(tmp_path):
    (tmp_path / "hf_kd").mkdir()
    source = Path(hf_kd.__file__).read_text(encoding="utf-8")
    (tmp_path / "hf_kd" / "__init__.py").write_text(f"{source}\nimport numpy\n", encoding="utf-8")
    assert loaded_by("import hf_kd", tmp_path) == ["numpy"]


def test_public_names_resolve():
    namespace = {}
    exec("from hf_kd import *", namespace)
    assert set(hf_kd.__all__) <= set(namespace)
    for name in hf_kd.__all__:
        value = getattr(hf_kd, name)
        assert value is namespace[name]
        assert not callable(value) or value.__name__ == name


def test_import_lines_of_the_docstring_work():
    lines = [line.strip() for line in hf_kd.__doc__.splitlines() if line.strip().startswith("from hf_kd import")]
    namespace = {}
    exec("\n".join(lines), namespace)
    assert (namespace["Trainer"], namespace["TrainingArguments"]) == (
        hf_kd.DistillationTrainer,
        hf_kd.DistillationArguments,
    )


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="^module 'hf_kd' has no attribute 'DistilationTrainer'$"):
        hf_kd.DistilationTrainer
    assert not hasattr(hf_kd, "Trainer")
    with pytest.raises(ImportError):
        exec("from hf_kd import Trainer")


def test_dir_lists_public_names():
    assert set(hf_kd.__all__) <= set(dir(hf_kd))
    assert dir(hf_kd) == sorted(dir(hf_kd))
