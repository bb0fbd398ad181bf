"""One input, several processes: which rows are whose under torchrun, and where their results go.

Row i of the input belongs to process i modulo their number. Each reads the whole input, which takes a small part
of the time that a model does, and writes a part file of its own. No process waits for another, so nodes may start
late, fail and be resumed alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from ufbert.system.processes import World
from ufbert.text.batching import Example

__all__ = ["own_examples", "part_path"]


def part_path(output: Path, world: World) -> Path:
    """`out-00001-of-00004.jsonl` for process 1 of 4; `output` itself for one process."""
    if world.size == 1:
        return output
    return output.with_name(f"{output.stem}-{world.rank:05}-of-{world.size:05}{output.suffix}")


def own_examples(examples: Iterator[Example], world: World) -> Iterator[Example]:
    """This process' share of all examples, in order."""
    return itertools.islice(examples, world.rank, None, world.size)
