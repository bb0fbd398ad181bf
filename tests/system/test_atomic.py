"""Folders that replace one another, also where the file system knows no hard links."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ufbert.errors import OutputError
from ufbert.system.atomic import write_folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with a file and a subfolder that the next writer does not write."""
    folder = tmp_path / "run"
    (folder / "notes").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("kept")
    (folder / "notes" / "a.txt").write_text("kept too")
    (folder / "weights").write_text("old")
    return folder


def replace(folder: Path) -> None:
    with write_folder(folder, replace=True) as temporary:
        (temporary / "weights").write_text("new")


def refuse_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def link(source: object, target: object, **_: object) -> None:
        raise OSError(code, os.strerror(code), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)


def test_what_the_writer_left_alone_is_carried_over_as_a_link(old: Path) -> None:
    before = (old / "metrics.jsonl").stat().st_ino
    replace(old)
    assert (old / "metrics.jsonl").stat().st_ino == before
    assert (old / "weights").read_text() == "new"


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK])
def test_without_hard_links_it_is_copied(old: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refuse_links(monkeypatch, code)
    for _ in range(2):
        replace(old)
    assert (old / "metrics.jsonl").read_text() == "kept"
    assert (old / "notes" / "a.txt").read_text() == "kept too"
    assert (old / "weights").read_text() == "new"
    assert [path.name for path in old.parent.iterdir()] == ["run"]


def test_a_full_disk_is_not_taken_for_a_missing_link(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_links(monkeypatch, errno.ENOSPC)
    with pytest.raises(OutputError, match="no space left"):
        replace(old)
    assert (old / "weights").read_text() == "old"
