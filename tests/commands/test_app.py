"""The frame of the command line: version, usage errors, one-line errors, interruption."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_the_version_is_quick_because_nothing_heavy_is_imported() -> None:
    heavy = ("torch", "numba", "numpy", "tokenizers", "rich.progress")
    code = (
        "import sys\nfrom ufbert.commands.app import main\n"
        "try:\n    main(['--version'])\n"
        f"finally:\n    print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr == "[]\n"


def completed(words: str) -> tuple[list[str], list[str]]:
    """What bash is offered for the last of the words, and which heavy modules that took."""
    heavy = ("torch", "numba", "datasets", "numpy", "pyarrow", "transformers", "tokenizers")
    code = (
        "import sys\nfrom ufbert.commands.app import main\n"
        f"try:\n    main([])\nfinally:\n    print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    asked = {"_UFBERT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked})
    return done.stdout.split(), done.stderr.split()


def test_the_shell_completes_commands_options_and_choices() -> None:
    assert completed("ufbert ") == (["pretrain", "finetune", "convert", "infer", "bench"], ["[]"])
    assert completed("ufbert pretrain --val") == (["--validation-corpus"], ["[]"])
    assert completed("ufbert bench enc") == (["encoder"], ["[]"])


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    for option in ("--show-completion", "--install-completion"):
        command = ["bash", "-c", f"{sys.executable} -m ufbert {option}; true"]  # typer asks which shell has called it
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.stderr == ""
        assert ("_UFBERT_COMPLETE=complete_bash" if option == "--show-completion" else "bash completion") in done.stdout
    assert "_UFBERT_COMPLETE" in (tmp_path / ".bash_completions" / "ufbert.sh").read_text()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("command", ["finetune absent", "convert ./absent out", "bench --preset absent"])
def test_a_command_for_one_process_says_so_under_torchrun(
    command: str, rank: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": 4, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit) as end:
        frame.main(command.split())
    out, err = capfd.readouterr()
    name = command.partition(" ")[0]
    assert (end.value.code, out) == (1 if rank == 0 else 0, "")
    lines = err.splitlines()
    if rank == 0:
        assert lines[0] == f"{name} runs on one process: this one goes on, 3 of torchrun's 4 end here"
        assert lines[1].startswith("error: ")
        assert len(lines) == 2
    else:
        assert lines == []


def test_the_command_line_is_given_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["convert", "a b", "--trees=2", "out dir", "--depth", "1", "--corpus", "Austen, Jane.txt"]
    shown: list[str] = []
    monkeypatch.setattr("ufbert.conversion.convert_checkpoint", lambda request, *_: shown.append(request.command))
    monkeypatch.setattr(sys, "argv", ["ufbert", "--debug", *words])
    with pytest.raises(SystemExit) as end:
        frame.main()
    assert end.value.code == 0
    # As it would stand in a model card.
    assert shown == ["ufbert convert 'a b' --trees=2 'out dir' --depth 1 --corpus 'Austen, Jane.txt'"]


def test_no_gpu_is_one_line() -> None:
    from ufbert.errors import BackendError
    from ufbert.system.devices import choose_device

    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match="use --device cpu"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
