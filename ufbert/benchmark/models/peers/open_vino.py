"""OpenVINO on the model that `export` wrote, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino

from .job import Ids, Job, Runner, States

__all__ = ["load"]

PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def load(job: Job) -> Runner:
    """A runner of this module."""
    return OpenVino(job)


class OpenVino:
    """One request at a time on all threads, which is what its latency hint is for."""

    def __init__(self, job: Job) -> None:
        self.versions = {"openvino": openvino.__version__.split("-")[0]}
        self.core = openvino.Core()
        self.path = job.path / "openvino.xml"
        self.properties = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[job.precision],
            "INFERENCE_NUM_THREADS": job.threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Otherwise it takes one thread of each core's two, and leaves half of a small machine idle.
            "ENABLE_HYPER_THREADING": True,
        }
        self.request: Any = None
        self.output = np.empty(0, np.float32)

    def shape(self, batch: int, length: int) -> None:
        """A model of fixed shape is the faster one."""
        self.request = None  # frees the former one's memory
        model = self.core.read_model(self.path)
        model.reshape([batch, length])
        self.request = self.core.compile_model(model, "CPU", self.properties).create_infer_request()

    def take(self, ids: Ids) -> Ids:
        """As it is."""
        return ids

    def run(self, taken: Ids) -> States:
        """(B, T, H), in the request's own memory, which the next call overwrites."""
        self.request.infer([taken], share_inputs=True, share_outputs=True)
        states: States = self.request.get_output_tensor(0).data
        return states

    def states(self, result: States) -> States:
        """A copy."""
        return np.array(result, np.float32)
