"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ConfigOption", "RevisionOption", "SetOption"]

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings, over those of ./ufbert.toml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting of ufbert.toml. May be repeated."),
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a checkpoint on the hub.", show_default="main")
]
