"""The bytes of a text file, whatever compressed them, and its lines, whatever encoding they are in.

What makes the whole file unusable is raised as `DataError`, with the line that it was met at.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from ufbert.errors import DataError, MissingExtraError

__all__ = [
    "COMPRESSIONS",
    "ENCODING_ADVICE",
    "STDIN",
    "Line",
    "display_name",
    "not_decoded",
    "open_bytes",
    "text_lines",
    "without_end",
]

STDIN = Path("-")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}

Line: TypeAlias = "tuple[int, str, DataError | None]"
"""Its number from 1, its text with the line end, and what is wrong with it; bytes of no character are U+FFFD."""

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
ZSTD_LONGEST = 1 << 31  # of a window, by `zstd --long=31`
READ_BYTES = 1 << 17
ENCODING_ADVICE = "give the file's encoding, such as --encoding cp1252 (Excel, Western Europe), or save it as UTF-8"
"""For a byte that is not UTF-8."""


def display_name(path: Path) -> str:
    """What messages call the file."""
    return "standard input" if path == STDIN else str(path)


def _open(path: Path) -> AbstractContextManager[BinaryIO]:
    if path == STDIN:
        return nullcontext(sys.stdin.buffer)  # not ours to close
    kind = COMPRESSIONS.get(path.suffix.lower())
    if kind == "zstd":
        return _open_zstd(path)
    if kind == "gzip":
        return cast(BinaryIO, gzip.open(path))
    if kind == "bzip2":
        return cast(BinaryIO, bz2.open(path))
    return cast(BinaryIO, lzma.open(path)) if kind == "xz" else path.open("rb")


def _open_zstd(path: Path) -> BinaryIO:
    import pyarrow as pa

    # Not zstandard's own reader: that one ends a truncated file without an error.
    stream = io.BufferedReader(cast(io.RawIOBase, pa.input_stream(str(path), compression="zstd")))
    try:
        stream.peek(1)
    except OSError as error:
        if "too much memory" not in str(error):
            raise
        # Arrow's limit is a window of 128 MB.
        return io.BufferedReader(_LongFrames(path), READ_BYTES)
    return stream


class _LongFrames(io.RawIOBase):
    """What zstd compressed with a window of up to 2 GB."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ModuleNotFoundError as error:
            purpose = f"{path}: compressed by zstd with a window of more than 128 MB (zstd --long), which"
            raise MissingExtraError("zstandard", "zstd", purpose) from error
        self._zstd = zstandard
        self._file = path.open("rb")
        self._frame: Any = None
        """None between two frames."""
        self._ahead = self._ready = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, in part perhaps; 0 at the end. Raises `OSError` where frames are damaged or cut."""
        while not self._ready:
            self._ahead = self._ahead or self._file.read(READ_BYTES)
            if not self._ahead:
                if self._frame is not None:
                    raise OSError("it ends within a frame")
                return 0
            if self._frame is None:
                self._frame = self._zstd.ZstdDecompressor(max_window_size=ZSTD_LONGEST).decompressobj()
            try:
                self._ready = self._frame.decompress(self._ahead)
            except self._zstd.ZstdError as error:
                raise OSError(str(error)) from error
            self._ahead = b""
            if self._frame.eof:
                self._ahead, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        """The file, too."""
        self._file.close()
        super().close()


@contextmanager
def open_bytes(path: Path, where: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file or of standard input. Raises `DataError` for what cannot be read.

    `where` says how far the reader has come, for the message on damaged data.
    """
    try:
        with _open(path) as stream:
            yield stream
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        number = getattr(error, "errno", None)
        kind = COMPRESSIONS.get(path.suffix.lower())
        if kind is not None and number is None:
            place = display_name(path) if where is None else where()
            raise DataError(f"{place}: damaged {kind} data ({error}); fetch the file again") from error
        reason = os.strerror(number) if number else str(error)
        raise DataError(f"{display_name(path)}: cannot be read: {reason}") from error


def text_lines(path: Path, encoding: str) -> Iterator[Line]:
    """The lines of a file, the byte order mark removed; only LF ends one, a CR before it is part of the end."""
    name = display_name(path)
    number = 0
    with open_bytes(path, lambda: f"{name}:{number + 1}") as stream:
        if "\n".encode(encoding) != b"\n":  # UTF-16 and its like, whose lines bytes do not show
            text = io.TextIOWrapper(stream, encoding, newline="\n")
            try:
                for number, line in enumerate(text, 1):
                    yield number, line.removeprefix("\ufeff") if number == 1 else line, None
            except UnicodeError as error:
                reason = getattr(error, "reason", error)
                raise DataError(
                    f"{name}:{number + 1}: not {encoding} ({reason}); give the file's own --encoding"
                ) from error
            finally:
                text.detach()
            return
        for number, raw in enumerate(stream, 1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8) if encoding == "utf-8" else raw
                if encoding == "utf-8" and raw.startswith(UTF_16_MARKS):
                    raise DataError(f"{name}: begins with the byte order mark of UTF-16; give --encoding utf-16")
            try:
                yield number, raw.decode(encoding), None
            except UnicodeDecodeError as error:
                problem = not_decoded(path, number, error.object[error.start], error.start, encoding)
                yield number, raw.decode(encoding, "replace"), problem


def not_decoded(path: Path, number: int, byte: int, position: int, encoding: str, advice: str = "") -> DataError:
    """The error for a byte, at `position` from 0 of a line or value, that is no character."""
    found = f"{display_name(path)}:{number}: byte 0x{byte:02x} at position {position + 1} is not"
    if encoding == "utf-8":
        return DataError(f"{found} UTF-8; {advice or ENCODING_ADVICE}")
    return DataError(f"{found} {encoding}; give the file's own --encoding, or mend the line")


def without_end(line: str) -> str:
    """A line's text."""
    return line.removesuffix("\n").removesuffix("\r")
