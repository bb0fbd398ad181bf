"""What sentence-transformers stores beside a model, read: `modules.json`, what it names, and the settings beside it.

All of its releases' names are known. What stands there and cannot be followed is an error that names it, so that no
embedding is silently another one than the original's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ufbert.errors import CheckpointError

from .embedder import Dense, Embedder, EmbeddingLayer, LayerNorm, Normalize
from .folder import read_json, read_pickled_tensors, read_tensors
from .poolings import FLAGS, POOLINGS

__all__ = ["CONFIG", "MODULES", "PROMPT_NAMES", "SETTINGS", "read_embedder", "transformer_folder"]

MODULES = "modules.json"
CONFIG = "config_sentence_transformers.json"
# The first of these that says anything counts, as there.
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# The oldest releases had a module for each family.
TRANSFORMERS = ("Transformer", "BERT", "RoBERTa", "DistilBERT", "CamemBERT", "ALBERT", "XLMRoBERTa")
ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
    *("LogSigmoid", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign"),
    *("Tanh", "Tanhshrink"),
)
"""Classes of `torch.nn` that have no weights and act on each number by itself."""
PROMPT_NAMES = ("query", "document")  # every model has these; without a text of their own they add nothing
# Of what a settings file may hand to transformers: choices that change no number beyond the rounding.
NEUTRAL = frozenset(
    {"add_pooling_layer", "attn_implementation", "cache_dir", "dtype", "local_files_only", "provider", "revision"}
    | {"token", "torch_dtype", "trust_remote_code", "use_cache", "use_fast", "file_name", "output_attentions"}
)
TEXT_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}


def read_embedder(folder: Path, provenance: Mapping[str, Any] | None = None) -> Embedder:
    """What the folder says of embeddings; without files of sentence-transformers, what `provenance` says.

    Raises `CheckpointError` for what cannot be followed.
    """
    modules = _modules(folder)
    kind = read_json(folder / CONFIG).get("model_type", "SentenceTransformer") if (folder / CONFIG).is_file() else ""
    tokenizer_length = _tokenizer_length(_transformer_path(folder, modules) or folder)
    if modules and kind in ("", "SentenceTransformer"):
        return _declared(folder, modules, tokenizer_length)
    known = Embedder.from_facts(provenance or {})
    length = known.max_seq_length if tokenizer_length is None else tokenizer_length
    values = {**vars(known), "tokenizer_length": tokenizer_length}
    if not known.declared:
        values["max_seq_length"] = length
    if modules and kind == "SparseEncoder":
        values["notes"] = (f"{folder} is a SparseEncoder; its dense embeddings are the mean over the tokens",)
    return Embedder(**values)


def transformer_folder(folder: Path) -> Path | None:
    """The subfolder of the transformer itself, where it is not `folder` (`0_Transformer`)."""
    return _transformer_path(folder, _modules(folder))


def _transformer_path(folder: Path, modules: list[dict[str, Any]]) -> Path | None:
    for module in modules:
        if _kind(module) in TRANSFORMERS:
            return _path(folder, module) if module.get("path") else None
    return None


def _modules(folder: Path) -> list[dict[str, Any]]:
    file = folder / MODULES
    if not file.is_file():
        return []
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise CheckpointError(f"{file}: holds no list of modules")
    return modules


def _kind(module: dict[str, Any]) -> str:
    """The module's class; that of other packages with its package."""
    name = str(module.get("type", ""))
    return name.rsplit(".", 1)[-1] if name.startswith("sentence_transformers.") else name


def _path(folder: Path, module: dict[str, Any]) -> Path:
    path = Path(str(module.get("path", "")))
    if path.is_absolute() or ".." in path.parts:
        raise CheckpointError(f"{folder / MODULES}: the path {str(path)!r} leads out of the folder")
    return folder / path


