"""The arithmetic of tree health, on counts that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ufbert.cmm.leaf_use import dead_subtrees, leaf_counts, tree_health


def test_leaves_are_counted_from_left_to_right() -> None:
    leaves = np.array([[3, 6], [3, 5], [6, 6]])  # of depth 2: the leaves are the nodes 3 to 6
    assert leaf_counts(leaves, 2).tolist() == [[2, 0, 0, 1], [0, 0, 1, 2]]


def test_a_dead_subtree_is_counted_once_at_its_root() -> None:
    counts = np.array([[4, 4, 0, 2, 0, 0, 0, 0]])  # dead: the right half, and the leaf left in the second quarter
    assert dead_subtrees(counts) == [1, 0, 1]
    health = tree_health(counts)
    assert (health["dead_subtrees"], health["largest_dead_subtree"]) == (1, 4)
    assert health["used_leaves"] == 3 / 8
    assert health["right_share_by_level"] == [0, 0.2, 0.6]


def test_uniform_use_is_healthy_and_one_path_is_not() -> None:
    uniform = tree_health(np.full((2, 8), 100))
    assert (uniform["used_leaves"], uniform["dead_subtrees"], uniform["largest_dead_subtree"]) == (1, 0, 0)
    assert uniform["entropy_bits"] == pytest.approx(uniform["maximum_entropy_bits"])
    assert uniform["expected_entropy_bits"] == pytest.approx(3, abs=0.02)
    assert uniform["right_share_by_level"] == [0.5, 0.5, 0.5]
    one = tree_health(np.array([[800, 0, 0, 0, 0, 0, 0, 0]]))
    assert (one["used_leaves"], one["entropy_bits"], one["dead_subtrees"]) == (1 / 8, 0, 2)
    assert one["dead_subtrees_by_level"] == [1, 1, 1]


def test_a_tree_of_one_node_has_one_leaf_and_no_subtree() -> None:
    health = tree_health(np.array([[5], [5]]))
    assert (health["used_leaves"], health["entropy_bits"], health["maximum_entropy_bits"]) == (1, 0, 0)
    assert health["right_share_by_level"] == health["dead_subtrees_by_level"] == []
