"""The sentences of a tagging run: words with the numbers of their tags.

DataRequest(task="tag", train="train.conll")  --load_tag_data-->  TagData
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ufbert.errors import DataError
from ufbert.reporting import note
from ufbert.text.bad_rows import BadRows
from ufbert.text.files import expand_paths

from .entities import OUTSIDE, mark_pieces
from .raw_labels import PLAUSIBLE_CLASSES, name_of, shown_label, whole_number
from .request import VALIDATION_FRACTION, DataRequest
from .sampling import hold_out, sampled
from .tag_files import SUPPORTED, TaggedRows, read_tagged, tag_format
from .task_data import RowSet, TrainingData
from .tasks import TAGGING

__all__ = ["TagData", "TagSplit", "load_tag_data"]


UNJOINED = ("E-", "S-", "L-", "U-")


@dataclass(frozen=True)
class TagSplit(RowSet):
    """Sentences to train or validate on."""

    words: list[list[str]]
    tags: list[npt.NDArray[np.int64]]
    """Of each sentence the number of every word's tag, (words,)."""

    def __len__(self) -> int:
        return len(self.words)

    def take(self, rows: npt.NDArray[np.int64], name: str | None = None) -> TagSplit:
        """The sentences of these numbers, in this order."""
        return TagSplit(name or self.name, self.source, [self.words[i] for i in rows], [self.tags[i] for i in rows])


@dataclass(frozen=True)
class TagData(TrainingData):
    """Everything a tagging run reads."""

    label_names: tuple[str, ...]
    train: TagSplit
    validation: tuple[TagSplit, ...]

    @property
    def pieces(self) -> bool:
        """Whether the tags mark pieces of a text; else each word is judged by itself."""
        return mark_pieces(self.label_names)

    def counts(self) -> npt.NDArray[np.int64]:
        """How often each tag occurs in training, (tags,)."""
        return np.bincount(np.concatenate(self.train.tags), minlength=len(self.label_names))


def load_tag_data(request: DataRequest, seed: int = 0) -> TagData:
    """Read what `request` asks for; `seed` draws the samples and the sentences held out.

    Raises `DataError` with `file:line` for rows that do not fit, and for data with nothing to learn.
    """
    assert request.train is not None
    notes: list[str] = []
    read = {"train": _read(request, request.train, notes)}
    if request.validation is not None:
        read["validation"] = _read(request, request.validation, notes)
    names = _names(read["train"])
    splits = {name: _numbered(name, rows, names, skip=request.skip_bad) for name, rows in read.items()}
    validation = (splits["validation"],) if "validation" in splits else ()
    data = TagData(request.name, names, TAGGING, splits["train"], validation)
    if not data.pieces:
        notes.append("the tags mark no pieces of text (no O, no B- or I-), so precision, recall and F1 are of words")
    elif any(name.startswith(UNJOINED) for name in names):
        notes.append(
            "only B- and I- are joined to whole entities by infer, as by transformers' pipeline; the tags here have E- "
            "or S-, so write them as IOB2 if whole entities are wanted there"
        )
    data = dataclasses.replace(data, notes=tuple(notes))
    if not validation:
        data = hold_out(data, request.validation_fraction or VALIDATION_FRACTION, seed)
    data = sampled(data, request, seed)
    if np.count_nonzero(data.counts()) < 2:
        (only,) = np.flatnonzero(data.counts())
        raise DataError(
            f"{data.train.source}: all words of its {len(data.train):,} training rows are tagged {names[only]!r}; "
            "tagging needs at least two tags"
        )
    return data


def _read(request: DataRequest, files: str, notes: list[str]) -> TaggedRows:
    paths = expand_paths([files], kind=tag_format, supported=SUPPORTED)
    bad = BadRows()
    rows = read_tagged(
        paths, request.text_column, request.label_column, request.reading, bad if request.skip_bad else None
    )
    if bad.count:
        note(f"{rows.source}: {bad.count:,} bad rows were skipped")
    if rows.empty:
        notes.append(f"{rows.empty:,} of {rows.empty + len(rows):,} rows of {rows.source} have no words")
    return rows


def _names(rows: TaggedRows) -> tuple[str, ...]:
    """The tags in order: the file's own, else O and the others by the alphabet (numbers by value)."""
    if rows.names:
        return rows.names
    distinct = {name_of(tag) for tags in rows.tags for tag in tags}
    words = sum(map(len, rows.words))
    if len(distinct) > max(PLAUSIBLE_CLASSES, words / 2):
        raise DataError(
            f"{rows.source}: {len(distinct):,} different tags on {words:,} words, such as "
            f"{shown_label(min(distinct))}; the tag is the last column of a line, or the --label-column of a row"
        )
    if all(whole_number(name) is not None for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct, key=lambda name: (name != OUTSIDE, name)))


def _numbered(split: str, rows: TaggedRows, names: Sequence[str], *, skip: bool) -> TagSplit:
    """Tags as positions in `names`; a tag is a name, or the number of one in the file's own list or else in `names`."""
    index = {name: i for i, name in enumerate(names)}
    own = rows.names or tuple(names)
    made = TagSplit(split, rows.source, [], [])
    bad = BadRows()
    for row, (words, tags) in enumerate(zip(rows.words, rows.tags, strict=True)):
        numbers = []
        for word, tag in zip(words, tags, strict=True):
            name = name_of(tag)
            if name not in index and (number := whole_number(name)) is not None and 0 <= number < len(own):
                name = own[number]
            if name not in index:
                known = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
                error = DataError(
                    f"{rows.where(row)}: the tag {shown_label(tag)} of {word[:40]!r} is not among the training tags "
                    f"({known}); mend or remove the row"
                )
                if not skip:
                    raise error
                bad(error)
                break
            numbers.append(index[name])
        else:
            made.words.append(words)
            made.tags.append(np.array(numbers, dtype=np.int64))
    if bad.count:
        note(f"{rows.source}: {bad.count:,} rows with unknown tags were skipped")
    if not made.words:
        raise DataError(f"{rows.source}: every row has a tag that is not among the training tags")
    return made