def _declared(folder: Path, modules: list[dict[str, Any]], tokenizer_length: int | None) -> Embedder:
    where = folder / MODULES
    kinds = [_kind(module) for module in modules]
    if kinds[0] not in TRANSFORMERS:
        raise CheckpointError(f"{where}: starts with {kinds[0]}, which cannot be expressed; a Transformer must")
    if kinds[1:2] != ["Pooling"]:
        found = f"{kinds[1]} follows" if len(kinds) > 1 else "nothing follows"
        raise CheckpointError(f"{where}: {found} the {kinds[0]}, which cannot be expressed; a Pooling must")
    transformer = _path(folder, modules[0])
    settings = _settings(transformer, tokenizer_length)
    tokenizer_file = transformer / "tokenizer_config.json"
    if _values(tokenizer_file).get("truncation_side", "right") != "right":
        raise CheckpointError(f"{tokenizer_file}: truncation_side is 'left'; long texts can only be cut at their end")
    pooling, include_prompt = _pooling(_path(folder, modules[1]) / "config.json")
    layers: list[EmbeddingLayer] = []
    for module, kind in zip(modules[2:], kinds[2:], strict=True):
        path = _path(folder, module)
        if kind == "Dense":
            layers.append(_dense(path))
        elif kind == "Normalize":
            _require_embedding(_values(path / "config.json"), path / "config.json")
            layers.append(Normalize())
        elif kind == "LayerNorm":
            tensors = _tensors(path)
            layers.append(LayerNorm(_take(tensors, "norm.weight", path), _take(tensors, "norm.bias", path)))
        elif kind != "Dropout":  # which acts in training alone
            raise CheckpointError(
                f"{where}: {kind} behind the Pooling cannot be expressed; known there: Dense, LayerNorm, Normalize, "
                "Dropout"
            )
    return Embedder(
        declared=True,
        pooling=pooling,
        include_prompt=include_prompt,
        layers=tuple(layers),
        tokenizer_length=tokenizer_length,
        **settings,
        **_model_settings(folder / CONFIG),
    )


def _values(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    return read_json(file) if file.is_file() else {}


def _pooling(file: Path) -> tuple[str, bool]:
    values = read_json(file)
    if "pooling_mode" in values:
        named = values["pooling_mode"]
        modes = [named] if isinstance(named, str) else named
    else:
        modes = [FLAGS.get(k, k) for k, v in values.items() if k.startswith("pooling_mode_") and v]
        modes.sort(key=lambda mode: POOLINGS.index(mode) if mode in POOLINGS else -1)
        modes = modes or ["mean"]
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        raise CheckpointError(f"{file}: the pooling {modes!r} is not known; known: {', '.join(POOLINGS)}")
    return "+".join(modes), bool(values.get("include_prompt", True))


def _require_embedding(values: dict[str, Any], file: Path) -> None:
    """Raise for a layer that reads or writes something else than the embedding."""
    for name in ("module_input_name", "module_output_name"):
        if (value := values.get(name)) not in (None, "sentence_embedding"):
            raise CheckpointError(f"{file}: {name} is {value!r}; only sentence_embedding can be expressed")


def _dense(folder: Path) -> Dense:
    file = folder / "config.json"
    values = read_json(file)
    _require_embedding(values, file)
    name = values.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = str(name).rsplit(".", 1)[-1]
    if not str(name).startswith("torch.nn.") or activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{file}: activation_function is {name!r}, which cannot be expressed; known: {', '.join(ACTIVATIONS)}"
        )
    tensors = _tensors(folder)
    weight = _take(tensors, "linear.weight", folder)
    residual = bool(values.get("use_residual", False))
    return Dense(
        weight,
        _take(tensors, "linear.bias", folder) if values.get("bias", True) else None,
        activation,
        residual,
        _take(tensors, "residual.weight", folder) if residual and weight.shape[0] != weight.shape[1] else None,
    )


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / "model.safetensors").is_file():
        return read_tensors(folder / "model.safetensors")
    if (folder / "pytorch_model.bin").is_file():
        return read_pickled_tensors(folder / "pytorch_model.bin")
    raise CheckpointError(
        f"{folder}: holds no weights (model.safetensors or pytorch_model.bin), but the folder's {MODULES} names it; "
        "fetch the checkpoint again"
    )


