"""A model of transformers in its own class: eager, cast, compiled layer by layer, or whole with frozen weights."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
from typing import Any

import torch
from torch import nn

from ufbert.errors import CheckpointError

from .job import Ids, Job, Runner, States

__all__ = ["load", "load_model"]


def load_model(job: Job) -> Any:
    """The encoder of the job's folder, without a pooler, which no other implementation computes.

    It has sdpa attention where its class can. No code out of the folder is run. Raises `CheckpointError` for a folder
    that transformers does not load, or loads with weights that the folder lacks.
    """
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = job.path / job.peer_model
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        cls = transformers.MODEL_MAPPING[type(config)]
        pooler = "add_pooling_layer" in inspect.signature(cls).parameters
        model, found = cls.from_pretrained(
            folder,
            config=config,
            attn_implementation="sdpa" if cls._supports_sdpa else "eager",
            dtype=torch.float32,
            output_loading_info=True,
            **({"add_pooling_layer": False} if pooler else {}),
        )
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"transformers cannot load it: {reason}") from error
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(f"transformers cannot load it: its {cls.__name__} finds no {missing[0]} there")
    return model.eval().requires_grad_(False)


def layers_of(model: Any) -> nn.ModuleList:
    """Whatever its class calls them."""
    number = model.config.num_hidden_layers
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == number)


def load(job: Job) -> Runner:
    """A runner of this module."""
    return HuggingFace(job)


class HuggingFace:
    """See the module."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self.versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        self.device = torch.device(job.device)
        options = job.options
        self.compiled, self.frozen = bool(options.get("compiled")), bool(options.get("frozen"))
        self.autocast = job.precision == "bfloat16" and not options.get("cast")
        model = load_model(job)
        if options.get("cast"):
            model = model.to(torch.bfloat16)
        self.model = model.to(self.device)
        self.function = self.model

    def shape(self, batch: int, length: int) -> None:
        """Compile anew: a compilation for any shape is slower than one for this one."""
        if self.frozen:
            from torch._inductor import config

            torch.compiler.reset()
            config.freezing = True
            self.function = torch.compile(self.model, dynamic=False)
        elif self.compiled:
            torch.compiler.reset()
            # The layers are alike, so one compilation serves all.
            for layer in layers_of(self.model):
                layer.compile(dynamic=False)

    def take(self, ids: Ids) -> torch.Tensor:
        """On the device."""
        return torch.from_numpy(ids).to(self.device)

    def run(self, taken: torch.Tensor) -> torch.Tensor:
        """No mask: nothing is padded."""
        cast: Any = torch.autocast(self.device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        # Freezing needs no_grad; inference_mode saves the others some bookkeeping.
        with torch.no_grad() if self.frozen else torch.inference_mode(), cast:
            result: torch.Tensor = self.function(input_ids=taken).last_hidden_state
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return result

    def states(self, result: torch.Tensor) -> States:
        """In float32."""
        values: States = result.float().cpu().numpy()
        return values
