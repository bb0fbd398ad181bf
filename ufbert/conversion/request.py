"""What `ufbert convert` is asked for: from where to where, in which form, exactly or into trees."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from ufbert.errors import ConfigError
from ufbert.settings.distillation import DistillationSettings

__all__ = ["ConversionRequest", "TreeShape"]


@dataclass(frozen=True)
class TreeShape:
    """What takes the place of a dense layer."""

    trees: int
    depth: int
    shared: int = 0
    """Dense neurons beside the trees, which every token uses."""

    def __str__(self) -> str:
        beside = f" beside {self.shared} shared neurons" if self.shared else ""
        return f"{self.trees} trees of depth {self.depth}{beside}"

    @property
    def options(self) -> str:
        """As `ufbert convert` takes it."""
        return f"--trees {self.trees} --depth {self.depth}" + (f" --shared {self.shared}" if self.shared else "")


FORMS = ("ultrafastbert", "dense", "onnx")


@dataclass(frozen=True)
class ConversionRequest:
    """One conversion. Raises `ConfigError`, in the options' names, for parts that do not go together."""

    source: str | Path
    """Checkpoint folder or hub id."""
    destination: Path
    """New folder for the result."""
    to: str = "ultrafastbert"
    """`ultrafastbert`, `dense` (Hugging Face's layout) or `onnx`."""
    trees: int | None = None
    """P of every layer; None, with `depth` and without `corpus`, converts exactly."""
    depth: int | None = None
    """D of every layer."""
    shared: int = 0
    """Dense neurons beside the trees of every layer."""
    corpus: tuple[str, ...] = ()
    """Files, globs, folders, hub:NAME or `embedded` to distil on."""
    revision: str | None = None
    """Branch, tag or commit of a source on the hub; None takes its main branch."""
    family: str | None = None
    """How the source is laid out, where its config.json does not say; None takes what it says."""
    drop_head: bool = False
    """Take the encoder alone."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """How dense layers become trees, if they do."""
    resume: bool = False
    """Go on with an interrupted distillation into `destination`."""
    push: str | None = None
    """Repository of the Hugging Face hub to send the result to."""
    private: bool = False
    """Whether that repository shall be private."""
    command: str = ""
    """The command line for the model card; empty makes one up."""

    def __post_init__(self) -> None:
        if self.to not in FORMS:
            raise ConfigError(f"--to {self.to}: unknown form; known: {', '.join(FORMS)}")
        if self.private and self.push is None:
            raise ConfigError("--private is of the repository that --push sends to; give --push NAME, or leave it out")
        if self.trees is None and self.depth is None:
            if self.resume:
                raise ConfigError("--resume continues a distillation; give its --trees, --depth and --corpus too")
            if self.corpus:
                raise ConfigError(
                    "--corpus is what trees are distilled on; give --trees and --depth too, or leave it out"
                )
            if self.shared:
                raise ConfigError(f"--shared {self.shared} without trees to stand beside: give --trees and --depth too")
            return
        if self.trees is None or self.depth is None:
            given, absent = ("--depth", "--trees") if self.trees is None else ("--trees", "--depth")
            raise ConfigError(f"{given} without {absent}: give both, for example --trees 48 --depth 4")
        if not self.corpus:
            raise ConfigError("--trees needs text to distil on; give --corpus FILE, or --corpus embedded")
        if self.to != "ultrafastbert":
            raise ConfigError(
                f"--trees makes an ultrafastbert checkpoint; convert that with --to {self.to} in a second step"
            )
        if self.trees < 1:
            raise ConfigError(f"--trees must be at least 1, not {self.trees}")
        if self.depth < 0:
            raise ConfigError(f"--depth must be at least 0, not {self.depth}")
        if self.shared < 0:
            raise ConfigError(f"--shared must be at least 0, not {self.shared}")

    @property
    def shape(self) -> TreeShape | None:
        """Of the layers to distil into; None for an exact conversion."""
        return None if self.trees is None or self.depth is None else TreeShape(self.trees, self.depth, self.shared)

    @property
    def command_line(self) -> str:
        """What the model card gives as the command."""
        if self.command:
            return self.command
        words = ["ufbert", "convert", str(self.source), str(self.destination)]
        if self.shape is not None:
            words += ["--trees", str(self.trees), "--depth", str(self.depth)]
            words += ["--shared", str(self.shared)] if self.shared else []
            words += [word for text in self.corpus for word in ("--corpus", text)]
        words += [] if self.family is None else ["--family", self.family]
        words += ["--drop-head"] if self.drop_head else []
        return shlex.join(words)
