"""The frame of the command line: version, usage errors, one-line errors, interruption."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ufbert.commands import app as frame
from ufbert.errors import ConfigError, MissingExtraError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ufbert", *arguments], capture_output=True, text=True)


def test_version_and_usage() -> None:
    from ufbert import __version__

    shown = run("--version")
    assert (shown.returncode, shown.stdout) == (0, f"ufbert {__version__}\n")
    unknown = run("pretrian")
    assert unknown.returncode == 2
    assert "No such command" in unknown.stderr


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ConfigError("model.depth is\n wrong"), 1, "error: model.depth is wrong\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            MissingExtraError("matplotlib", "plot", "--plot"),
            1,
            "error: --plot needs matplotlib; install it with: pip install 'ufbert[plot]'\n",
        ),
    ],
)
def test_errors_become_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    line: str,
) -> None:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(frame, "app", fail)
    with pytest.raises(SystemExit) as end:
        frame.main(["bench"])
    assert end.value.code == code
    assert capsys.readouterr().err == line


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ConfigError("wrong")

    monkeypatch.setattr(frame, "app", fail)
    with pytest.raises(ConfigError):
        frame.main(["bench", "--debug"])


def test_no_gpu_is_one_line() -> None:
    from ufbert.errors import BackendError
    from ufbert.system.devices import choose_device

    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match="use --device cpu"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
