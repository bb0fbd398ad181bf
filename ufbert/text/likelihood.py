"""The order of blocks by how likely their tokens are: common words first, as a curriculum.

Geiping & Goldstein 2022, "Cramming" (arXiv 2212.14034, section 4.4): sequences are sorted by the average unigram
prevalence of their tokens, likely ones first; what a short run never reaches is then the unlikeliest text. Their
code offers the opposite direction too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["likelihood_order", "sort_blocks"]

CHUNK_IDS = 1 << 22
# Logarithms are added up as whole numbers of this fraction, so that no two machines round sums to other orders.
STEPS_A_BIT = 1 << 20


def likelihood_order(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The numbers of the blocks in `ids` (blocks, T), from the highest mean unigram log-likelihood to the lowest.

    A token's likelihood is its share of all ids here. Equally likely blocks stay in their order. Takes some
    30 bytes of memory for a block, whatever T.
    """
    blocks, length = ids.shape
    rows = max(1, CHUNK_IDS // length)
    chunks = [slice(start, start + rows) for start in range(0, blocks, rows)]
    counts = np.zeros(1, np.int64)
    for chunk in chunks:
        found = np.bincount(ids[chunk].reshape(-1))
        counts.resize(max(len(counts), len(found)), refcheck=False)
        counts[: len(found)] += found
    # All blocks have T tokens of the same corpus, so sums of log counts order them as mean log-likelihoods do.
    scores = np.rint(np.log2(np.maximum(counts, 1)) * STEPS_A_BIT).astype(np.int64)
    sums = np.concatenate([scores[ids[chunk]].sum(axis=1) for chunk in chunks])
    return np.argsort(-sums, kind="stable")


def sort_blocks(file: Path, blocks: int, *, dtype: Any, length: int) -> None:
    """Rewrite a file of `blocks` blocks of `length` ids in their `likelihood_order`."""
    ids = np.memmap(file, dtype, "r", shape=(blocks, length))
    order = likelihood_order(ids)
    rows = max(1, CHUNK_IDS // length)
    result = file.with_suffix(".sorted")
    with result.open("wb") as output:
        for start in range(0, blocks, rows):
            output.write(ids[order[start : start + rows]].tobytes())
    del ids
    result.replace(file)
