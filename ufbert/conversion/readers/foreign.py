"""What every reader of a foreign checkpoint needs: its configuration and its tensors, with clear errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ufbert.checkpoint.folder import read_json, read_pickled_tensors
from ufbert.checkpoint.git_lfs import refuse_git_lfs_pointer
from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

__all__ = ["ForeignConfig", "ForeignTensors", "Reading", "copy_linear", "copy_norm", "encoder_config", "tensor_names"]

_MISSING = object()

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What data parallelism, torch.compile and activation checkpointing put into names, at any place."""
HOLDERS = ("model", "auto_model")
"""The attribute in which Lightning's and sentence-transformers' modules hold a model."""
PARTS = frozenset(
    {
        "bert",
        "roberta",
        "distilbert",
        "electra",
        "mpnet",
        "nomic_bert",
        "gte",
        "new",
        "embeddings",
        "encoder",
        "transformer",
    }
)
"""First words of names that mean something to a reader."""


@dataclass
class Reading:
    """A foreign checkpoint in our terms: `state` names tensors as our models with a head do."""

    config: UltraFastBertConfig
    state: dict[str, torch.Tensor]
    notes: list[str] = field(default_factory=list)
    """One line for each thing that was left behind or that the user should know."""
    left_heads: list[str] = field(default_factory=list)
    """The tensors of a head that `config` cannot express."""
    stretches: bool = False
    """Whether texts longer than the config's positions are computed alike, as of rotary positions."""

    def encoder_alone(self) -> Reading:
        """The same without any head."""
        config = encoder_config(self.config)
        state = {name: tensor for name, tensor in self.state.items() if name.startswith("encoder.")}
        return Reading(config, state, self.notes, stretches=self.stretches)


def encoder_config(config: UltraFastBertConfig) -> UltraFastBertConfig:
    """The config of a model's encoder, what concerns its head taken back to the defaults."""
    heads = (
        "head_transform",
        "head_act",
        "decoder_bias",
        "tie_word_embeddings",
        "num_labels",
        "id2label",
        "problem_type",
    )
    defaults = UltraFastBertConfig()
    names = [f.name for f in dataclasses.fields(config)]
    changed = {
        name: getattr(defaults, name) for name in names if name in heads or name.startswith(("classifier_", "score_"))
    }
    return config.replace(**changed, architectures=("UltraFastBertModel",))


class ForeignConfig:
    """Values of a foreign `config.json`; every getter raises `CheckpointError` naming the file and the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def section(self, name: str) -> ForeignConfig:
        """A nested object; an absent one reads as empty."""
        values = self.values.get(name) or {}
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{self.where}: {name} is {values!r}, not an object")
        return ForeignConfig(values, f"{self.where}: {name}")

    def get(self, name: str, default: Any = None) -> Any:
        """The value as it is; `default` where it is absent or null."""
        value = self.values.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise CheckpointError(f"{self.where}: {name} is {value!r}, not a whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.where}: {name} is {value!r}, not a number")
        return float(value)

    def translate(self, name: str, meanings: Mapping[Any, str], default: Any = None) -> str:
        """The value's name in our config. Raises for one that our encoder does not have."""
        value = self.get(name, default)
        if not isinstance(value, str | bool | int) or value not in meanings:
            known = ", ".join(str(m) for m in meanings)
            raise CheckpointError(f"{self.where}: {name} is {value!r}, which is not supported; supported: {known}")
        return meanings[value]

    def require(self, name: str, expected: Any, default: Any = _MISSING) -> None:
        """Raise unless the value, or where it is absent the default, is the only one our encoder can express."""
        value = self.get(name, expected if default is _MISSING else default)
        if value != expected:
            raise CheckpointError(
                f"{self.where}: {name} is {value!r}; this encoder can only express {name} = {expected!r}"
            )


