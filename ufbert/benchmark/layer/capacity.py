"""What fits into memory: layers of a cycle, and the copies that an implementation makes for itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.system.resources import available_memory, physical_memory

from .dense import DENSE
from .implementations import Implementation
from .operands import Weights, operand_dtype

__all__ = ["affordable_layers", "check_memory"]

# Of the free memory, for an implementation's own copies of weights.
USABLE_SHARE = 0.9


def affordable_layers(settings: BenchmarkSettings, device: torch.device) -> int:
    """The layers to cycle through: as many as asked for, or as fit into half of the memory."""
    shape = settings.shape
    item = max(operand_dtype(name).itemsize for name in settings.dtypes)
    timed = (i for i in DENSE if device.type in i.devices and device.type in i.default_on)
    copies = 1 + sum(implementation.copies for implementation in timed)
    one = 2 * shape.hidden_size * item * (copies * shape.intermediate_size + shape.neurons_available)
    if device.type == "cuda":
        memory: int | None = torch.cuda.mem_get_info(device)[1]
    else:
        memory = physical_memory()
    return settings.layers if memory is None else max(1, min(settings.layers, int(memory / 2 / one)))


def check_memory(
    implementation: Implementation, weights: Sequence[Weights], tokens: int, direction: str, device: torch.device
) -> None:
    """Raise MemoryError if the implementation's own copies would not fit.

    An allocation beyond the memory does not fail on the CPU; the system ends a process later.
    """
    free = available_memory()
    if device.type != "cpu" or free is None:
        return
    needed = implementation.copies * sum(w.nbytes for w in weights)
    if implementation.gathers:
        trees, nodes, hidden = weights[0].w_in.shape
        levels = 2 * nodes.bit_length() if direction == "training" else 2
        needed += levels * tokens * trees * hidden * weights[0].w_in.itemsize
    if needed > USABLE_SHARE * free:
        raise MemoryError(f"its copies of weights take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")
