"""Compiled kernels on disk: never those of another state of the source, and no fault where they cannot be kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config

from ufbert.numba_kernels import kernel_cache

ROOT = Path(__file__).resolve().parent.parent.parent
# The smallest kernel that calls one of another file: GELU of 2 at the root, where it is the only node.
KEEP_PATHS = """
import numpy as np
from ufbert.numba_kernels import keep_paths
logits = np.full((1, 1, 1), 2.0)
keep_paths(logits, None, None)
print(round(float(logits[0, 0, 0]), 3))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the package in it, to be edited."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ufbert", tmp_path / "site" / "ufbert", ignore=ignored)
    return tmp_path / "site"


def run(site: Path, *arguments: object, **environment: str) -> tuple[str, list[str]]:
    """Standard output and the lines of standard error of a run of Python on the package in `site`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    inherited |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=inherited, cwd=site.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.splitlines()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, list[str]]]:
    """A cache between the folders of earlier versions, and what the first run said, which found only those."""
    folder = tmp_path_factory.mktemp("filled")
    shutil.copytree(ROOT / "ufbert", folder / "site" / "ufbert", ignore=shutil.ignore_patterns("__pycache__"))
    kernels = folder / "cache" / "ufbert" / "kernels"
    for age in range(12):
        old = kernels / f"old{age:02}"
        old.mkdir(parents=True)
        (old / "masking.keep_paths-0.pickle").write_bytes(b"kept by an earlier version")
        os.utime(old, (1e9 - age, 1e9 - age))
    (kernels / "a file of somebody's").touch()
    return folder / "cache", run(folder / "site", "-c", KEEP_PATHS, XDG_CACHE_HOME=str(folder / "cache"))


@pytest.fixture
def cache(filled: tuple[Path, tuple[str, list[str]]], tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(filled[0], tmp_path / "cache")


def test_editing_another_file_changes_what_runs_with_a_warm_cache(
    filled: tuple[Path, tuple[str, list[str]]], package: Path, cache: Path
) -> None:
    assert filled[1] == (
        "1.954", ["Compiling the CPU kernels for this processor; once, some seconds, then cached"]
    )  # fmt: skip
    file = package / "ufbert" / "numba_kernels" / "activation.py"
    text = file.read_text()
    edited = text.replace("activations[i] = half * s * (one + math.erf(s * scale))", "activations[i] = -s")
    assert edited != text
    file.write_text(edited)
    second, said = run(package, "-c", KEEP_PATHS, XDG_CACHE_HOME=str(cache))
    assert second == "-2.0"
    assert len(said) == 1
    # And back: both states are kept, so nothing is compiled, in another place than the first time too.
    file.write_text(text)
    assert run(package, "-c", KEEP_PATHS, XDG_CACHE_HOME=str(cache)) == ("1.954", [])


def test_where_no_folder_can_be_written_kernels_are_compiled_in_each_process(package: Path, tmp_path: Path) -> None:
    # Plain files in place of the folders: permissions would not hold back the superuser.
    (package / "ufbert" / "numba_kernels" / "__pycache__").touch()
    (tmp_path / "home").touch()
    result, said = run(package, "-c", KEEP_PATHS, HOME=str(tmp_path / "home"))
    assert result == "1.954"
    assert len(said) == 1
    assert re.fullmatch(
        "Compiling the CPU kernels for this processor, some seconds in each process: no folder to keep them in "
        r"\(\[Errno 20\] Not a directory: '.*/home/\.cache/ufbert/kernels/[0-9a-f]{32}'\); "
        "set NUMBA_CACHE_DIR to one that can be written",
        said[0],
    )


def test_no_home_at_all_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user whom the system does not know
    assert kernel_cache.why_not_writable() == "there is no home folder"


def test_a_relative_cache_home_is_ignored_and_numbas_variable_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert kernel_cache.cache_folder().parent == tmp_path / ".cache" / "ufbert" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert kernel_cache.cache_folder().parent == tmp_path / "xdg" / "ufbert" / "kernels"
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "numba"))
    assert kernel_cache.cache_folder().parent == tmp_path / "numba" / "ufbert" / "kernels"


def test_damaged_files_are_compiled_anew_and_old_folders_go(
    filled: tuple[Path, tuple[str, list[str]]], package: Path, cache: Path
) -> None:
    kernels = cache / "ufbert" / "kernels"
    left = {folder.name for folder in kernels.iterdir() if folder.is_dir()}
    assert left > {f"old{age:02}" for age in range(kernel_cache.MOST_FOLDERS - 1)}
    assert len(left) == kernel_cache.MOST_FOLDERS
    assert (kernels / "a file of somebody's").exists()
    (current,) = (kernels / name for name in left if not name.startswith("old"))
    for file, content in zip(sorted(current.iterdir()), [b"", b"\0\0"], strict=True):
        file.write_bytes(content)
    assert run(package, "-c", KEEP_PATHS, XDG_CACHE_HOME=str(cache)) == filled[1]
    assert run(package, "-c", KEEP_PATHS, XDG_CACHE_HOME=str(cache)) == (filled[1][0], [])


def test_processes_that_start_together_share_an_empty_cache(package: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(package), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    starts = [
        subprocess.Popen([sys.executable, "-c", KEEP_PATHS], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in starts] == ["1.954"] * 2
    (folder,) = (tmp_path / "cache" / "ufbert" / "kernels").iterdir()
    assert sorted(file.name.partition("-")[0] for file in folder.iterdir()) == [
        "activation.gelu_into",
        "masking.keep_paths",
    ]
