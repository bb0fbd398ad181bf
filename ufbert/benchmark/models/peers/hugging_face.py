"""transformers' `BertModel`: eager, cast, compiled layer by layer, or compiled whole with frozen weights."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from typing import Any

import torch

from .job import Ids, Job, Runner, States

__all__ = ["load", "load_bert"]


def load_bert(job: Job) -> Any:
    """The `BertModel` of the job's folder, without the pooler, which no other implementation computes."""
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.BertModel.from_pretrained(
        job.path / "bert", add_pooling_layer=False, attn_implementation="sdpa", dtype=torch.float32
    )
    return model.eval().requires_grad_(False)


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
        model = load_bert(job)
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
            for layer in self.model.encoder.layer:
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
