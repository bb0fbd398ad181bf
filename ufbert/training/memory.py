"""Whether a training run fits into memory and onto the disk, told before anything is made."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from ufbert.errors import BackendError, ConfigError, OutputError
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.model.pretrained import unallocated
from ufbert.system.resources import physical_memory

__all__ = ["check_disk_space", "check_training_memory", "explain_out_of_memory", "parameter_count"]

# float32 weights, their gradients, and AdamW's two moments.
BYTES_PER_PARAMETER = 4 * 4


def parameter_count(config: UltraFastBertConfig) -> int:
    """Parameters of the masked language model, shared ones once; nothing is allocated."""
    with unallocated():
        model = UltraFastBertForMaskedLM(config)
    return sum(p.numel() for p in model.parameters())


def check_training_memory(config: UltraFastBertConfig, device: torch.device) -> None:
    """Raise `ConfigError` if weights, gradients and the optimiser's moments alone exceed the memory.

    Activations come on top, so a run that passes can still be too large for its micro-batch.
    """
    needed = BYTES_PER_PARAMETER * parameter_count(config)
    if device.type == "cuda":
        available: int | None = torch.cuda.get_device_properties(device).total_memory
        owner = "the GPU"
    else:
        available, owner = physical_memory(), "this machine"
    if available is not None and needed > available:
        raise ConfigError(
            f"training this model needs {needed / 2**30:,.1f} GiB for weights, gradients and AdamW's moments "
            f"({parameter_count(config):,} parameters), {owner} has {available / 2**30:,.1f} GiB; choose a "
            "smaller model.depth, model.trees, model.num_hidden_layers or model.hidden_size"
        )


def check_disk_space(folder: Path, config: UltraFastBertConfig, kept: int = 0) -> None:
    """Raise `OutputError` if the checkpoints of a run in `folder` cannot fit beside each other.

    A new checkpoint is complete before the old one goes; each has the weights and AdamW's two moments. Of the newest
    `kept` and the best one, if any are kept, the weights stay.
    """
    weights = 4 * parameter_count(config)
    needed = 2 * 3 * weights + (kept + 1 if kept else 0) * weights
    parent = next(p for p in folder.absolute().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise OutputError(
            f"{folder}: the run's checkpoints need {needed / 2**20:,.0f} MiB, the disk has {free / 2**20:,.0f} MiB "
            "left; free some, or choose another --out"
        )


@contextlib.contextmanager
def explain_out_of_memory(device: torch.device) -> Iterator[None]:
    """Turn the block's failure to allocate into a `BackendError` that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(device) from error
    except RuntimeError as error:
        # The CPU's allocator has no error class of its own.
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _out_of_memory(device) from error
        raise


def _out_of_memory(device: torch.device) -> BackendError:
    owner = "the GPU" if device.type == "cuda" else "this machine"
    return BackendError(
        f"{owner} has too little memory for a micro-batch; lower training.micro_batch_size or choose a smaller model"
    )
