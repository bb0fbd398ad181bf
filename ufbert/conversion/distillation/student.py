"""The student of a distillation: which of its layers are new, and what each one learns from."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from ufbert.cmm.tree import check_shape
from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, encoder_of
from ufbert.conversion.student import StudentRequest, name_layers
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.pretrained import PretrainedModel
from ufbert.model.shapes import FeedforwardShape

from .straight_through import StraightThroughFFF

__all__ = ["StudentPlan", "check_layers", "check_tokenizer", "new_student", "new_trees", "plan_student"]


@dataclass(frozen=True)
class StudentPlan:
    """A student beside its original."""

    original: UltraFastBertConfig
    config: UltraFastBertConfig
    """The student's."""
    kept: tuple[int, ...]
    """The original's layer that each of the student's stands for."""
    converted: tuple[int, ...] = ()
    """The layers whose feedforward is new; none where layers are dropped, so their numbers are those of both models."""
    random_routing: bool = False
    sparse: bool = False
    """Whether the new layers are the old ones with ReLU, and learn to use few of their neurons."""

    @property
    def dropped(self) -> tuple[int, ...]:
        """The original's layers that the student lacks."""
        return tuple(layer for layer in range(self.original.num_hidden_layers) if layer not in self.kept)

    @property
    def targets(self) -> list[int]:
        """For each state of the student (after every layer, and the final norm) the number of the original's.

        A layer learns to do the work of the dropped ones behind it: its state is that before the next kept layer.
        """
        layers = self.original.num_hidden_layers
        after = [following - 1 for following in (*self.kept[1:], layers)]
        return [*after, layers] if self.original.final_norm else after

    def __str__(self) -> str:
        """What is distilled into what."""
        if self.dropped:
            return (
                f"{self.original.num_hidden_layers} layers into {self.config.num_hidden_layers}, "
                f"without {name_layers(self.dropped)}"
            )
        before = {self.original.layer_shape(layer).describe() for layer in self.converted}
        after = {self.config.layer_shape(layer).describe() for layer in self.converted}
        into = after.pop() if len(after) == 1 else ", ".join(map(str, self.config.layer_shapes))
        if self.sparse:
            own = " and ".join(sorted(before))
            return f"{len(self.converted)} layers of {own} into as many with ReLU, few of them active"
        at_random = ", neurons at random" if self.random_routing else ""
        if len(self.converted) < self.original.num_hidden_layers:
            return f"layers {name_layers(self.converted)} of {' and '.join(sorted(before))} into {into}{at_random}"
        return f"{len(self.converted)} layers of {' and '.join(sorted(before))} into {into}{at_random}"

    @property
    def control(self) -> str:
        """What the closing table compares the student with."""
        if self.dropped:
            return "the original without these layers, untrained"
        if len(self.converted) < self.original.num_hidden_layers:
            return f"feedforward layers {name_layers(self.converted)} put out only their mean"
        return "every feedforward layer puts out its mean"

    @property
    def control_neurons(self) -> int:
        """Neurons that a token uses in a layer of the control; the rounded mean of its layers."""
        used = [self.original.layer_shape(layer).neurons_used for layer in self.kept if layer not in self.converted]
        return round(sum(used) / len(self.kept))

    def own_state(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Those of the original's tensors that the student takes over, by the names that it has for them."""
        own = {}
        for name, tensor in state.items():
            match = re.fullmatch(r"((?:encoder\.)?layers\.)(\d+)(\..*)", name)
            if match is None:
                own[name] = tensor
                continue
            layer, rest = int(match[2]), match[3]
            anew = layer in self.converted and rest.startswith(".feedforward.")
            if layer in self.kept and not anew:
                own[f"{match[1]}{self.kept.index(layer)}{rest}"] = tensor
        return own


def plan_student(loaded: LoadedCheckpoint, request: StudentRequest) -> StudentPlan:
    """The student that `request` asks for of this model.

    Raises `CheckpointError` for a model without the layers or the tokenizer that it takes, `ConfigError` for layers
    that cannot be.
    """
    config, name = loaded.model.config, loaded.name
    if request.relu:
        plan = _with_relu(config, name)
    else:
        plan = _without_layers(config, request, name) if request.dropped else _with_shapes(config, request, name)
    check_tokenizer(loaded)
    return plan


def check_tokenizer(loaded: LoadedCheckpoint) -> None:
    """Raise `CheckpointError` for a model without one."""
    if loaded.tokenizer is None:
        raise CheckpointError(f"{loaded.name}: has no tokenizer, and distilling on text needs the model's own")


def check_layers(option: str, layers: tuple[int, ...], config: UltraFastBertConfig, name: str) -> None:
    """Raise `ConfigError` for layers, in order, that the model `name` lacks."""
    if layers and layers[-1] >= config.num_hidden_layers:
        raise ConfigError(
            f"{option} {name_layers(layers)}: {name} has {config.num_hidden_layers} layers, from 0 to "
            f"{config.num_hidden_layers - 1}"
        )


def _with_shapes(config: UltraFastBertConfig, request: StudentRequest, name: str) -> StudentPlan:
    check_layers("--layers", request.layers, config, name)
    if config.feedforward_kind == "none":
        raise CheckpointError(f"{name}: has no feedforward layers that could become trees")
    count, before = config.num_hidden_layers, config.layer_shapes
    if len(request.shapes) not in (1, count):
        raise ConfigError(
            f"{request.options}: {len(request.shapes)} shapes, and {name} has {count} layers; give one for all "
            "of them, or one for each"
        )
    after = list(before)
    for layer in request.layers or range(count):
        after[layer] = request.shapes[layer if len(request.shapes) > 1 else 0]
    converted = tuple(layer for layer in range(count) if after[layer] != before[layer])
    for layer in converted:
        _check_convertible(config, layer, after[layer], request, name)
    if not converted:
        raise ConfigError(f"{request.options}: {name} has these layers already; there is nothing to distil")
    student = config.replace(feedforward_layers=tuple(map(str, after)))
    return StudentPlan(config, student, tuple(range(count)), converted, request.random_routing)


def _with_relu(config: UltraFastBertConfig, name: str) -> StudentPlan:
    """All dense layers, as the activation is that of all of them; trees have their own."""
    count = config.num_hidden_layers
    dense = tuple(layer for layer in range(count) if config.layer_shape(layer).kind == "dense")
    if not dense:
        raise CheckpointError(f"{name}: has no dense feedforward layers that could get ReLU")
    if rows := tuple(layer for layer in dense if config.layer_shape(layer).token_rows):
        raise CheckpointError(
            f"{name}: layers {name_layers(rows)} have token rows beside their neurons; give --relu to the model before "
            "it gets them"
        )
    # A masked LM's head has its own activation, which stays.
    student = config.replace(hidden_act="relu", head_act=config.head_act or config.hidden_act)
    return StudentPlan(config, student, tuple(range(count)), dense, sparse=True)


def _check_convertible(
    config: UltraFastBertConfig, layer: int, after: FeedforwardShape, request: StudentRequest, name: str
) -> None:
    before = config.layer_shape(layer)
    if before.kind != "dense" and not config.feedforward_layers:
        raise CheckpointError(
            f"{name}: its feedforward layers are trees already ({before.trees} of depth {before.depth}); "
            "only dense layers can be distilled into trees: convert it without --trees and --depth"
        )
    if before.kind != "dense" or before.token_rows:
        raise CheckpointError(
            f"{name}: layer {layer} has {before.describe()} already, and only dense layers can be distilled; choose "
            "others with --layers"
        )
    if after.token_rows > config.vocab_size:
        raise ConfigError(
            f"{request.options}: rows for {after.token_rows:,} tokens, and the vocabulary of {name} has "
            f"{config.vocab_size:,}"
        )
    width = before.intermediate_size
    if after.kind == "fff":
        try:
            check_shape(config.hidden_size, after.trees, after.depth)
        except ConfigError as error:
            raise ConfigError(f"{request.options}: {error}") from error
        if after.shared_neurons > width:
            raise ConfigError(f"{request.options}: the shared neurons are the original's own, and it has {width:,}")
    if after.kind == "dense" and after.intermediate_size > width:
        raise ConfigError(f"{request.options}: the neurons are the original's own, and it has {width:,}")


def _without_layers(config: UltraFastBertConfig, request: StudentRequest, name: str) -> StudentPlan:
    check_layers("--drop-layers", request.dropped, config, name)
    kept = tuple(layer for layer in range(config.num_hidden_layers) if layer not in request.dropped)
    if not kept:
        raise ConfigError(f"{request.options}: leaves no layer of {name}; keep one at least")
    if config.skip_first_prenorm and kept[0]:
        raise ConfigError(
            f"{request.options}: the first layer of {name} has no norm before its attention, so that no other can take "
            "its place; keep layer 0"
        )
    if moved := [layer for new, layer in enumerate(kept) if config.is_local(layer) != config.is_local(new)]:
        raise ConfigError(
            f"{request.options}: of every {config.global_attn_every_n_layers} layers of {name} the first sees the "
            f"whole text, the others a window, and layer {moved[0]} would change sides; drop other layers"
        )
    shapes = tuple(str(config.layer_shape(layer)) for layer in kept)
    return StudentPlan(config, config.replace(num_hidden_layers=len(kept), feedforward_layers=shapes), kept)


def new_student(model: PretrainedModel, plan: StudentPlan) -> PretrainedModel:
    """A copy of the model without the layers to drop, its new feedforward layers trainable and still random."""
    config = plan.config
    student = type(model)(config).to(model.device)
    for layer, shape in zip(encoder_of(student).layers, config.layer_shapes, strict=True):
        if shape.kind == "fff":
            layer.feedforward = new_trees(config, shape, model.device)
    student.load_state_dict(plan.own_state(model.state_dict()), strict=False)
    student.take_embedder(model.embedder)
    return student.eval()


def new_trees(config: UltraFastBertConfig, shape: FeedforwardShape, device: torch.device) -> StraightThroughFFF:
    """Trees of that shape whose routing can be trained, still random."""
    return StraightThroughFFF(
        config.hidden_size,
        shape.trees,
        shape.depth,
        shared_neurons=shape.shared_neurons,
        output_bias=config.use_bias,
        device=device,
    )
