"""The encoders that can be timed, whose they are, and what they need."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ufbert.benchmark.layer.implementations import Absent
from ufbert.errors import ConfigError, MissingExtraError
from ufbert.system.compiler import no_compiler

from .ours import precisions

__all__ = ["ENCODERS", "Encoder", "EncoderVariant", "choose_encoders", "encoders_of_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One way to run the encoder; each of its precisions is a row of the table."""

    name: str
    about: str
    layer: str
    """`ff` (all neurons) or `fff` (one path per tree)."""
    module: str
    """Of this package; its `load(job)` gives the `Runner`."""
    precisions: Callable[[], tuple[str, ...]]
    packages: tuple[str, ...] = ()
    """What must be installed, out of the extra `peers`."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """For `load`."""
    compiled: bool = False
    default: bool = True

    @property
    def is_peer(self) -> bool:
        """Whether others made it."""
        return bool(self.packages)

    def exports(self, precision: str) -> tuple[str, ...]:
        """What `export` must make for it, in this order."""
        kinds = {"onnx_runtime": ("onnx", "onnx-int8")[: 1 + (precision == "int8")], "open_vino": ("openvino",)}
        return ("reference", *kinds.get(self.module, ())) if self.is_peer else ()


@dataclass(frozen=True)
class EncoderVariant:
    """An encoder in one precision."""

    encoder: Encoder
    precision: str

    def absent(self, reason: str, *, wrong: bool = False) -> Absent:
        """The line of the report for what could not be timed."""
        encoder = self.encoder
        return Absent(
            layer=encoder.layer, implementation=encoder.name, dtype=self.precision, reason=reason, wrong=wrong
        )


def _fixed(*names: str) -> Callable[[], tuple[str, ...]]:
    return lambda: names


_EXPORTED = ("transformers", "onnx")  # and the two that run what was exported
ENCODERS = (
    Encoder(
        name="ufbert", layer="fff", module="ours", precisions=precisions, options={"model": "fff"},
        about="ours, as `ufbert infer` runs it",
    ),
    Encoder(
        name="ufbert-dense", layer="ff", module="ours", precisions=precisions, options={"model": "dense"},
        about="our dense twin: the weights of the peers, run as `ufbert infer` runs them",
    ),
    Encoder(
        name="ufbert-reference", layer="fff", module="ours", precisions=_fixed("float32"),
        options={"model": "fff", "backend": "reference"}, default=False,
        about="ours with the plain PyTorch walk: rows gathered for each token and level; only when asked for",
    ),
    Encoder(
        name="transformers", layer="ff", module="hugging_face", precisions=_fixed("float32", "bfloat16"),
        packages=("transformers",), about="its own class (`BertModel`) with sdpa attention; bfloat16 is autocast",
    ),
    Encoder(
        name="transformers-cast", layer="ff", module="hugging_face", precisions=_fixed("bfloat16"),
        packages=("transformers",), options={"cast": True},
        about="the same with its weights converted to bfloat16 once, norms and sums included",
    ),
    Encoder(
        name="transformers-compiled", layer="ff", module="hugging_face", precisions=_fixed("float32", "bfloat16"),
        packages=("transformers",), options={"compiled": True}, compiled=True,
        about="the same with every layer through `torch.compile` for exactly this batch; bfloat16 is autocast",
    ),
    Encoder(
        name="transformers-frozen", layer="ff", module="hugging_face", precisions=_fixed("float32", "bfloat16"),
        packages=("transformers",), options={"frozen": True}, compiled=True, default=False,
        about="the whole model through `torch.compile` with frozen, packed weights; only when asked for, it compiles "
        "for minutes",
    ),
    Encoder(
        name="onnxruntime", layer="ff", module="onnx_runtime", precisions=_fixed("float32", "int8"),
        packages=(*_EXPORTED, "onnxruntime"), devices=("cpu",),
        about="ONNX Runtime on what was exported of that class; int8 is its dynamic quantisation",
    ),
    Encoder(
        name="openvino", layer="ff", module="open_vino", precisions=_fixed("float32", "bfloat16"),
        packages=("transformers", "openvino"), devices=("cpu",),
        about="OpenVINO on what was converted of that class, compiled for exactly this batch; bfloat16 by its hint",
    ),
)  # fmt: skip


def encoders_of_checkpoint(layer: str, folder: str) -> tuple[Encoder, ...]:
    """Those that can run a checkpoint of `layer`s, which ours read out of `folder`: it has no twin."""
    encoders = []
    for encoder in ENCODERS:
        if encoder.is_peer:
            encoders.append(encoder)
        elif encoder.name == "ufbert" or (encoder.name == "ufbert-reference" and layer == "fff"):
            options = {**encoder.options, "model": folder}
            encoders.append(dataclasses.replace(encoder, layer=layer, options=options))
    return tuple(encoders)


def choose_encoders(
    names: tuple[str, ...], dtypes: tuple[str, ...], device: str, encoders: Sequence[Encoder] = ENCODERS
) -> tuple[list[EncoderVariant], list[Absent]]:
    """What to time, and what was wanted but is not to be had here, with the reason.

    `names` selects; empty takes the default ones. Raises `ConfigError` for a name that is unknown or not among
    `encoders`, listing these.
    """
    known = [encoder.name for encoder in encoders]
    for name in names:
        if name not in known:
            unknown = not any(encoder.name == name for encoder in ENCODERS)
            problem = "unknown implementation {!r}; known" if unknown else "{!r} does not run this checkpoint; these do"
            raise ConfigError(f"{problem.format(name)}: {', '.join(known)}")
    entries: list[EncoderVariant] = []
    absent: list[Absent] = []
    for encoder in encoders:
        if not (encoder.name in names if names else encoder.default):
            continue
        wanted = [EncoderVariant(encoder, dtype) for dtype in dtypes if dtype in encoder.precisions()]
        if reason := _obstacle(encoder, device) or ("" if wanted else f"has only {', '.join(encoder.precisions())}"):
            absent.append(EncoderVariant(encoder, "").absent(reason))
        else:
            entries += wanted
    return entries, absent


def _obstacle(encoder: Encoder, device: str) -> str | None:
    """Why it cannot run here, or None."""
    if device not in encoder.devices:
        return f"runs on {', '.join(encoder.devices)} here, not on {device}"
    for package in encoder.packages:
        if importlib.util.find_spec(package) is None:
            return str(MissingExtraError(package, "peers", encoder.name))
    return no_compiler() if encoder.compiled else None
