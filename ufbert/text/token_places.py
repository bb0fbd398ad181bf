"""Where the tokens of a text lie in the rows that a model reads, whole or in overlapping parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .long_texts import TextPart

__all__ = ["best_rows", "leading_tokens"]


def leading_tokens(tokenizer: Tokenizer) -> int:
    """How many special tokens stand before a text's own."""
    special = tokenizer.encode("a").special_tokens_mask
    return special.index(0) if 0 in special else 0


def best_rows(parts: Sequence[TextPart]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of a split text, the part and the column in it that hold each token with most of the text around it.

    Both (tokens of the text,). Counted is the token's poorer side; the first of equals wins.
    """
    count = 1 + max(int(part.places.max()) for part in parts)
    best = np.full(count, -1, dtype=np.int64)
    rows, columns = np.zeros((2, count), dtype=np.int64)
    for number, part in enumerate(parts):
        own = np.flatnonzero(part.places >= 0)
        places, context = part.places[own], part.context[own]
        better = context > best[places]
        chosen = places[better]
        best[chosen], rows[chosen], columns[chosen] = context[better], number, own[better]
    return rows, columns
