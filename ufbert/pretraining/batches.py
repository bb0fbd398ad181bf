"""What a run trains on, one micro-batch after another: the order of the blocks, their masks, and their way to the GPU.

A sequence of the run has a number, counted through all epochs. Its block and its masks follow from the seed and
that number alone, so micro-batches of any size, made by any process in any order, hold the same sequences.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ufbert.model.heads import labelled_positions
from ufbert.text.corpus import TokenBlocks, epoch_order
from ufbert.text.masking import count_masked, mask_tokens, masked_positions

__all__ = ["BlockOrder", "Masking", "MicroBatch", "MicroBatches"]

# Philox gives so many numbers for one value of its counter.
NUMBERS_A_COUNT = 4
# The stream of random numbers that masks are drawn from; others of the same seed have other numbers.
MASKS = 0


class BlockOrder:
    """The blocks of a run one after another: epoch after epoch, each in its own order, or in that of the blocks."""

    def __init__(self, blocks: TokenBlocks, seed: int) -> None:
        self.blocks, self.seed = blocks, seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._lock = threading.Lock()

    def read(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """The ids of the blocks `first` to `first + count` of the run, (count, T)."""
        chosen = []
        with self._lock:
            while count:
                epoch, start = divmod(first, len(self.blocks))
                if epoch != self._epoch:
                    self._epoch, self._order = epoch, self._arrange(epoch)
                part = self._order[start : start + count]
                chosen.append(part)
                first, count = first + len(part), count - len(part)
        return self.blocks[np.concatenate(chosen)]

    def _arrange(self, epoch: int) -> npt.NDArray[np.int64]:
        if self.blocks.ordered:
            return np.arange(len(self.blocks))
        return epoch_order(len(self.blocks), epoch, self.seed)


@dataclass(frozen=True)
class Masking:
    """How sequences are masked: the arguments of `mask_tokens` that all of a run's calls share."""

    special_ids: list[int]
    mask_id: int
    vocab_size: int
    probability: float

    def apply(
        self,
        blocks: npt.NDArray[np.int64],
        *,
        rng: torch.Generator | None = None,
        draws: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """blocks (B, T) -> input_ids and labels, both (B, T), by the random numbers of `rng` or `draws`."""
        return mask_tokens(
            blocks, self.special_ids, self.mask_id, self.vocab_size, self.probability, rng=rng, draws=draws
        )

    def positions(self, length: int) -> int:
        """Positions that are predicted in a sequence without special tokens."""
        return masked_positions(self.probability, length)

    def count(self, blocks: npt.NDArray[np.int64]) -> int:
        """Positions that are predicted in blocks (B, T)."""
        return count_masked(blocks, self.special_ids, self.vocab_size, self.probability)


@dataclass(frozen=True)
class MicroBatch:
    """Masked sequences, and where in them something is to be predicted."""

    input_ids: torch.Tensor
    """(B, T)."""
    labels: torch.Tensor
    """(B, T), -100 where nothing is to be predicted."""
    labelled: torch.Tensor
    """(positions,): the other places in the flattened batch."""

    def pinned(self) -> MicroBatch:
        """In memory that a GPU reads by itself, while the CPU goes on."""
        return MicroBatch(self.input_ids.pin_memory(), self.labels.pin_memory(), self.labelled.pin_memory())

    def to(self, device: torch.device) -> MicroBatch:
        """On `device`; to a GPU from pinned memory without waiting for the copy."""
        input_ids, labels, labelled = (
            t.to(device, non_blocking=device.type == "cuda") for t in (self.input_ids, self.labels, self.labelled)
        )
        return MicroBatch(input_ids, labels, labelled)


class MicroBatches:
    """The micro-batches of a run, prepared one ahead in a thread for a GPU, which computes meanwhile."""

    def __init__(
        self, blocks: TokenBlocks, masking: Masking, seed: int, device: torch.device, *, ahead: bool | None = None
    ) -> None:
        """`ahead` prepares in a thread; by default for a GPU alone, as the CPU's cores have the model to compute."""
        self.order = BlockOrder(blocks, seed)
        self.masking, self.device = masking, device
        self.key = np.random.SeedSequence([seed, MASKS]).generate_state(2, np.uint64)
        ahead = device.type == "cuda" if ahead is None else ahead
        self._thread = ThreadPoolExecutor(1, "batches", initializer=self._use_device) if ahead else None
        self._announced: tuple[tuple[int, int], Future[MicroBatch]] | None = None

    @property
    def sequence_length(self) -> int:
        """T."""
        return self.order.blocks.sequence_length

    def count_predicted(self, first: int, count: int) -> int:
        """Positions that are predicted in `count` sequences of the run from number `first`."""
        return self.masking.count(self.order.read(first, count))

    def announce(self, first: int, count: int) -> None:
        """Begin to prepare the micro-batch that `read` will probably be asked for next."""
        if self._thread is not None:
            self._announced = (first, count), self._thread.submit(self._prepare, first, count)

    def read(self, first: int, count: int) -> MicroBatch:
        """`count` sequences of the run from number `first`, on the device."""
        announced, self._announced = self._announced, None
        if announced is not None and announced[0] == (first, count):
            prepared = announced[1].result()
        else:
            prepared = self._prepare(first, count)
        return prepared.to(self.device)

    def _use_device(self) -> None:
        """A new thread would pin memory for GPU 0, and occupy some of that."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def _prepare(self, first: int, count: int) -> MicroBatch:
        blocks, draws = self.order.read(first, count), self._draw(first, count)
        input_ids, labels = self.masking.apply(blocks, draws=draws)
        batch = MicroBatch(input_ids, labels, labelled_positions(labels))
        return batch.pinned() if self.device.type == "cuda" else batch

    def _draw(self, first: int, count: int) -> torch.Tensor:
        """Numbers uniform in [0, 1), (count, 3, T), which belong to the sequences' numbers.

        Philox computes the n-th number from the key and n, so a sequence owns a range of the counter.
        """
        length = self.sequence_length
        counts = -(-3 * length // NUMBERS_A_COUNT)
        generator = np.random.Generator(np.random.Philox(key=self.key, counter=first * counts))
        draws = generator.random((count, counts * NUMBERS_A_COUNT))[:, : 3 * length]
        return torch.from_numpy(draws.reshape(count, 3, length))
