"""What a benchmark run is: subject, shape, batch sizes, budget; checked before anything slow begins."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from ufbert.cmm.tree import check_shape, node_count
from ufbert.errors import ConfigError
from ufbert.system.resources import available_cores

__all__ = ["PRESETS", "BenchmarkSettings", "Shape"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One feedforward layer, conditional and dense."""

    hidden_size: int = 768
    """H, width of a token."""
    trees: int = 1
    """P."""
    depth: int = 11
    """D, edges from root to leaf."""
    intermediate_size: int = 4095
    """Neurons of the dense layer that the trees are compared with."""
    shared_neurons: int = 0
    """S, dense neurons beside the trees, which every token uses."""

    @property
    def neurons_available(self) -> int:
        """Neurons of all trees, and the shared ones."""
        return self.trees * node_count(self.depth) + self.shared_neurons

    @property
    def neurons_visited(self) -> int:
        """Neurons a token uses."""
        return self.trees * (self.depth + 1) + self.shared_neurons

    @property
    def name(self) -> str:
        """Trees x depth, and the shared neurons beside them, as in `model.shape`."""
        return f"{self.trees}x{self.depth}" + (f"+{self.shared_neurons}" if self.shared_neurons else "")

    def weight_bytes(self, neurons: int, item_bytes: int) -> int:
        """Of a layer of so many neurons, with a bias each."""
        return neurons * (2 * self.hidden_size + 1) * item_bytes

    @property
    def bound(self) -> float:
        """The largest possible speedup over the dense layer: its neurons over those visited."""
        return self.intermediate_size / self.neurons_visited


# The source article compares BERT-base's layer as 1x11: 4,095 neurons on both sides. For GPT-3 it sets the
# dense layer of 4 * 12288 neurons against the next larger tree.
PRESETS: dict[str, dict[str, Any]] = {
    "bert-base": {"hidden_size": 768, "trees": 1, "depth": 11, "heads": 12, "encoder_layers": 12},
    "bert-large": {"hidden_size": 1024, "trees": 1, "depth": 11, "heads": 16, "encoder_layers": 24},
    "gpt3": {
        "hidden_size": 12288, "trees": 1, "depth": 15, "intermediate_size": 49152,
        "heads": 96, "encoder_layers": 96, "batches": (1, 8, 32),
    },
}  # fmt: skip

