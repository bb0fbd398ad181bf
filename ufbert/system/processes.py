"""Several processes that train one model, started by torchrun: who they are and what they exchange.

Gradients are summed once a step over one flat buffer, after all micro-batches, instead of by
DistributedDataParallel: a step of the recipe accumulates many micro-batches, so one exchange is all it needs.

The processes meet at a key-value store first and join into a process group later: what one of them prepares
for all, such as a tokenised corpus, may take hours, and NCCL ends a group whose members wait for 10 minutes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ufbert.errors import BackendError, ConfigError

__all__ = ["MeetingPoint", "World", "described_world", "join_world", "take_gpu"]

# Seconds between two looks at the store, at first and at most.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
# Seconds that process 0, with whom the store goes, gives the others to see that it has failed.
FAREWELL = 5.0
FAILED, SEEN, READY = "failed", "seen", "ready"


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

    def largest(self, value: int, device: torch.device) -> int:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor.item())

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


class MeetingPoint:
    """Where the processes of a world leave each other texts before they join, waiting as long as it takes.

    For a process alone it is there and does nothing.
    """

    def __init__(self, world: World) -> None:
        """Raises `ConfigError` where the environment does not say where process 0 is, or nobody answers there."""
        self.world = world
        self.store: Any = None  # a torch.distributed.Store, a name that torch's types lack
        if world.size > 1:
            from torch.distributed.rendezvous import rendezvous

            try:
                self.store, _, _ = next(iter(rendezvous("env://")))
            except (ValueError, RuntimeError) as error:
                first_line = str(error).splitlines()[0]
                raise ConfigError(f"the {world.size} processes cannot meet: {first_line}; use torchrun") from error

    @contextlib.contextmanager
    def tell_failure(self) -> Iterator[None]:
        """An error in the block ends the others' wait too."""
        try:
            yield
        except BaseException:
            if self.store is not None:
                with contextlib.suppress(RuntimeError):  # the store may have gone first
                    self.store.set(FAILED, str(self.world.rank))
                    end = time.monotonic() + (FAREWELL if self.world.leads else 0.0)
                    while self.store.add(SEEN, 0) < self.world.size - 1 and time.monotonic() < end:
                        time.sleep(SHORTEST_PAUSE)
            raise

    def leave(self, key: str, text: str) -> None:
        """Put `text` there for the others."""
        if self.store is not None:
            self.store.set(key, text)

    def take(self, key: str) -> str:
        """The text that another process leaves. Raises `BackendError` if one has failed before it could."""
        self._wait_until(lambda: self.store.check([key]))
        text: bytes = self.store.get(key)
        return text.decode()

    def wait(self) -> None:
        """Until every process has come here; errors as of `take`."""
        if self.store is not None:
            self.store.add(READY, 1)
            self._wait_until(lambda: self.store.add(READY, 0) >= self.world.size)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        # The store's own wait is deaf to Ctrl-C and has a timeout.
        pause = SHORTEST_PAUSE
        try:
            while not condition():
                if self.store.check([FAILED]):
                    self.store.add(SEEN, 1)
                    break
                time.sleep(pause)
                pause = min(LONGEST_PAUSE, 1.5 * pause)
            else:
                return
        except RuntimeError:  # process 0, whose store it is, has gone
            pass
        raise BackendError("another process of this run has failed; its message says why")


@contextlib.contextmanager
def join_world(meeting: MeetingPoint, device: torch.device) -> Iterator[World]:
    """The process group of all who have met; for a process alone, none."""
    world = meeting.world
    if world.size == 1:
        yield world
        return
    # Here the timeout of the group begins to count.
    meeting.wait()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=meeting.store, rank=world.rank, world_size=world.size)
    try:
        yield world
    finally:
        dist.destroy_process_group()
