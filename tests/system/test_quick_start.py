"""The garbage collector rests while a command imports, and collects again afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

from ufbert.system.quick_start import quick_start

STARTED = """
import gc
from ufbert.system.quick_start import quick_start
with quick_start():
    import torch
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


def test_the_collector_rests_during_the_imports_and_forgets_what_they_made() -> None:
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "True True"]


def test_nothing_changes_where_torch_is_there_already() -> None:
    before = gc.get_freeze_count()
    with quick_start():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
