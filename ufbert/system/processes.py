"""Several processes that train one model, started by torchrun: who they are and what they exchange.

Gradients are summed once a step over one flat buffer, after all micro-batches, instead of by
DistributedDataParallel: a step of the recipe accumulates many micro-batches, so one exchange is all it needs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ufbert.errors import ConfigError

__all__ = ["World", "described_world", "join_world", "take_gpu"]


@dataclass(frozen=True)
class World:
    """The processes of this run."""

    rank: int = 0
    """This process; 0 reports and saves."""
    size: int = 1
    """All processes."""
    local_rank: int = 0
    """This process among those of its machine: the number of its GPU."""

    @property
    def leads(self) -> bool:
        """Whether this process reports and saves."""
        return self.rank == 0

    def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes. All are of one dtype and device."""
        parts = list(tensors)
        if self.size == 1 or not parts:
            return
        flat = torch.cat([t.reshape(-1) for t in parts])
        dist.all_reduce(flat)
        for part, total in zip(parts, flat.split([t.numel() for t in parts]), strict=True):
            part.copy_(total.view_as(part))

    def share(self, values: list[float], device: torch.device) -> list[float]:
        """Process 0's `values` in every process."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.broadcast(tensor, 0)
        return [float(v) for v in tensor]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in some process."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(float(flag), device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor.item())

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def described_world() -> World:
    """The world that torchrun describes in the environment, which nobody has joined yet."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        return World()
    return World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))


def take_gpu(world: World, device: torch.device) -> None:
    """Let each process of a machine use a GPU of its own.

    Raises `ConfigError` when there are more processes than GPUs.
    """
    if device.type != "cuda":
        return
    if world.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"{world.local_rank + 1} processes on a machine with {torch.cuda.device_count()} GPUs; "
            "give torchrun a smaller --nproc-per-node, or use --device cpu"
        )
    torch.cuda.set_device(world.local_rank)


@contextlib.contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """The world that torchrun describes in the environment; without it, this process alone.

    Raises `ConfigError` when there are more processes than GPUs.
    """
    world = described_world()
    if world.size == 1:
        yield world
        return
    take_gpu(world, device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()
