"""Tiny models from configurations, tokenizers from lists, ragged data: all offline, on a CPU."""

import logging
import os
from pathlib import Path

import pytest
import torch

# Read by huggingface_hub when it is first imported, which no line above does.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

torch.set_num_threads(1)  # tiny tensors: threads only cost


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real text and a real teacher; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("HF_KD_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "models" / "afro-mini").is_dir():
        pytest.skip("real teacher and text are absent: set HF_KD_SHARED to their folder")
    return folder


@pytest.fixture
def heard(caplog):
    """Messages of our own loggers and of the Trainer's."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_propagation()
    caplog.set_level(logging.INFO)
    yield lambda: "\n".join(record.getMessage() for record in caplog.records)
    transformers_logging.disable_propagation()