class ForeignTensors:
    """The tensors of a checkpoint by their plain names, in float32, and which of them have been read."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
        self.file = file
        self._tensors: dict[str, torch.Tensor] = {}
        for name, plain in plain_names(tensors).items():
            if plain in self._tensors and not torch.equal(self._tensors[plain], tensors[name]):
                raise CheckpointError(f"{file}: holds {plain} twice, once as {name}, with different values")
            self._tensors[plain] = tensors[name]
        self._read: set[str] = set()

    @classmethod
    def load(cls, folder: Path) -> ForeignTensors:
        """safetensors, whole or in shards, or else `pytorch_model.bin`, unpickled weights-only."""
        for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", read_pickled_tensors)):
            if (file := folder / name).is_file():
                return cls(read(file), file)
            if (index := folder / f"{name}.index.json").is_file():
                shards = read_json(index).get("weight_map")
                if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
                    raise CheckpointError(f"{index}: has no weight_map; fetch the checkpoint again")
                tensors: dict[str, torch.Tensor] = {}
                for shard in sorted(set(shards.values())):
                    tensors |= read(folder / Path(shard).name)
                return cls(tensors, index)
        if any(folder.glob("*.onnx")):
            raise CheckpointError(
                f"{folder}: holds an ONNX graph, which is not read back; give the checkpoint that it was made from"
            )
        raise CheckpointError(f"{folder}: holds no weights; expected model.safetensors or pytorch_model.bin")

    def add_prefix(self, prefix: str) -> None:
        """Put something before every name."""
        self._tensors = {prefix + n: t for n, t in self._tensors.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def names(self) -> Collection[str]:
        """Of all tensors."""
        return self._tensors.keys()

    def has_any(self, prefix: str) -> bool:
        """Whether some tensor's name starts so."""
        return any(name.startswith(prefix) for name in self._tensors)

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor of that name and shape. Raises `CheckpointError` if it is missing or of another shape."""
        if name not in self._tensors:
            raise CheckpointError(f"{self.file}: lacks the tensor {name}; is the checkpoint complete?")
        tensor = self._tensors[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{self.file}: {name} has shape {tuple(tensor.shape)}, config.json makes it {shape}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{self.file}: {name} is of type {tensor.dtype}; quantised weights are not read")
        self._read.add(name)
        return tensor.to(torch.float32)

    def rows(self, name: str) -> int:
        """The first dimension of a tensor whose size no config key gives."""
        if name not in self._tensors or self._tensors[name].ndim == 0:
            raise CheckpointError(f"{self.file}: lacks the tensor {name}; is the checkpoint complete?")
        return int(self._tensors[name].shape[0])

    def take_or_zeros(self, name: str, *shape: int) -> torch.Tensor:
        """A bias that may be absent, which is the same as zero."""
        return self.take(name, *shape) if name in self else torch.zeros(shape)

    def take_bias_of(self, name: str, size: int) -> torch.Tensor:
        """`name.bias`, or zeros."""
        return self.take_or_zeros(f"{name}.bias", size)

    def skip(self, *names: str) -> None:
        """Count tensors as read that hold nothing (buffers, copies)."""
        self._read.update(names)

    def unread(self) -> list[str]:
        """Names of the tensors nobody asked for."""
        return sorted(self._tensors.keys() - self._read)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without what training software wraps around a model, and with today's words for a norm's parts."""
    plain = {name: _unwrapped(name) for name in names}
    while plain:
        first = {name.split(".")[0] for name in plain.values()}
        # An attribute of the user's own class, below which everything lies.
        if len(first) > 1 or first & PARTS or not all("." in name for name in plain.values()):
            break
        plain = {name: short.partition(".")[2] for name, short in plain.items()}
    return plain


def _unwrapped(name: str) -> str:
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and (parts[0] in HOLDERS or (parts[0] == "0" and parts[1] in HOLDERS)):
        parts = parts[1:]
    # TensorFlow's names survive in old BERT checkpoints.
    parts[-1] = {"gamma": "weight", "beta": "bias"}.get(parts[-1], parts[-1])
    return ".".join(parts)


def tensor_names(folder: Path) -> list[str]:
    """The plain names of a checkpoint's tensors without reading their values, none where that cannot be."""
    names: list[str] = []
    try:
        for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            if (folder / index).is_file():
                names = list(read_json(folder / index).get("weight_map") or {})
        if (file := folder / "model.safetensors").is_file():
            with safe_open(file, framework="pt") as content:
                names = list(content.keys())
        elif not names and (file := folder / "pytorch_model.bin").is_file():
            names = list(read_pickled_tensors(file))
    except (CheckpointError, SafetensorError, OSError):
        return []
    return list(plain_names(names).values())


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    refuse_git_lfs_pointer(file)
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file, but the checkpoint's index names it; fetch it again") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: damaged or not a safetensors file ({error}); fetch it again") from error


def copy_linear(
    tensors: ForeignTensors, theirs: str, ours: str, out: int, into: int, *, bias: bool = True
) -> dict[str, torch.Tensor]:
    """A dense layer's weight (out, into) and, unless ours has none, bias (out,)."""
    weight = {f"{ours}.weight": tensors.take(f"{theirs}.weight", out, into)}
    return weight | ({f"{ours}.bias": tensors.take_bias_of(theirs, out)} if bias else {})


def copy_norm(
    tensors: ForeignTensors, theirs: str, ours: str, size: int, *, bias: bool = True
) -> dict[str, torch.Tensor]:
    """A LayerNorm's scale and, unless ours has none, shift."""
    parts = ("weight", "bias") if bias else ("weight",)
    return {f"{ours}.{part}": tensors.take(f"{theirs}.{part}", size) for part in parts}
