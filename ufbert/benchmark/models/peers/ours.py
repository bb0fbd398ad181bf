"""Our encoder as `ufbert infer` runs it: the pipeline itself prepares it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch

from ufbert.inference.engine import PackedEncoder
from ufbert.inference.pipeline import Pipeline
from ufbert.model.encoder import UltraFastBertModel
from ufbert.settings.inference import PRECISIONS
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.devices import autocast

from .job import Ids, Job, Runner, States

__all__ = ["Ours", "load", "precisions"]


def precisions() -> tuple[str, ...]:
    """Those that `ufbert infer --precision` takes."""
    return PRECISIONS


def load(job: Job) -> Runner:
    """A runner of this module."""
    return Ours(job)


class Ours:
    """A pipeline for embeddings, of which the encoder alone is timed: pooling and text are no part of it."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)  # the kernels follow torch
        keep_freed_memory()  # as `ufbert infer` does
        self.versions = {name: importlib.metadata.version(name) for name in ("torch", "numba")}
        self.pipeline = Pipeline(
            job.path / job.options["model"],
            "embed",
            precision=job.precision,
            device=job.device,
            backend=job.options.get("backend", "auto"),
        )
        task: Any = self.pipeline._task
        self.encoder: UltraFastBertModel | PackedEncoder = task.model
        self.device, self.dtype = self.pipeline.device, self.pipeline.dtype

    def shape(self, batch: int, length: int) -> None:
        """It takes any."""

    def take(self, ids: Ids) -> torch.Tensor:
        """On the device."""
        return torch.from_numpy(ids).to(self.device)

    def run(self, taken: torch.Tensor) -> torch.Tensor:
        """No mask, as the pipeline leaves it out for a batch without padding."""
        with torch.inference_mode(), autocast(self.device, self.dtype):
            result = self.encoder.encode(taken)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return result

    def states(self, result: torch.Tensor) -> States:
        """In float32."""
        values: States = result.float().cpu().numpy()
        return values
