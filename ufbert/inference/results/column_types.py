"""Which kinds of values a column was seen to hold, and the Arrow type that takes all of them as they are.

A column's values come from JSON, csv or parquet, row after row, and nothing promises that they are of one kind. So
the kinds are collected over the whole input, and only then a type is chosen:

    whole numbers                         int64, or uint64 from 2^63 on
    whole numbers and fractions           double, if it holds those whole numbers exactly (up to 2^53)
    objects                               a struct of all their keys; a missing key is null
    lists                                 a list of what all items together need
    dates, times, decimals, bytes         as parquet gave them
    nothing but nulls                     string
    anything else, mixtures above all     string: text as it is, all other values as JSON
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from .json_text import json_text

__all__ = ["Kinds", "arrow_array"]

LARGEST_EXACT = 2**53
"""Up to here a double holds every whole number."""
# Objects whose keys are data (`{"user 17": 3}`) would give a struct as wide as the input is long.
MOST_KEYS = 1000
# Arrow and parquet walk a type by recursion.
DEEPEST = 32
PLAIN = {bool: "bool", float: "float", str: "str"}


class Kinds:
    """The kinds of values of a column, of its lists' items, or of one key of its objects; nulls are none."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        """Of bool, int, float, str, list, object, vector, the class of what only parquet has, and `text`.

        `text` says that no type but string will do.
        """
        self.least = self.most = 0
        """Of the whole numbers."""
        self.items: Kinds | None = None
        self.fields: dict[str, Kinds] = {}
        self.same_keys = True
        """Whether all objects of one `add` had the same keys in the same order."""
        self.arrow: Any = None
        """The type of a vector, and of what only parquet has."""

    def add(self, values: Iterable[Any], depth: int = 0) -> None:
        """Take the values of one block into account."""
        groups: dict[type, list[Any]] = {}
        for value in values:
            groups.setdefault(type(value), []).append(value)
        groups.pop(type(None), None)
        for kind, group in groups.items():
            if kind in PLAIN:
                self.names.add(PLAIN[kind])
            elif kind is int:
                self._add_whole_numbers(min(group), max(group))
            elif issubclass(kind, list | tuple | dict) and depth == DEEPEST:
                self.names.add("text")
            elif issubclass(kind, list | tuple):
                self.names.add("list")
                self.items = self.items or Kinds()
                self.items.add(itertools.chain.from_iterable(group), depth + 1)
            elif kind is dict:
                self._add_objects(group, depth)
            else:
                self._add_others(kind, group)

    def merge(self, other: Kinds) -> None:
        """Take the values of another block into account."""
        if "int" in other.names:
            self._add_whole_numbers(other.least, other.most)
        self.names |= other.names
        if other.items is not None:
            self.items = self.items or Kinds()
            self.items.merge(other.items)
        for key, kinds in other.fields.items():
            self._field(key).merge(kinds)
        if other.arrow is not None:
            self._widen(other.arrow)

    def arrow_type(self) -> Any:
        """The type that holds all of the values."""
        import pyarrow as pa

        if self.names == {"int", "float"} and max(-self.least, self.most) <= LARGEST_EXACT:
            return pa.float64()
        if len(self.names) != 1:
            return pa.string()
        (name,) = self.names
        if name == "int":
            if max(-self.least - 1, self.most) < 2**63:
                return pa.int64()
            return pa.uint64() if self.least >= 0 and self.most < 2**64 else pa.string()
        if name == "list" and self.items is not None:
            return pa.list_(self.items.arrow_type())
        if name == "object" and self.fields:
            return pa.struct([(key, kinds.arrow_type()) for key, kinds in self.fields.items()])
        plain = {"bool": pa.bool_(), "float": pa.float64()}
        return plain.get(name, pa.string() if self.arrow is None else self.arrow)

    def uniform(self, *, missing_keys: bool = False) -> bool:
        """Whether an array of `arrow_type` gives back the values of the one `add`, or all but `missing_keys`."""
        import pyarrow as pa

        if not self.names:
            return True
        if len(self.names) > 1 or "text" in self.names:
            return False
        if "int" in self.names:
            return not pa.types.is_string(self.arrow_type())
        if self.items is not None:
            return self.items.uniform(missing_keys=missing_keys)
        if "object" in self.names:
            fields = self.fields.values()
            whole = (self.same_keys or missing_keys) and bool(fields)
            return whole and all(kinds.uniform(missing_keys=missing_keys) for kinds in fields)
        return True

    @property
    def beyond_json(self) -> bool:
        """Whether there are values that JSON does not have."""
        parts = [*self.fields.values(), *([] if self.items is None else [self.items])]
        return self.arrow is not None or any(kinds.beyond_json for kinds in parts)

    def _add_whole_numbers(self, least: int, most: int) -> None:
        known = (self.least, self.most) if "int" in self.names else (least, most)
        self.least, self.most = min(least, known[0]), max(most, known[1])
        self.names.add("int")

    def _add_objects(self, objects: list[dict[str, Any]], depth: int) -> None:
        self.names.add("object")
        keys = tuple(objects[0])
        self.same_keys &= all(tuple(o) == keys for o in objects)
        values: dict[str, list[Any]] = {}
        for entry in objects:
            for key, value in entry.items():
                values.setdefault(key, []).append(value)
        for key, column in values.items():
            self._field(key).add(column, depth + 1)

    def _field(self, key: str) -> Kinds:
        if key not in self.fields and (len(self.fields) == MOST_KEYS or not _is_unicode(key)):
            self.names.add("text")
            return Kinds()
        return self.fields.setdefault(key, Kinds())

    def _add_others(self, kind: type, values: list[Any]) -> None:
        """Vectors, and what only parquet has."""
        import pyarrow as pa

        if kind is np.ndarray:
            self.names.add("vector")
            self._widen(pa.list_(pa.float32(), len(values[0])))
            return
        # pandas' classes of nanoseconds are subclasses of the standard ones.
        family = next((base for base in (datetime, timedelta) if issubclass(kind, base)), kind)
        self.names.add(family.__name__)
        try:
            found = pa.array(values).type
        except (pa.ArrowException, OverflowError, ValueError):
            found = None
        if found is None or len({getattr(value, "tzinfo", None) for value in values}) > 1:
            self.names.add("text")
            return
        if any(getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0) for value in values):
            # Found as microseconds, which would cut them off.
            found = pa.timestamp("ns", found.tz) if family is datetime else pa.duration("ns")
        self._widen(found)

    def _widen(self, arrow: Any) -> None:
        """Let `self.arrow` hold what `arrow` holds, too."""
        import pyarrow as pa

        try:
            schemas = [pa.schema([("", known)]) for known in (self.arrow, arrow) if known is not None]
            self.arrow = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except pa.ArrowException:  # two time zones, for instance
            self.names.add("text")

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a journal."""
        return {
            "names": sorted(self.names),
            "range": [self.least, self.most],
            "items": None if self.items is None else self.items.to_json(),
            "fields": {key: kinds.to_json() for key, kinds in self.fields.items()},
            "arrow": None if self.arrow is None else _encode(self.arrow),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Kinds:
        """What `to_json` gave."""
        kinds = cls()
        kinds.names = set(values["names"])
        kinds.least, kinds.most = values["range"]
        kinds.items = None if values["items"] is None else cls.from_json(values["items"])
        kinds.fields = {key: cls.from_json(field) for key, field in values["fields"].items()}
        kinds.arrow = None if values["arrow"] is None else _decode(values["arrow"])
        return kinds


def arrow_array(values: Sequence[Any], arrow: Any, *, uniform: bool = False) -> Any:
    """An Arrow array of the type `arrow`, to which kinds have led that include those of the values.

    `uniform` values need no change to be of the type.
    """
    import pyarrow as pa

    if isinstance(values[0], np.ndarray):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values)), type=arrow)
    # Arrow would cut a fraction for a column of whole numbers, so nothing is left to it.
    fitted = values if uniform else [_fit(value, arrow) for value in values]
    try:
        return pa.array(fitted, type=arrow)
    except UnicodeEncodeError:  # half a surrogate pair out of a JSON escape
        return pa.array([_encodable(value) for value in fitted], type=arrow)


def _fit(value: Any, arrow: Any) -> Any:
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_string(arrow):
        return value if isinstance(value, str) else _text(value)
    if pa.types.is_struct(arrow):
        return {field.name: _fit(value.get(field.name), field.type) for field in arrow}
    if pa.types.is_list(arrow):
        return [_fit(item, arrow.value_type) for item in value]
    return value


def _text(value: Any) -> str:
    return json_text(value) if isinstance(value, bool | list | tuple | dict) else str(value)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {key: _encodable(entry) for key, entry in value.items()}
    return value


def _is_unicode(text: str) -> bool:
    return bool(_encodable(text) == text)


def _encode(arrow: Any) -> str:
    import pyarrow as pa

    return base64.b64encode(pa.schema([("", arrow)]).serialize().to_pybytes()).decode()


def _decode(text: str) -> Any:
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))).field(0).type
