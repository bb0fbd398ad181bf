"""How well each class is told: precision, recall and F1 by class, and the confusion matrix as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ufbert.reporting import note

__all__ = ["CLASSES_FILE", "ClassFigures", "ClassReport"]

CLASSES_FILE = "classes.csv"
PICTURE = "confusion-matrix{}.png"
# Longer tables hide what else a card says; classes.csv has all.
CARD_CLASSES = 50
# Numbers in smaller cells could not be read.
NUMBERED_CLASSES = 15
NAMED_CLASSES = 60

Labels = npt.NDArray[Any]


class ClassFigures(NamedTuple):
    """A class on a validation set."""

    validation: str
    name: str
    precision: float
    """Share of the rows said to be of the class that are; 0 where there are none."""
    recall: float
    """Share of the class's rows that are found; 0 where there are none."""
    f1: float
    rows: int


class ClassReport:
    """The saved epoch's predictions on every validation set, class by class."""

    file, title = CLASSES_FILE, "Classes"
    kind, unit = "class", "rows"
    """What a line is of, and what is counted."""

    def __init__(self, names: Sequence[str], sets: dict[str, tuple[Labels, Labels]]) -> None:
        """`sets`: validation set -> (labels, predictions), (rows,) class numbers or (rows, classes) of 0 and 1."""
        self.names, self.sets = tuple(names), sets
        self.pictures: list[str] = []
        """Names of the pictures that `write` could draw."""

    @property
    def several(self) -> bool:
        """Whether there is more than one validation set."""
        return len(self.sets) > 1

    def figures(self) -> list[ClassFigures]:
        """A row for each class of each set."""
        from sklearn.metrics import precision_recall_fscore_support

        numbers = list(range(len(self.names)))
        found = []
        for split, (labels, predictions) in self.sets.items():
            columns = precision_recall_fscore_support(labels, predictions, labels=numbers, zero_division=0)
            for name, precision, recall, f1, rows in zip(self.names, *columns, strict=True):
                found.append(ClassFigures(split, name, float(precision), float(recall), float(f1), int(rows)))
        return found

    def write(self, folder: Path) -> None:
        """`classes.csv`, and a picture of each set where matplotlib is installed."""
        with (folder / self.file).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("validation", self.kind, "precision", "recall", "f1", self.unit))
            writer.writerows(self.figures())
        self.pictures = []
        self.draw(folder)

    def draw(self, folder: Path) -> None:
        """A picture of each set, unless matplotlib is missing."""
        for split, (labels, predictions) in self.sets.items():
            name = PICTURE.format(f"-{split.removeprefix('validation_')}" if self.several else "")
            try:
                draw_confusion(labels, predictions, self.names, split, folder / name)
            except ImportError:
                return
            except Exception as error:  # noqa: BLE001  of matplotlib, its fonts: none is worth the run
                (folder / name).unlink(missing_ok=True)
                note(f"note: {name} cannot be drawn: {' '.join(str(error).split()) or type(error).__name__}")
            else:
                self.pictures.append(name)

    def markdown(self) -> str:
        """The card's section."""
        head = [*(["validation"] if self.several else []), self.kind, "precision", "recall", "F1", self.unit]
        lines = [f"## {self.title}", "", f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
        figures = self.figures()
        for split, name, precision, recall, f1, rows in figures[:CARD_CLASSES]:
            first = [split.removeprefix("validation_")] if self.several else []
            cells = [*first, name.replace("|", "\\|"), f"{precision:.4f}", f"{recall:.4f}", f"{f1:.4f}", f"{rows:,}"]
            lines.append(f"| {' | '.join(cells)} |")
        rest = f"; the first {CARD_CLASSES} of {len(figures)} rows" if len(figures) > CARD_CLASSES else ""
        lines += ["", f"All figures: [{self.file}]({self.file}){rest}.", ""]
        for name in self.pictures:
            lines += [f"![Confusion matrix]({name})", ""]
        return "\n".join(lines)


def draw_confusion(labels: Labels, predictions: Labels, names: Sequence[str], title: str, file: Path) -> None:
    """Rows by true and predicted class; with several labels a row, right and wrong decisions on each label.

    Colours are shares of a row of the matrix, numbers are counts. Raises `ImportError` without matplotlib.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

    short = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    if labels.ndim == 2:
        # (classes, 2, 2): true negatives, false positives; false negatives, true positives
        counts = multilabel_confusion_matrix(labels, predictions).reshape(-1, 4)[:, [3, 2, 1, 0]]
        columns = ["found", "missed", "wrongly given", "rightly not given"]
        across, down = "", "label"
    else:
        counts = confusion_matrix(labels, predictions, labels=list(range(len(names))))
        columns, across, down = short, "predicted class", "true class"
    height, width = counts.shape
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # of a row
    numbered = max(height, width) <= NUMBERED_CLASSES
    size = 0.62 if numbered else 0.22 if max(height, width) <= NAMED_CLASSES else 0.08
    figure = Figure(figsize=(2.6 + size * width, 2.0 + size * height), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    if max(height, width) <= NAMED_CLASSES:
        plain = {"parse_math": False}  # a $ in a class's name is a dollar
        axis.set_xticks(range(width), columns, rotation=45, ha="right", rotation_mode="anchor", **plain)
        axis.set_yticks(range(height), short, **plain)
    if numbered:
        for row, column in np.ndindex(height, width):
            colour = "white" if shares[row, column] > 0.6 else "black"
            axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=8)
    axis.set_xlabel(across)
    axis.set_ylabel(down)
    axis.set_title(f"{title}: {len(labels):,} rows", fontsize=10)
    figure.colorbar(image, ax=axis, label="share of the row")
    figure.savefig(file, dpi=150, metadata={"Software": None})
