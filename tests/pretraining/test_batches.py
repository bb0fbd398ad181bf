"""The data of a run: the same sequences with the same masks, however they are read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pretraining_runs import weights

from ufbert.pretraining.batches import BlockOrder, Masking, MicroBatch, MicroBatches
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan
from ufbert.text.corpus import TokenBlocks

BLOCKS, LENGTH, VOCABULARY = 10, 18, 50
CPU = torch.device("cpu")


def micro_batches(*, ahead: bool = False, seed: int = 0) -> MicroBatches:
    """Over ten blocks, one of special tokens alone."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (BLOCKS, LENGTH)).astype(np.uint16)
    ids[3] = 2
    masking = Masking([0, 1, 2, 3, 4], 4, VOCABULARY, 0.25)
    return MicroBatches(TokenBlocks(ids), masking, seed, CPU, ahead=ahead)


def joined(batches: list[MicroBatch]) -> tuple[torch.Tensor, torch.Tensor]:
    """(sequences, T) each."""
    return torch.cat([b.input_ids for b in batches]), torch.cat([b.labels for b in batches])


def same(first: MicroBatch, second: MicroBatch) -> bool:
    return all(torch.equal(getattr(first, n), getattr(second, n)) for n in ("input_ids", "labels", "labelled"))


def test_a_sequence_is_the_same_in_every_micro_batch() -> None:
    whole = micro_batches().read(0, 25)  # two epochs and a half
    for sizes in ([5] * 5, [1] * 25, [7, 11, 7]):
        starts = np.cumsum([0, *sizes[:-1]])
        parts = [micro_batches().read(int(start), size) for start, size in zip(starts, sizes, strict=True)]
        input_ids, labels = joined(parts)
        assert torch.equal(input_ids, whole.input_ids)
        assert torch.equal(labels, whole.labels)
    backwards = micro_batches()
    assert same(backwards.read(20, 5), micro_batches().read(20, 5))
    assert same(backwards.read(0, 25), whole)


def test_blocks_with_an_order_keep_it_in_every_epoch() -> None:
    ids = np.arange(BLOCKS * LENGTH).reshape(BLOCKS, LENGTH).astype(np.uint16)
    expected = np.concatenate([ids, ids, ids])[2:27]
    assert (BlockOrder(TokenBlocks(ids, ordered=True), seed=3).read(2, 25) == expected).all()
    shuffled = BlockOrder(TokenBlocks(ids), seed=3).read(0, 2 * BLOCKS)
    assert (shuffled[:BLOCKS] != ids).any()
    assert (shuffled[:BLOCKS] != shuffled[BLOCKS:]).any()


def test_masks_differ_between_sequences_epochs_and_seeds() -> None:
    labels = micro_batches().read(0, 2 * BLOCKS).labels != -100
    other = micro_batches(seed=1).read(0, 2 * BLOCKS).labels != -100
    assert len({tuple(row.tolist()) for row in labels}) >= 2 * BLOCKS - 1  # the block of special tokens has none
    assert not torch.equal(labels, other)


def test_predicted_positions_are_known_without_the_masks() -> None:
    batches = micro_batches()
    batch = batches.read(4, 13)
    assert batches.count_predicted(4, 13) == len(batch.labelled) == int((batch.labels != -100).sum())
    assert torch.equal(batch.labelled, (batch.labels.reshape(-1) != -100).nonzero().squeeze(1))
    assert batches.masking.positions(LENGTH) == 4
    assert len(micro_batches().read(0, BLOCKS).labelled) < BLOCKS * 4


def test_what_is_prepared_ahead_is_the_same_and_made_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    prepare = MicroBatches._prepare

    def noted(self: MicroBatches, *rest: Any) -> MicroBatch:
        threads.append(threading.current_thread().name)
        return prepare(self, *rest)

    monkeypatch.setattr(MicroBatches, "_prepare", noted)
    plain, ahead = micro_batches(), micro_batches(ahead=True)
    for start in (0, 4, 8):
        assert same(ahead.read(start, 4), plain.read(start, 4))
        ahead.announce(start + 4, 4)
        plain.announce(start + 4, 4)  # does nothing
    assert same(ahead.read(12, 3), plain.read(12, 3))  # another size than was announced
    assert same(ahead.read(12, 4), plain.read(12, 4))  # nothing is announced any more
    main = threading.current_thread().name
    # The plain ones are made here, and those that nobody announced.
    assert threads.count(main) == 5 + 3
    # The last announced one may still wait, in vain.
    assert sum(name.startswith("batches") for name in threads) in (2, 3)


def test_a_run_whose_batches_are_prepared_ahead_comes_to_the_same_weights(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(plan("plain"), plot=False)
    made_here: list[tuple[int, int]] = []
    prepare = MicroBatches._prepare

    def noted(self: MicroBatches, first: int, count: int) -> MicroBatch:
        if threading.current_thread() is threading.main_thread():
            made_here.append((first, count))
        return prepare(self, first, count)

    monkeypatch.setattr(MicroBatches, "_prepare", noted)
    monkeypatch.setattr("ufbert.pretraining.run.MicroBatches", partial(MicroBatches, ahead=True))
    pretrain(plan("ahead"), plot=False)
    assert made_here == [(0, 4)]  # all others were there when they were asked for, across the steps too
    expected, actual = weights("plain"), weights("ahead")
    assert all(torch.equal(actual[name], parameter) for name, parameter in expected.items())