DTYPES = ("float32", "bfloat16")
ENCODER_DTYPES = (*DTYPES, "int8")
# The encoder's run loads a dozen processes and compiles for each batch size before it times anything.
DEFAULT_SECONDS = {"layer": 100.0, "encoder": 300.0, "training": 100.0}
# BERT's own ratio of neurons to hidden size, which the peers get.
BERT_NEURONS = 4
DEFAULT_BATCHES = {
    ("layer", "forward"): (1, 8, 32, 128, 1024, 8192),
    ("layer", "training"): (32, 256, 1024, 4096),
    ("encoder", "forward"): (1, 16),
    ("training", "forward"): (8, 32),
}
# A GPU is not filled by fewer.
GPU_BATCHES = {
    ("layer", "forward"): (1, 128, 1024, 16384, 131072),
    ("layer", "training"): (1024, 16384, 131072),
    ("encoder", "forward"): (1, 16, 128),
    ("training", "forward"): (32, 128),
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Everything that fixes a run. Raises `ConfigError` on a bad value."""

    subject: str = "layer"
    """`layer`, `encoder` (forward pass) or `training` (a whole training step)."""
    model: str | None = None
    """The checkpoint that is the encoder, in the place of one of `shape`, `layers` and `heads`."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    shape: Shape = Shape()
    batches: tuple[int, ...] = DEFAULT_BATCHES["layer", "forward"]
    """Tokens of a call for a layer; sequences of a call otherwise."""
    threads: int = 1
    """CPU threads of every implementation."""
    dtypes: tuple[str, ...] = DTYPES
    direction: str = "forward"
    """A layer's `forward`, or `training`: forward and backward."""
    layers: int = 12
    """Layers whose weights are cycled through; layers of the encoder."""
    heads: int = 12
    """Attention heads of the encoder."""
    key_value_heads: int | None = None
    """Of our encoder with trees, where they are fewer than its heads."""
    sequence_length: int = 128
    """Tokens of a sequence of the encoder."""
    implementations: tuple[str, ...] = ()
    """Names of the implementations to time; empty times all that are there."""
    seconds: float = 100.0
    """Time of the whole run. Every figure gets three samples at least, even if that takes longer."""
    seed: int = 0
    """Seed of weights and inputs."""

    def __post_init__(self) -> None:
        shape = self.shape
        if self.model is not None and self.subject != "encoder":
            raise ConfigError("--model belongs to `bench encoder`")
        check_shape(shape.hidden_size, shape.trees, shape.depth)
        if shape.intermediate_size < 1:
            raise ConfigError(f"--intermediate-size must be at least 1, not {shape.intermediate_size}")
        if shape.shared_neurons < 0:
            raise ConfigError(f"--shared must be at least 0, not {shape.shared_neurons}")
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"--batch takes whole numbers of at least 1, not {list(self.batches)}")
        forward_layer = (self.subject, self.direction, self.device) == ("layer", "forward", "cpu")
        known = ENCODER_DTYPES if self.subject == "encoder" or forward_layer else DTYPES
        for dtype in self.dtypes:
            if dtype not in known:
                raise ConfigError(f"--dtype takes {', '.join(known[:-1])} and {known[-1]}, not {dtype!r}")
        if self.threads < 1:
            raise ConfigError(f"--threads must be at least 1, not {self.threads}")
        if not self.seconds > 0:
            raise ConfigError(f"--seconds must be above 0, not {self.seconds}")
        if self.subject != "layer" and shape.hidden_size % self.heads:
            raise ConfigError(f"--hidden-size {shape.hidden_size} is no multiple of {self.heads} attention heads")
        if self.subject != "layer" and shape.shared_neurons:
            raise ConfigError(f"--shared belongs to `bench layer`; `bench {self.subject}` has trees alone")
        if self.key_value_heads is not None:
            if self.subject != "encoder":
                raise ConfigError("--key-value-heads belongs to `bench encoder`")
            if self.key_value_heads < 1 or self.heads % self.key_value_heads:
                raise ConfigError(f"--key-value-heads {self.key_value_heads} must divide {self.heads} attention heads")
        if self.subject != "layer" and self.direction != "forward":
            raise ConfigError(
                "--direction belongs to `bench layer`; `bench training` times forward and backward of a model"
            )

    @classmethod
    def from_options(
        cls,
        *,
        subject: str = "layer",
        model: str | None = None,
        device: str = "cpu",
        preset: str = "bert-base",
        batches: str = "",
        threads: int = 0,
        trees: int | None = None,
        depth: int | None = None,
        shared_neurons: int = 0,
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        key_value_heads: int | None = None,
        sequence_length: int = 128,
        dtypes: str = "",
        direction: str = "forward",
        implementations: str = "",
        seconds: float | None = None,
        seed: int = 0,
    ) -> Self:
        """Settings from the command line's values: a preset, changed by whatever else was given."""
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        chosen = PRESETS[preset]
        hidden_size = hidden_size or int(chosen["hidden_size"])
        trees = trees or int(chosen["trees"])
        depth = int(chosen["depth"]) if depth is None else depth
        check_shape(hidden_size, trees, depth)
        if not intermediate_size and subject == "encoder":
            intermediate_size = BERT_NEURONS * hidden_size
        if not intermediate_size:
            as_preset = (trees, depth) == (chosen["trees"], chosen["depth"])
            intermediate_size = int(chosen.get("intermediate_size", 0)) if as_preset else 0
            intermediate_size = (intermediate_size or trees * node_count(depth)) + shared_neurons
        if not batches:
            default = (GPU_BATCHES if device == "cuda" else DEFAULT_BATCHES).get((subject, direction), (1,))
            numbers = tuple(chosen.get("batches", default)) if subject == "layer" else default
        else:
            numbers = tuple(_whole_number(item) for item in _items(batches))
        default_dtypes = {"layer": DTYPES, "encoder": ENCODER_DTYPES, "training": DTYPES}[subject]
        return cls(
            subject=subject,
            model=model,
            device=device,
            shape=Shape(
                hidden_size=hidden_size,
                trees=trees,
                depth=depth,
                intermediate_size=intermediate_size,
                shared_neurons=shared_neurons,
            ),
            batches=tuple(sorted(set(numbers))),
            threads=threads or available_cores(),
            dtypes=tuple(dict.fromkeys(_items(dtypes))) or default_dtypes,
            direction=direction,
            layers=layers or (12 if subject == "layer" else int(chosen["encoder_layers"])),
            heads=heads or int(chosen["heads"]),
            key_value_heads=key_value_heads,
            sequence_length=sequence_length,
            implementations=tuple(_items(implementations)),
            seconds=DEFAULT_SECONDS[subject] if seconds is None else seconds,
            seed=seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """The `settings` of the JSON file."""
        values = dataclasses.asdict(self)
        shape = values.pop("shape")
        if self.model is not None:  # whose own shape the report has
            return {name: value for name, value in values.items() if name not in ("layers", "heads", "key_value_heads")}
        return {
            **values,
            **shape,
            "neurons_available": self.shape.neurons_available,
            "neurons_visited": self.shape.neurons_visited,
            "bound": self.shape.bound,
        }


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--batch takes whole numbers separated by commas, not {text!r}") from None
