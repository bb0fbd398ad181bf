from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from ufbert.errors import DataError
from ufbert.text import embedded as embedded_corpus
from ufbert.text.embedded import embedded_documents, embedded_fingerprint


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A standard library of a few files in place of Python's own."""
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data/topics.py").write_text("topics = {'one': 'First topic of the few here.'}\n")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages/other.py").write_text('"""Not of the library, never read."""')
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    embedded_documents.cache_clear()
    yield tmp_path
    embedded_documents.cache_clear()


def test_pythons_own_text_is_a_million_characters_of_english() -> None:
    documents = embedded_documents()
    text = "\n".join(documents)
    assert len(documents) > 300
    assert len(text) > 1_000_000
    assert not any(line.startswith(">>>") for line in text.splitlines())
    assert "::=" not in text
    words = text.lower().split()
    assert words.count("the") > 0.04 * len(words)
    assert len(embedded_fingerprint()) == 64


def test_modules_are_parsed_and_never_run(library: Path) -> None:
    (library / "danger.py").write_text('"""The module docstring has five words."""\nraise SystemExit(1)\n')
    (library / "broken.py").write_text("this is no Python\n")
    assert embedded_documents() == ("First topic of the few here.", "The module docstring has five words.")


def test_markup_examples_and_code_are_taken_out(library: Path) -> None:
    docstring = """Return ``value`` with :meth:`~Class.method` and *emphasis* as it is.

    Heading of the section
    ======================

    An example of the call follows here::

        x[0] = {1: (2, 3)} ** 4

    Before the example comes text
    >>> f(1)
    the output of the example

    .. note:: This one is a note on it.
    """
    (library / "a.py").write_text(f"def f():\n    {docstring!r}\n")
    assert embedded_documents()[1].splitlines() == [
        "Return value with Class.method and emphasis as it is.",
        "Heading of the section",
        "An example of the call follows here:",
        "Before the example comes text",
        "This one is a note on it.",
    ]


def test_the_fingerprint_follows_the_files(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = embedded_fingerprint()
    assert embedded_fingerprint() == before
    (library / "new.py").write_text("")
    changed = embedded_fingerprint()
    monkeypatch.setattr(embedded_corpus, "EXTRACTION", 0)
    assert len({before, changed, embedded_fingerprint()}) == 3


def test_a_python_without_sources_says_so(library: Path) -> None:
    (library / "pydoc_data/topics.py").unlink()
    with pytest.raises(DataError, match="without its library's source files"):
        embedded_documents()


def test_topics_are_read_whatever_the_dictionary_is_called(library: Path) -> None:
    source = "import x\nnames = {'a': 'The first of the two.', 'b': 'And the second of them.'}\n"
    (library / "pydoc_data/topics.py").write_text(source)
    assert embedded_documents() == ("The first of the two.", "And the second of them.")
