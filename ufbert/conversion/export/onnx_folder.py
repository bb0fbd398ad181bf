"""A folder around the ONNX graph that other software opens by itself, without `ufbert`.

`model.onnx` at its root, where optimum and sentence-transformers both look first; `config.json`, the tokenizer, and
the files of sentence-transformers where the model embeds in a way of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from ufbert.checkpoint.embedder_files import write_embedder
from ufbert.checkpoint.folder import CONFIG_FILE, read_json
from ufbert.checkpoint.tokenizer import save_tokenizer
from ufbert.model.pretrained import PretrainedModel

from .hugging_face import nearest_config
from .onnx import export_onnx

__all__ = ["write_onnx_folder"]


def write_onnx_folder(model: PretrainedModel, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Fill an existing folder. Use the model for nothing else afterwards, as with `export_onnx`.

    Raises `MissingExtraError` without the `onnx` extra.
    """
    config = model.config
    values = nearest_config(model)
    export_onnx(model, folder)
    _write_json(values, folder / CONFIG_FILE)
    write_embedder(model.embedder, config.hidden_size, config.max_position_embeddings, folder)
    if tokenizer is None:
        return
    longest = model.longest_tokenized
    embedded = config.provenance.get("max_seq_length")
    if isinstance(embedded, int):  # not everyone reads the files of sentence-transformers
        longest = min(longest, embedded)
    # Token types go to the graph as they come from the tokenizer, and it takes them only where it has several.
    save_tokenizer(tokenizer, folder, longest, token_types=config.type_vocab_size > 1)
    names = read_json(folder / "tokenizer_config.json")
    special = {key: value for key, value in names.items() if key.endswith("_token") and isinstance(value, str)}
    _write_json(special, folder / "special_tokens_map.json")  # releases of fastembed stop without it


def _write_json(values: Mapping[str, object], file: Path) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
