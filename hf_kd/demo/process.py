"""The command's own process: libraries kept quiet, threads set."""

from __future__ import annotations

import datasets
import torch
import transformers


def prepare_process(threads: int | None) -> None:
    """Leave the screen to the demo and choose the number of threads. Errors and warnings of `hf_kd` still show.

    Args:
        threads: threads of one operation, or None for torch's own choice. Two threads that
            wait for each other over tiny tensors are slower than one as soon as anything
            else runs.
    """
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if threads is not None:
        torch.set_num_threads(threads)
