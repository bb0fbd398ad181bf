"""What `--help` says of the settings that a command has options for."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from ufbert.settings.sections import Settings

HEAVY = ("torch", "numba", "datasets", "numpy", "pyarrow", "transformers", "sklearn", "tokenizers")


@pytest.mark.parametrize(
    ("command", "section"),
    [("convert", "distillation"), ("finetune", "finetuning"), ("infer", "inference"), ("pretrain", "training")],
)
def test_help_shows_the_defaults_of_the_settings_and_imports_nothing_heavy(command: str, section: str) -> None:
    code = (
        "import sys\nfrom ufbert.commands.app import main\n"
        f"try:\n    main([{command!r}, '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    wide = {**os.environ, "COLUMNS": "300"}  # every option on a line of its own
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wide)
    assert result.stderr.strip() == "[]"
    lines = {match[1]: line for line in result.stdout.splitlines() if (match := re.search(r"(--[a-z-]+) ", line))}
    compared = 0
    for name, default in dataclasses.asdict(getattr(Settings(), section)).items():
        option = "--" + name.replace("_", "-")
        if option not in lines or not (default or name == "seed"):  # nothing, or what stands back behind another one
            continue
        shown = re.search(r"\[default: \((.*)\)\]", lines[option])
        assert shown is not None, option
        assert (shown[1] == "yes") is default if isinstance(default, bool) else type(default)(shown[1]) == default
        compared += 1
    assert compared >= 3
    assert "Default: " not in result.stdout
