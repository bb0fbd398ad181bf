"""What a distillation has come to, for the model card and as one HTML file: `report.html` beside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from ufbert.model.card import markdown_table
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.tree_health import HEALTH_COLUMNS, health_rows, summarise_health
from ufbert.reporting import note
from ufbert.settings.distillation import DistillationSettings
from ufbert.training.display import duration
from ufbert.training.figures import can_plot
from ufbert.training.html_page import Picture, html_page, html_picture, html_table

from .active_neurons import ACTIVE_COLUMNS, ACTIVE_MEANING, active_rows
from .automatic.survey import HEADING, Survey
from .pictures import draw_pictures
from .report import ERROR_COLUMNS, LayerErrors, Measurement, error_rows
from .speed import MeasuredSpeed, expected_rows

__all__ = ["REPORT_FILE", "ClosingReport"]

REPORT_FILE = "report.html"
EXPECTED_COLUMNS = ("", "original", "student", "times as many")
SPEED_COLUMNS = ("precision", "original", "student", "as fast")


@dataclass(frozen=True)
class ClosingReport:
    """What the report shows."""

    original: UltraFastBertConfig
    student: UltraFastBertConfig
    settings: DistillationSettings
    errors: Sequence[LayerErrors]
    measurement: Measurement
    speed: MeasuredSpeed | None
    """None where nothing was timed."""
    curve: Sequence[Mapping[str, float]]
    """Of the end-to-end losses: `LossCurve.whole`."""
    steps: int
    """Of the end-to-end training."""
    seconds: float
    """Spent on the distillation, over all its sessions."""
    survey: Survey | None = None
    """By what the shapes were chosen; None where they were given."""

    def figures(self) -> dict[str, str]:
        """Measured quantity -> value, for the model card."""
        figures = self.measurement.figures()
        if self.measurement.health:
            figures["trees, on the held-out texts"] = summarise_health(self._health)
        if self.speed is not None:
            for precision, theirs, ours, times in self.speed.rows():
                figures[f"speed in {precision}, {self.speed.machine}"] = f"{ours}; original {theirs}: {times} as fast"
        if self.survey is not None:
            figures |= self.survey.figures(self.measurement.kept)
        figures["time of the distillation"] = f"{duration(self.seconds)}, {self.steps:,} end-to-end steps"
        return figures

    def markdown(self) -> str:
        """Sections of the model card."""
        parts = [f"\nThe course of the distillation: [{REPORT_FILE}]({REPORT_FILE})\n"]
        parts += [
            f"\n## {heading}\n\n{text}\n\n{markdown_table(head, rows)}" for heading, text, head, rows in self._tables()
        ]
        return "".join(parts)

    def html(self, title: str, origin: str, command: str) -> str:
        """The whole page; `origin` is a sentence on where the model comes from."""
        pictures, no_pictures = self._pictures()
        parts = [
            f"<h1>{escape(title)}</h1>",
            f'<p class="note">{escape(origin)} The model is described in <a href="README.md">README.md</a>.</p>',
            f"<pre><code>{escape(command)}</code></pre>",
            "<h2>Figures</h2>",
            html_table(("measured", "value"), self.figures().items()),
        ]
        parts += [html_picture(picture) for picture in pictures]
        if no_pictures:
            parts.append(f'<p class="note">{escape(no_pictures)}</p>')
        for heading, text, head, rows in self._tables():
            parts += [f"<h2>{escape(heading)}</h2>", f'<p class="note">{escape(text)}</p>', html_table(head, rows)]
        settings = ((name, str(value)) for name, value in asdict(self.settings).items())
        parts += ["<h2>Settings</h2>", html_table(("[distillation]", "value"), settings)]
        return html_page(title, parts)

    def _tables(self) -> list[tuple[str, str, Sequence[str], list[list[str]]]]:
        """Heading, explanation, columns and rows of each."""
        measurement = self.measurement
        tokens = measurement.tokens / max(1, measurement.texts)
        tables: list[tuple[str, str, Sequence[str], list[list[str]]]] = [
            ("Errors", f"{measurement.explanation}.", ERROR_COLUMNS, error_rows(measurement, self.errors)),
        ]
        if measurement.health:
            text = (
                f"Where {measurement.health[0]['tokens']:,} held-out tokens go; in brackets what as many give if every "
                "leaf is equally likely. A dead subtree has two leaves or more, none of them reached."
            )
            tables.append(("Tree health", text, HEALTH_COLUMNS, health_rows(self._health)))
        if measurement.active:
            tables.append(("Active neurons", ACTIVE_MEANING, ACTIVE_COLUMNS, active_rows(measurement.active)))
        text = (
            "What the sizes promise: a multiplication and an addition are two operations; norms and tables count none."
        )
        tables.append(("Expected speed", text, EXPECTED_COLUMNS, expected_rows(self.original, self.student, tokens)))
        if self.speed is not None:
            text = f"The encoders alone, as ufbert infer runs them on a CPU: {self.speed.where}."
            tables.append(("Measured speed", text, SPEED_COLUMNS, self.speed.rows()))
        if self.survey is not None:
            tables.append((HEADING, self.survey.explanation, self.survey.columns(), self.survey.rows()))
        return tables

    @property
    def _health(self) -> list[dict[str, Any]]:
        """For tables that count layers from 1: here they are counted from 0, as in the table of errors."""
        return [{**layer, "layer": layer["layer"] - 1} for layer in self.measurement.health]

    def _pictures(self) -> tuple[list[Picture], str]:
        """The pictures, or why there are none."""
        if not can_plot():
            return [], "Without pictures, as matplotlib is not there (pip install 'ufbert[plot]')."
        try:
            return draw_pictures(self.errors, self.measurement, self.curve), ""
        except Exception as error:  # noqa: BLE001  of matplotlib, its fonts: none is worth the conversion
            reason = f"No pictures in {REPORT_FILE}: {' '.join(str(error).split()) or type(error).__name__}"
            note(reason)
            return [], reason
