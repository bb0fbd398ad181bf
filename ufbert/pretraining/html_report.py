"""`report.html`: a run for a person to read, in one file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ufbert.model.tree_health import HEALTH_COLUMNS, health_rows
from ufbert.settings.sections import Settings
from ufbert.settings.toml import settings_to_dict

from .kept_checkpoints import KEPT_FOLDER, KeptCheckpoints, kept_rows
from .mask_examples import FilledMask
from .run_pictures import Picture
from .state import TrainingState

__all__ = ["REPORT_FILE", "RunReport"]

REPORT_FILE = "report.html"
# The sections that a run of pretraining reads.
SECTIONS = ("training", "model", "data")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .6rem 0; } caption { text-align: left; color: #555; }
th, td { text-align: left; vertical-align: top; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid #eee; }
td { font-variant-numeric: tabular-nums; } img { max-width: 100%; } figure { margin: .5rem 0; }
figcaption, .note { color: #555; font-size: .92em; } summary { cursor: pointer; } code { font-size: .95em; }
"""


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
            _table(("measured", "value"), self.figures.items()),
        ]
        for heading, caption, png in self.pictures:
            data = base64.b64encode(png).decode()
            parts.append(
                f'<h2>{escape(heading)}</h2><figure><img alt="{escape(heading)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        if not self.pictures and self.no_pictures:
            parts.append(f'<p class="note">{escape(self.no_pictures)}</p>')
        if state.tree_health:
            parts += [
                "<h2>Tree health</h2>",
                f'<p class="note">Where {state.tree_health[0]["tokens"]:,} held-out tokens go, after step '
                f"{state.measured_step:,}; in brackets what as many give if every leaf is equally likely. A dead "
                "subtree has two leaves or more, none of them reached.</p>",
                _table(HEALTH_COLUMNS, health_rows(state.tree_health)),
            ]
        if self.examples:
            rows = [
                (example.sentence, ", ".join(f"{token} {100 * share:.0f} %" for token, share in example.candidates))
                for example in self.examples
            ]
            parts += ["<h2>The model fills masks</h2>", _table(("sentence", "likeliest tokens"), rows)]
        if self.kept.newest:
            head = ("folder", "step", "held-out loss")
            note = f'<p class="note">In <code>{KEPT_FOLDER}/</code>, without the optimiser.</p>'
            parts += ["<h2>Kept checkpoints</h2>", note, _table(head, kept_rows(self.kept))]
        parts.append("<h2>Settings</h2>")
        values = settings_to_dict(self.settings)
        for section in SECTIONS:
            table = _table(("setting", "value"), ((key, _text(value)) for key, value in values[section].items()))
            opened = " open" if section == "training" else ""
            parts.append(f"<details{opened}><summary><code>[{section}]</code></summary>{table}</details>")
        body = "\n".join(parts)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(self.title)}</title>\n'
            f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<tr>{cells}</tr>\n{lines}\n</table>"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
