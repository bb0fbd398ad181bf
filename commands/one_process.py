"""Commands that run on one process, also where torchrun starts several."""

from __future__ import annotations

import typer

__all__ = ["run_on_one_process"]


def run_on_one_process(command: str) -> None:
    """Let the first of torchrun's processes go on, saying so, and end the others without a word and an error.

    To refuse would cost a job that has waited for its turn; the result is the same with one process.
    """
    from ufbert.reporting import note
    from ufbert.system.processes import described_world

    world = described_world()
    if not world.leads:
        raise typer.Exit
    if world.size > 1:
        note(f"{command} runs on one process: this one goes on, {world.size - 1} of torchrun's {world.size} end here")
