"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ufbert.settings.presets import preset_names

__all__ = [
    "ConfigOption",
    "DelimiterOption",
    "EncodingOption",
    "NoHeaderOption",
    "PresetOption",
    "RevisionOption",
    "SetOption",
]

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
EncodingOption = Annotated[
    str | None,
    typer.Option(
        "--encoding", metavar="NAME", help="Encoding of text files, such as cp1252 or utf-16.", show_default="utf-8"
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(
        "--delimiter",
        metavar="CHARACTER",
        help="Between the fields of csv and tsv: a character, or comma, semicolon, tab or pipe; with it a txt file is "
        "read as csv too.",
        show_default="found out",
    ),
]
NoHeaderOption = Annotated[
    bool,
    typer.Option(
        "--no-header", help="The first row of csv and tsv is a row like others; columns are called 1, 2, 3, ..."
    ),
]
