"""English that every Python ships: the documentation's topics and the standard library's docstrings.

About 1.9 MB of prose is left of 2.3 MB once examples, grammar and markup are taken out. It is read out of
the source files by parsing them; no module is imported. Another Python version gives other text.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ufbert.errors import DataError

__all__ = ["embedded_documents", "embedded_fingerprint"]

TOPICS = "pydoc_data/topics.py"
# Not part of every installation, or installed by others.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
# Goes into the fingerprint: raise it when the same sources give another text.
EXTRACTION = 2

MARKUP = (
    (re.compile(r"^\s*\.\. [\w-]+::\s*"), ""),  # .. note::
    (re.compile(r":[\w:]+:`~?([^`]*)`"), r"\1"),  # :meth:`~x`
    (re.compile(r"``([^`]*)``"), r"\1"),
    (re.compile(r"`([^`']*)[`']"), r"\1"),
    (re.compile(r"(?<!\w)\*{1,2}(\w[^*]*?)\*{1,2}(?!\w)"), r"\1"),
    (re.compile(r"::\s*$"), ":"),
    (re.compile(r"\[\d+\]"), ""),
)
UNDERLINE = re.compile(r"\s*([-=~*^_#+|]{3,}\s*)+")
# A paragraph of code, grammar or a table has more digits and signs than a sentence.
SHARE_OF_LETTERS = 0.88
FEWEST_WORDS = 4


@functools.cache  # parsing the library takes seconds, its prose 2 MB
def embedded_documents() -> tuple[str, ...]:
    """The documents in a fixed order: one for each topic, then one for each module with docstrings.

    Raises `DataError` if this Python comes without its library's source files.
    """
    documents = []
    for name in _sources():
        tree = _parse(_library() / name)
        if tree is None:
            continue
        texts = list(_topics(tree)) if name == TOPICS else ["\n\n".join(_docstrings(tree))]
        documents += [prose for text in texts if (prose := _prose(text))]
    return tuple(documents)


def embedded_fingerprint() -> str:
    """Changes when the documents do: with the Python version, the library's files, and the extraction."""
    digest = hashlib.sha256(f"{EXTRACTION} {sys.version}".encode())
    for name in _sources():
        digest.update(f"\n{name} {(_library() / name).stat().st_size}".encode())
    return digest.hexdigest()


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _sources() -> list[str]:
    library = _library()
    names = [
        path.relative_to(library).as_posix()
        for path in library.rglob("*.py")
        if LEFT_OUT.isdisjoint(path.relative_to(library).parts)
    ]
    if TOPICS not in names:
        raise DataError(
            f"{library}: this Python comes without its library's source files, the embedded corpus; "
            "give --corpus with text of your own"
        )
    return sorted(names, key=lambda name: (name != TOPICS, name))


def _parse(path: Path) -> ast.Module | None:
    """The syntax tree, or None for a file that is not Python of this version (templates, old test data)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            return None


def _topics(tree: ast.Module) -> Iterator[str]:
    """The values of the dictionary `topics`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for value in node.values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _prose(text: str) -> str:
    """The sentences of a documentation text, a line for each paragraph."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.expandtabs()):
        lines = []
        for line in block.splitlines():
            if line.lstrip().startswith(">>>"):
                break  # what follows up to the blank line is the example's output
            if not UNDERLINE.fullmatch(line):
                for pattern, replacement in MARKUP:
                    line = pattern.sub(replacement, line)
                lines.append(line.strip())
        paragraph = " ".join(" ".join(lines).split())
        if "::=" in paragraph:  # grammar, whose rules are words too
            continue
        letters = sum(c.isalpha() or c in " .,'" for c in paragraph)
        if len(paragraph.split()) >= FEWEST_WORDS and letters >= SHARE_OF_LETTERS * len(paragraph):
            paragraphs.append(paragraph)
    return "\n".join(paragraphs)