def _take(tensors: dict[str, torch.Tensor], name: str, folder: Path) -> torch.Tensor:
    if name not in tensors:
        raise CheckpointError(f"{folder}: its weights lack {name}; fetch the checkpoint again")
    return tensors[name].to(torch.float32)


def _settings(folder: Path, tokenizer_length: int | None) -> dict[str, Any]:
    """The transformer module's: longest text and lower case. Raises for what changes numbers and is not followed."""
    files = [folder / name for name in SETTINGS]
    file = next((file for file in files if _values(file)), files[0])
    values = _values(file)
    if (task := values.get("transformer_task")) not in (None, "feature-extraction"):
        raise CheckpointError(f"{file}: transformer_task is {task!r}; only feature-extraction can be expressed")
    modality = values.get("modality_config")
    output = values.get("module_output_name")
    if modality is not None and (modality.get("text") != TEXT_MODALITY or output != "token_embeddings"):
        raise CheckpointError(f"{file}: modality_config is {modality!r}; only last_hidden_state can be expressed")
    if values.get("query_expansion"):
        raise CheckpointError(f"{file}: query_expansion cannot be expressed")
    for name in ("config_args", "config_kwargs"):
        if changed := sorted((values.get(name) or {}).keys() - NEUTRAL):
            raise CheckpointError(f"{file}: {name} changes {', '.join(changed)}; write that into config.json itself")
    length = _length(values.get("max_seq_length"))
    for name in ("tokenizer_args", "processor_kwargs"):
        given = values.get(name) or {}
        length = _length(given.get("model_max_length")) or length
        if changed := sorted(given.keys() - NEUTRAL - {"model_max_length"}):
            raise CheckpointError(
                f"{file}: {name} changes {', '.join(changed)}; write that into tokenizer_config.json itself"
            )
    for modality_name, given in (values.get("processing_kwargs") or {}).items():
        if modality_name not in ("text", "common"):
            continue
        length = _length(given.get("max_length")) or length
        if changed := sorted(given.keys() - {"max_length", "padding", "pad_to_multiple_of", "return_tensors"}):
            raise CheckpointError(f"{file}: processing_kwargs changes {', '.join(changed)}, which cannot be expressed")
    by_task = {name: values[name] for name in ("query_length", "document_length") if values.get(name) is not None}
    return {
        "max_seq_length": tokenizer_length if length is None else length,
        "do_lower_case": bool(values.get("do_lower_case", False)),
        "lengths_by_task": by_task,
    }


def _tokenizer_length(folder: Path) -> int | None:
    """`model_max_length` of tokenizer_config.json, by its old name `max_len` too; None for no limit."""
    values = _values(folder / "tokenizer_config.json")
    return _length(values.get("model_max_length", values.get("max_len")))


def _length(value: Any) -> int | None:
    """A number of tokens; transformers writes 10^30 where there is no limit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 1e18:
        return None
    return int(value)


def _model_settings(file: Path) -> dict[str, Any]:
    """Prompts and what else holds for the model as a whole."""
    values = _values(file)
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CheckpointError(f"{file}: prompts is {prompts!r}, not texts by name")
    texts = {name: text or "" for name, text in prompts.items()}
    default = values.get("default_prompt_name")
    if default is not None and default not in (*texts, *PROMPT_NAMES):
        raise CheckpointError(
            f"{file}: default_prompt_name is {default!r}, which is none of the prompts: {', '.join(texts) or 'none'}"
        )
    truncate = values.get("truncate_dim")
    if truncate is not None and (isinstance(truncate, bool) or not isinstance(truncate, int) or truncate < 1):
        raise CheckpointError(f"{file}: truncate_dim is {truncate!r}, not a number of dimensions")
    similarity = values.get("similarity_fn_name")
    return {
        "prompts": texts,
        "default_prompt": default,
        "truncate_dim": truncate,
        "similarity": similarity if isinstance(similarity, str) else None,
    }
