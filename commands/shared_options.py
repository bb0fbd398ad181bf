"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ufbert.settings.presets import preset_names

__all__ = ["ConfigOption", "PresetOption", "RevisionOption", "SetOption"]

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings, over those of ./ufbert.toml.")
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help=f"Ready settings, over those of ./ufbert.toml and under --config: {', '.join(preset_names())}.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting of ufbert.toml. May be repeated."),
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a checkpoint on the hub.", show_default="main")
]
