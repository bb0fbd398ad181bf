"""The command as the user gave it, which the model card of its result repeats."""

from __future__ import annotations

import shlex

import typer

__all__ = ["command_line"]


def command_line(context: typer.Context) -> str:
    """The command with its arguments as they were given, quoted for a shell; `main` hands them over."""
    return shlex.join(["ufbert", *context.obj])
