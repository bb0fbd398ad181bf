"""Counts and numbering of the trees, and the plain descent that defines the walk."""

from __future__ import annotations

import numpy as np
import pytest

from ufbert import FFF
from ufbert.cmm import tree
from ufbert.cmm.tree import check_shape, descend, leaf_count, node_count, path_to, visited_count
from ufbert.errors import ConfigError


def test_counts_are_the_papers() -> None:
    assert (node_count(11), leaf_count(11), visited_count(11)) == (4095, 2048, 12)
    assert (node_count(15), visited_count(15)) == (65535, 16)
    assert node_count(0) == leaf_count(0) == visited_count(0) == 1


def test_path_runs_from_the_root_to_the_leaf() -> None:
    assert path_to(9, 3) == [0, 1, 4, 9]
    assert path_to(0, 0) == [0]


def test_descent_by_hand() -> None:
    # One tree of depth 1 on one feature: the root sees x, the left child -x, the right child 2x.
    w_in = np.array([[[1.0], [-1.0], [2.0]]])
    w_out = np.array([[[1.0], [10.0], [100.0]]])
    y, logits, leaves = descend(np.array([[1.0], [-1.0], [0.0]]), w_in, np.zeros((1, 3)), w_out)
    assert leaves[:, 0].tolist() == [2, 1, 1]  # the tie at 0 goes left
    assert logits[:, 0].tolist() == [[1.0, 2.0], [-1.0, 1.0], [0.0, -0.0]]
    gelu_1, gelu_2 = 0.8413447460685429, 1.9544997361036416
    assert y[:, 0] == pytest.approx([gelu_1 + 100 * gelu_2, gelu_1 - 1.0 + 10 * gelu_1, 0.0])


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((8, 1, -1), "depth must be a whole number of at least 0"),
        ((8, 0, 1), "trees must be a whole number of at least 1"),
        ((0, 1, 1), "hidden_size must be a whole number of at least 1"),
        ((8, 1, 60), "the largest depth is 31"),
        ((4096, 1, 28), "choose a smaller depth"),
    ],
)
def test_impossible_shapes_are_refused(shape: tuple[int, int, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        check_shape(*shape)


def test_a_layer_may_take_all_memory_and_not_a_byte_more(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(4 * p.numel() for p in FFF(5, 3, 2).parameters())
    for available in (needed, None):  # None: a system that does not say
        monkeypatch.setattr(tree, "physical_memory", lambda available=available: available)
        check_shape(5, 3, 2)
    monkeypatch.setattr(tree, "physical_memory", lambda: needed - 1)
    with pytest.raises(ConfigError):
        check_shape(5, 3, 2)
    monkeypatch.setattr(tree, "physical_memory", lambda: 8 << 30)
    with pytest.raises(ConfigError) as error:
        check_shape(1024, 4, 20)  # 2 * 4 * 2^21 * 1024 * 4 bytes, less one row, and the biases
    assert str(error.value) == (
        "depth 20 with 4 trees and hidden_size 1024 needs 64 GiB for one layer's weights, this machine has 8 GiB; "
        "choose a smaller depth"
    )
