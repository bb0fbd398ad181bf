"""How text files are to be understood where they do not say it themselves: encoding, separator, header row."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ufbert.errors import ConfigError

from .byte_streams import COMPRESSIONS, STDIN

__all__ = ["DELIMITERS", "FORMATS", "Reading", "file_format", "separator_name"]

FORMATS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""The separators that are found out, by the names that options and messages give them."""


def file_format(path: Path) -> str | None:
    """`txt`, `jsonl`, `csv`, `tsv` or `parquet` by the file's suffix; None where it is none of them."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        inner = FORMATS.get(Path(path.stem).suffix.lower())
        return None if inner == "parquet" else inner
    return FORMATS.get(suffix)


def separator_name(delimiter: str) -> str:
    """`comma`, `tab`, ..., or the character itself."""
    return next((name for name, character in DELIMITERS.items() if character == delimiter), repr(delimiter))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The options of text files. Raises `ConfigError` for an encoding or a separator that is none."""

    encoding: str = "utf-8"
    """Any of Python's names; a byte order mark is accepted where the encoding has one."""
    delimiter: str = ""
    """One character or its name in `DELIMITERS`; empty finds it out. With one, a txt file is a table too."""
    header: bool = True
    """Whether the first row of csv and tsv names the columns; else they are called 1, 2, 3, ..."""

    def __post_init__(self) -> None:
        try:
            encoding = codecs.lookup(self.encoding).name
            "a".encode(self.encoding)  # hex and its like are no encodings of text
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"--encoding {self.encoding!r}: no such encoding; known are utf-8, utf-16, cp1252, latin-1, gb18030, "
                "shift_jis and the others of Python's codecs"
            ) from error
        delimiter = DELIMITERS.get(self.delimiter.lower(), "\t" if self.delimiter == "\\t" else self.delimiter)
        if len(delimiter) > 1 or delimiter in ('"', "\r", "\n"):
            raise ConfigError(
                f"--delimiter {self.delimiter!r}: takes one character or its name, {', '.join(DELIMITERS)}"
            )
        object.__setattr__(self, "encoding", "utf-8" if encoding == "utf-8-sig" else encoding)
        object.__setattr__(self, "delimiter", delimiter)

    def format(self, path: Path, given: str | None = None) -> str:
        """What `path` is read as; `given` is the format of standard input. Of an unknown suffix, lines of text."""
        kind = (given if path == STDIN else None) or file_format(path) or "txt"
        return "csv" if kind == "txt" and self.delimiter else kind

    def check(self, paths: Sequence[Path], given: str | None = None) -> None:
        """Raise `ConfigError` for an option that says nothing of any of the files."""
        kinds = {self.format(path, given) for path in paths}
        if not kinds & {"csv", "tsv"} and not self.header:
            raise ConfigError("--no-header is for csv and tsv; none of the files is one")
        if not kinds & {"csv", "tsv"} and self.delimiter:
            raise ConfigError("--delimiter is for csv, tsv and txt; none of the files is one")
        if kinds == {"parquet"} and self.encoding != "utf-8":
            raise ConfigError("--encoding is for text files; parquet has one of its own")

    @property
    def facts(self) -> list[str]:
        """What of it is not as usual, for names of what the texts lead to."""
        given = {"encoding": self.encoding, "delimiter": self.delimiter, "header": str(self.header)}
        usual = {"encoding": "utf-8", "delimiter": "", "header": "True"}
        return [f"{name} {value}" for name, value in given.items() if value != usual[name]]
