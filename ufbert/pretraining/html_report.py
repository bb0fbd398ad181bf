"""`report.html`: a run for a person to read, in one file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ufbert.model.tree_health import HEALTH_COLUMNS, health_rows
from ufbert.settings.sections import Settings
from ufbert.settings.toml import settings_to_dict
from ufbert.training.html_page import html_page, html_picture, html_table

from .kept_checkpoints import KEPT_FOLDER, KeptCheckpoints, kept_rows
from .mask_examples import FilledMask
from .run_pictures import Picture
from .state import TrainingState

__all__ = ["REPORT_FILE", "RunReport"]

REPORT_FILE = "report.html"
# The sections that a run of pretraining reads.
SECTIONS = ("training", "model", "data")


@dataclass(frozen=True)
class RunReport:
    """What the report shows."""

    title: str
    settings: Settings
    state: TrainingState
    figures: dict[str, str]
    """Measured quantity -> value with its unit."""
    pictures: Sequence[Picture]
    no_pictures: str
    """Why there are none, where that is so."""
    examples: Sequence[FilledMask]
    kept: KeptCheckpoints

    def html(self) -> str:
        """The whole page."""
        state = self.state
        standing = "complete" if state.complete else "not at its end"
        parts = [
            f"<h1>{escape(self.title)}</h1>",
            f'<p class="note">A pretraining run of ufbert, {standing}, after step {state.steps:,}. '
            'Every step is in <a href="metrics.jsonl">metrics.jsonl</a>, the model in <a href="README.md">README.md</a>'
            ".</p>",
            "<h2>Figures</h2>",
            html_table(("measured", "value"), self.figures.items()),
        ]
        parts += [html_picture(picture) for picture in self.pictures]
        if not self.pictures and self.no_pictures:
            parts.append(f'<p class="note">{escape(self.no_pictures)}</p>')
        if state.tree_health:
            parts += [
                "<h2>Tree health</h2>",
                f'<p class="note">Where {state.tree_health[0]["tokens"]:,} held-out tokens go, after step '
                f"{state.measured_step:,}; in brackets what as many give if every leaf is equally likely. A dead "
                "subtree has two leaves or more, none of them reached.</p>",
                html_table(HEALTH_COLUMNS, health_rows(state.tree_health)),
            ]
        if self.examples:
            rows = [
                (example.sentence, ", ".join(f"{token} {100 * share:.0f} %" for token, share in example.candidates))
                for example in self.examples
            ]
            parts += ["<h2>The model fills masks</h2>", html_table(("sentence", "likeliest tokens"), rows)]
        if self.kept.newest:
            head = ("folder", "step", "held-out loss")
            note = f'<p class="note">In <code>{KEPT_FOLDER}/</code>, without the optimiser.</p>'
            parts += ["<h2>Kept checkpoints</h2>", note, html_table(head, kept_rows(self.kept))]
        parts.append("<h2>Settings</h2>")
        values = settings_to_dict(self.settings)
        for section in SECTIONS:
            table = html_table(("setting", "value"), ((key, _text(value)) for key, value in values[section].items()))
            opened = " open" if section == "training" else ""
            parts.append(f"<details{opened}><summary><code>[{section}]</code></summary>{table}</details>")
        return html_page(self.title, parts)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
