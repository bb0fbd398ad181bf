"""What a quick start leaves out is there for who needs it later."""

from __future__ import annotations

import gc
import subprocess
import sys

from ufbert.system.quick_start import quick_start

STARTED = """
import gc, sys
from ufbert.system.quick_start import quick_start
with quick_start():
    import torch
    print(gc.isenabled())
finders = len(sys.meta_path)
print(gc.isenabled(), gc.get_freeze_count() > 100_000, "torch._meta_registrations" in sys.modules)
import torch.fx.experimental.proxy_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    print(tuple(torch.linalg.cholesky(torch.empty(3, 4, 4)).shape))
print(torch.compile(lambda x: torch.linalg.cholesky(x).sum(), backend="aot_eager")(torch.eye(3)).item())
print(torch._meta_registrations.linalg_cholesky_ex.__name__, finders - len(sys.meta_path))
"""


def test_a_process_that_traces_after_a_quick_start_can() -> None:
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "False",
        "True True False",
        "(3, 4, 4)",
        "3.0",
        "linalg_cholesky_ex 1",
    ]


def test_nothing_changes_where_torch_is_there_already() -> None:
    before = gc.get_freeze_count(), list(sys.meta_path), sys.modules["torch._meta_registrations"]
    with quick_start():
        assert gc.isenabled()
    assert (gc.get_freeze_count(), sys.meta_path, sys.modules["torch._meta_registrations"]) == before
