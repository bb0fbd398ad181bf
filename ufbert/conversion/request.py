"""What `ufbert convert` is asked for: from where to where, in which form, exactly or into a student."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from ufbert.errors import ConfigError
from ufbert.settings.distillation import DistillationSettings

from .student import StudentRequest, read_student

__all__ = ["ConversionRequest"]


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
    """P of every layer; without it and the other options of a student, and without `corpus`, converts exactly."""
    depth: int | None = None
    """D of every layer."""
    shared: int = 0
    """Dense neurons beside the trees of every layer."""
    dense: int | None = None
    """Neurons of every layer, dense ones, in place of trees; 0 for no feedforward layers."""
    token_rows: int = 0
    """Tokens that have a row of their own in every layer, beside its neurons."""
    shape: tuple[str, ...] = ()
    """What the layers become as `feedforward_layers` of a config writes it, one for all or one for each; or `auto`."""
    layers: str | None = None
    """The layers to convert, such as `2-5` or `0,3`; None for all."""
    drop_layers: str | None = None
    """The layers to leave out whole."""
    random_routing: bool = False
    """Nodes of trees take neurons at random."""
    keep: float | None = None
    """With the shape `auto`: choose the fastest layers that are expected to keep so much of the original's quality."""
    speed: str | None = None
    """Choose the most exact layers with which the model is so many times as fast as the original, such as `2x`."""
    relu: bool = False
    """Keep all dense layers as wide as they are, with ReLU, and let them use few of their neurons for a token."""
    teacher: str | Path | None = None
    """Checkpoint that the end-to-end training learns from; None for the source."""
    corpus: tuple[str, ...] = ()
    """Files, globs, folders, hub:NAME or `embedded` to distil on."""
    revision: str | None = None
    """Branch, tag or commit of a source on the hub; None takes its main branch."""
    family: str | None = None
    """How the source is laid out, where its config.json does not say; None takes what it says."""
    drop_head: bool = False
    """Take the encoder alone."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """How the student is trained, if there is one."""
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
        student = self.student
        if student is None:
            if self.resume:
                raise ConfigError("--resume continues a distillation; give its --trees, --depth and --corpus too")
            if self.teacher is not None:
                raise ConfigError(
                    f"--teacher {self.teacher} is what a distillation learns from; give --trees and --depth too, or "
                    "leave it out"
                )
            if self.corpus:
                raise ConfigError(
                    "--corpus is what trees are distilled on; give --trees and --depth too, or leave it out"
                )
            return
        option = student.options.split()[0]
        if self.teacher is not None and self.keep is not None:
            raise ConfigError(
                f"--keep {self.keep:g} is measured beside SOURCE, before anything is learned from --teacher "
                f"{self.teacher}; choose by --speed alone, or leave --teacher out"
            )
        if not self.corpus:
            raise ConfigError(f"{option} needs text to distil on; give --corpus FILE, or --corpus embedded")
        if self.to != "ultrafastbert":
            raise ConfigError(
                f"{option} makes an ultrafastbert checkpoint; convert that with --to {self.to} in a second step"
            )

    @property
    def student(self) -> StudentRequest | None:
        """What to distil into; None for an exact conversion. Raises `ConfigError` as `read_student` does."""
        return read_student(
            trees=self.trees,
            depth=self.depth,
            shared=self.shared,
            dense=self.dense,
            token_rows=self.token_rows,
            shape=self.shape,
            layers=self.layers,
            drop_layers=self.drop_layers,
            random_routing=self.random_routing,
            keep=self.keep,
            speed=self.speed,
            relu=self.relu,
        )

    @property
    def command_line(self) -> str:
        """What the model card gives as the command."""
        if self.command:
            return self.command
        words = ["ufbert", "convert", str(self.source), str(self.destination)]
        if (student := self.student) is not None:
            words += student.options.split()
            words += [] if self.layers is None else ["--layers", self.layers]
            words += ["--random-routing"] if self.random_routing else []
            words += [] if self.teacher is None else ["--teacher", str(self.teacher)]
            words += [word for text in self.corpus for word in ("--corpus", text)]
        words += [] if self.family is None else ["--family", self.family]
        words += ["--drop-head"] if self.drop_head else []
        return shlex.join(words)
