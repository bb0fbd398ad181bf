"""The base class of everything that can be saved to and loaded from a checkpoint folder.

Tensor names are those of the model with a head; the encoder's start with `encoder.`, whichever class saved them.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ufbert.checkpoint.embedder import FACTS, Embedder
from ufbert.checkpoint.embedder_files import write_embedder
from ufbert.checkpoint.folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    locate_checkpoint,
    read_json,
    read_tensors,
    write_tensors,
)
from ufbert.checkpoint.sentence_transformers import read_embedder
from ufbert.errors import CheckpointError, ConfigError
from ufbert.system.atomic import write_folder

from .config import MODEL_TYPE, UltraFastBertConfig

__all__ = ["PretrainedModel", "read_config", "unallocated"]

ENCODER_PREFIX = "encoder."

logger = logging.getLogger("ufbert.checkpoint")


def read_config(folder: Path) -> UltraFastBertConfig:
    """The config of one of our checkpoints. Raises `CheckpointError` for another kind, saying what to do."""
    values = read_json(folder / CONFIG_FILE)
    if values.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f"{folder}: is a {values.get('model_type', 'model of unknown type')!s} checkpoint, not an "
            f"{MODEL_TYPE} one; run: ufbert convert {folder} DEST"
        )
    try:
        return UltraFastBertConfig.from_dict(values, str(folder / CONFIG_FILE))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


@runtime_checkable
class HasFixedBuffers(Protocol):
    """A module with tables that follow from the config, which no checkpoint stores."""

    def fill_buffers(self) -> None:
        """Compute them."""


class _Uninitialised(TorchFunctionMode):
    """Leaves out `torch.nn.init`: on the meta device it does nothing, yet loads torch._dynamo, for 1.2 s.

    `python -X importtime -m ufbert infer FOLDER FILE` shows what a start loads.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        values = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else values["tensor"]
        return func(*args, **values)


@contextlib.contextmanager
def unallocated() -> Iterator[None]:
    """Modules made within take no memory and no time: their parameters are on the meta device, without values."""
    with torch.device("meta"), _Uninitialised():
        yield


class PretrainedModel(nn.Module):
    """A module with a config that can be saved to and loaded from a folder.

    `embedder` says how its states become embeddings of texts; it comes out of the folder and is saved with the rest.
    """

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = Embedder.from_facts(config.provenance)

    def initialize(self, module: nn.Module) -> None:
        """The published initialisation, for `apply`: normal weights, zero biases, norms at 1 and 0."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def tie_weights(self) -> None:
        """Share the tensors that the config says are shared; a model without a decoder has none."""

    def take_embedder(self, embedder: Embedder) -> None:
        """Make `embedder` the model's, and note in its config what it says."""
        self.embedder = embedder
        others = {name: value for name, value in self.config.provenance.items() if name not in FACTS}
        self.config = self.config.replace(provenance={**others, **embedder.facts()})

    @property
    def longest_tokenized(self) -> int:
        """The tokens at which its tokenizer cuts a text: the model's positions, or less where the tokenizer says so."""
        positions = self.config.max_position_embeddings
        return min(positions, self.embedder.tokenizer_length or positions)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        **changes: Any,
    ) -> Self:
        """Load a checkpoint of ours onto the CPU, in evaluation mode.

        `revision` is a branch, tag or commit of a model on the hub. `changes` replace fields of the config
        (`num_labels=3`). A head the checkpoint lacks is initialised anew, and a log line says so. Raises
        `CheckpointError` for a folder that is none, is damaged, or comes from other software, and `ConfigError`
        for changes that cannot be.
        """
        folder = locate_checkpoint(folder_or_hub_id, revision)
        config = read_config(folder).replace(**changes)
        state = read_tensors(folder / WEIGHTS_FILE)
        with unallocated():  # no time spent on values that are about to be replaced
            model = cls(config)
        expected = model._file_names()
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items() if k in expected}
        for name, tensor in state.items():
            if tensor.shape != expected[name].shape:
                raise CheckpointError(
                    f"{folder / WEIGHTS_FILE}: {name} has shape {tuple(tensor.shape)}, "
                    f"{CONFIG_FILE} makes it {tuple(expected[name].shape)}"
                )
        missing = sorted(expected.keys() - state.keys())
        if lacking := [name for name in missing if name.startswith(ENCODER_PREFIX)]:
            raise CheckpointError(f"{folder / WEIGHTS_FILE}: lacks {lacking[0]} and {len(lacking) - 1} more")
        prefix = "" if _has_encoder(model) else ENCODER_PREFIX
        model.load_state_dict({k.removeprefix(prefix): v for k, v in state.items()}, strict=False, assign=True)
        model.tie_weights()
        model._materialise(dtype)
        embedder = read_embedder(folder, config.provenance)
        if embedder.declared:
            model.take_embedder(embedder)
        else:  # the config stays what it was written as
            model.embedder = embedder
        if missing:
            heads = ", ".join(sorted({name.split(".")[0] for name in missing}))
            logger.info("%s holds no weights for %s: initialised anew", folder, heads)
        return model.eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        tokenizer: Any = None,
        card: str | None = None,
        replace: bool = False,
    ) -> None:
        """Write the checkpoint folder atomically. `tokenizer` is a `tokenizers.Tokenizer`, `card` Markdown.

        Raises `OutputError` if the folder exists (unless `replace`), or cannot be written.
        """
        with write_folder(Path(folder), replace=replace) as temporary:
            self.write(temporary, tokenizer=tokenizer, card=card)

    def write(self, folder: Path, *, tokenizer: Any = None, card: str | None = None) -> None:
        """The files of `save_pretrained`, into a folder that exists."""
        config = self.config.replace(architectures=(type(self).__name__,))
        (folder / CONFIG_FILE).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        state = {k: v.detach().cpu().contiguous() for k, v in self._file_names().items()}
        write_tensors(state, folder / WEIGHTS_FILE)
        if tokenizer is not None:
            from ufbert.checkpoint.tokenizer import save_tokenizer

            save_tokenizer(tokenizer, folder, self.longest_tokenized)
        embedder = self.embedder if self.embedder.declared else Embedder.from_facts(config.provenance)
        write_embedder(embedder, config.hidden_size, config.max_position_embeddings, folder)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")

    def _file_names(self) -> dict[str, torch.Tensor]:
        """The tensors of the file by their names there; a tied decoder is stored once, as the embedding."""
        prefix = "" if _has_encoder(self) else ENCODER_PREFIX
        state = {prefix + k: v for k, v in self.state_dict().items()}
        if self.config.tie_word_embeddings:
            state.pop("decoder.weight", None)
        return state

    def _materialise(self, dtype: torch.dtype) -> None:
        """Give values to what no file held: fixed tables, and heads that are new."""
        for module in self.modules():
            if isinstance(module, HasFixedBuffers):
                module.fill_buffers()
            own = list(module.parameters(recurse=False))
            if own and all(p.is_meta for p in own):
                module.to_empty(device="cpu", recurse=False)
                module.to(dtype)
                if isinstance(module, nn.LayerNorm):
                    module.reset_parameters()
                else:
                    self.initialize(module)
            elif any(p.is_meta for p in own):
                raise CheckpointError(f"the file holds only part of {type(module).__name__}'s parameters")


def _has_encoder(model: nn.Module) -> bool:
    return hasattr(model, "encoder")
