"""`ufbert bench paths`: how the tokens of one's own text spread over the trees of a finished checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ufbert.checkpoint.folder import locate_checkpoint
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import ConfigError, DataError
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.pretrained import read_config
from ufbert.model.tree_health import HEALTH_COLUMNS, LeafRecorder, health_rows
from ufbert.reporting import note, show_log
from ufbert.system.atomic import check_new, write_file
from ufbert.system.devices import choose_device
from ufbert.text.batching import Example, encode_window, length_batches, windows
from ufbert.text.files import expand_paths, read_texts
from ufbert.text.reading import Reading
from ufbert.text.tokenization import EncodedBatch

__all__ = ["PathsRequest", "run_paths"]

BATCH_TOKENS = 4096
# Of the smallest window; the largest has 64 times as many, whose end is looked at for whether it is enough.
TEXTS = 8
TABLE_WIDTH = 200


@dataclass(frozen=True, kw_only=True)
class PathsRequest:
    """What to count."""

    checkpoint: str
    """A folder, or a model on the hub."""
    files: Sequence[str]
    """Files, folders and globs of text, as `ufbert infer` reads them."""
    text_column: str = "text"
    """Of jsonl, csv, tsv and parquet files."""
    reading: Reading = field(default_factory=Reading)
    """How text files are to be understood."""
    tokens: int = 65_536
    """Tokens to count at least, of whole texts from the beginning; 0 counts all."""
    device: str = "cpu"
    json_file: Path | None = None


def run_paths(request: PathsRequest) -> list[dict[str, Any]]:
    """Count, show the table on stdout, and write the JSON file asked for; the health of each layer.

    Texts are cut to the model's longest sequence. Raises `ConfigError` for a model without trees, `DataError` for
    files without text, `CheckpointError` for what is no checkpoint, `OutputError` for a file that exists.
    """
    if request.json_file:
        check_new(request.json_file, "results", "--json")
    show_log()
    folder = locate_checkpoint(request.checkpoint)
    config = read_config(folder)
    if config.feedforward_kind != "fff":
        raise ConfigError(
            f"{request.checkpoint}: has no trees, its feedforward layers are {config.feedforward_name}; "
            "bench paths takes a checkpoint with feedforward = fff"
        )
    paths = expand_paths(request.files)
    request.reading.check(paths)
    device = choose_device(request.device)
    tokenizer = load_tokenizer(folder)
    model = UltraFastBertModel.from_pretrained(folder).to(device)
    recorder, counted, texts = LeafRecorder(model), 0, 0
    length = config.max_position_embeddings
    rows = read_texts(paths, request.text_column, reading=request.reading)
    examples = (Example(text, where=where) for where, text in rows if text.strip())
    with torch.inference_mode():
        for window in windows(examples, TEXTS, length):
            encoded = encode_window(tokenizer, window, length).encoded
            for batch in _batches(encoded):
                ids, mask, types = (torch.from_numpy(array).to(device) for array in batch)
                with recorder.record(mask):
                    model.encode(ids, mask, types if config.type_vocab_size else None)
                counted, texts = counted + int(mask.sum()), texts + len(ids)
            if request.tokens and counted >= request.tokens:
                note(f"Counted the first {texts:,} texts; --tokens 0 counts all")
                break
    health = recorder.health()
    if not health:
        raise DataError(f"{request.files[0]}: no text in it but blank lines; give a file with text")
    _show(request, health, texts)
    if request.json_file:
        _write(request, health, texts)
    return health


def _batches(encoded: EncodedBatch) -> Iterator[tuple[Any, Any, Any]]:
    """Rows of like length without the padding they share: ids, mask and types, each (B, T)."""
    lengths = encoded.attention_mask.sum(1)
    some = np.flatnonzero(lengths)  # characters may give no token
    for chosen in length_batches(lengths[some], None, BATCH_TOKENS):
        rows = some[chosen]
        longest = int(lengths[rows].max())
        arrays = (encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)
        yield tuple(array[rows, :longest] for array in arrays)  # type: ignore[misc]


def _show(request: PathsRequest, health: Sequence[dict[str, Any]], texts: int) -> None:
    console = Console(width=TABLE_WIDTH, highlight=False)
    table = Table(*HEALTH_COLUMNS, box=None, pad_edge=False, header_style="")
    for row in health_rows(health):
        table.add_row(*row)
    depths = sorted({round(layer["maximum_entropy_bits"]) for layer in health})
    console.print(
        f"{request.checkpoint}: where {health[0]['tokens']:,} tokens of {texts:,} texts go in trees of depth "
        f"{', '.join(map(str, depths))}",
        markup=False,
        soft_wrap=True,
    )
    console.print(
        "(uniform: what as many tokens would give if every leaf were equally likely; a dead subtree has two leaves or "
        "more, none of them reached)",
        markup=False,
        soft_wrap=True,
    )
    console.print(table)


def _write(request: PathsRequest, health: Sequence[dict[str, Any]], texts: int) -> None:
    assert request.json_file is not None
    document = {
        "checkpoint": request.checkpoint,
        "files": list(request.files),
        "texts": texts,
        "tokens": health[0]["tokens"],
        "layers": list(health),
    }
    with write_file(request.json_file) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    note(f"wrote {request.json_file}")
