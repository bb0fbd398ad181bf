"""ONNX Runtime on the graph that `export` wrote."""

from __future__ import annotations

import onnxruntime

from .job import Ids, Job, Runner, States

__all__ = ["load"]

FILES = {"float32": "encoder.onnx", "int8": "encoder-int8.onnx"}


def load(job: Job) -> Runner:
    """A runner of this module."""
    return OnnxRuntime(job)


class OnnxRuntime:
    """All of the runtime's own graph optimisations are on, as by default."""

    def __init__(self, job: Job) -> None:
        self.versions = {"onnxruntime": onnxruntime.__version__}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(job.path / FILES[job.precision]), options, providers=["CPUExecutionProvider"]
        )

    def shape(self, batch: int, length: int) -> None:
        """The graph takes any."""

    def take(self, ids: Ids) -> Ids:
        """As it is."""
        return ids

    def run(self, taken: Ids) -> States:
        """(B, T, H)."""
        (result,) = self.session.run(None, {"input_ids": taken})
        states: States = result
        return states

    def states(self, result: States) -> States:
        """As it is."""
        return result
