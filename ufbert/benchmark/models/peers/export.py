"""What the peers run: reference hidden states, ONNX graphs and OpenVINO's model, all of one model of transformers.

Runs in a process of its own, as a worker that only prepares, so that what exporting takes in memory is not
counted as anybody's.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from ufbert.benchmark.machine.description import instruction_sets

from .hugging_face import load_model
from .job import Ids, Job

__all__ = ["CHECKED_TEXTS", "check_inputs", "export"]

CHECKED_TEXTS = 2
OPSET = 18


def check_inputs(job: Job) -> Ids:
    """The tokens (B, T) whose hidden states are compared, drawn apart from those that are timed."""
    return job.draw(1, CHECKED_TEXTS, seed=job.seed + 1)[0]


class _HiddenStates(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) -> (B, T, H)."""
        states: torch.Tensor = self.model(input_ids=input_ids).last_hidden_state
        return states


def export(job: Job) -> dict[str, Any]:
    """Write what the job's option `kind` names into its folder; the `seconds` it took, and the `model` it is of.

    Kinds are `reference`, `onnx`, `onnx-int8` (after `onnx`) and `openvino`. Raises `CheckpointError` for a folder that
    transformers does not load.
    """
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # of tracing; the exported models are checked by their results
    torch.set_num_threads(job.threads)
    step = {"reference": _reference, "onnx": _onnx, "onnx-int8": _quantize, "openvino": _openvino}[job.options["kind"]]
    started = time.perf_counter()
    with torch.no_grad():
        model = step(job)
    return {"seconds": time.perf_counter() - started, "model": model}


def _example(job: Job) -> torch.Tensor:
    """The tokens to trace with; not as many texts as are checked, which would show a batch size kept in the graph."""
    ids = check_inputs(job)
    return torch.from_numpy(np.concatenate([ids, ids[:1]]))


def _reference(job: Job) -> str:
    model = load_model(job)
    states = _HiddenStates(model)(torch.from_numpy(check_inputs(job)))
    np.save(job.path / "reference-ff.npy", states.numpy())
    return f"{type(model).__name__} with {model.config._attn_implementation} attention"


def _onnx(job: Job) -> None:
    # By tracing: torch's newer exporter takes longer and gives a graph that ran 9 % slower here.
    torch.onnx.export(
        _HiddenStates(load_model(job)),
        (_example(job),),
        str(job.path / "encoder.onnx"),
        dynamo=False,
        opset_version=OPSET,
        input_names=["input_ids"],
        output_names=["last_hidden_state"],
        dynamic_axes={"input_ids": {0: "batch", 1: "length"}, "last_hidden_state": {0: "batch", 1: "length"}},
    )


def _quantize(job: Job) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Without VNNI, x86 adds two products in 16 bits, which overflow unless the weights have 7 bits.
    sets = instruction_sets()
    narrow = "avx2" in sets and not any("vnni" in name for name in sets)
    quantize_dynamic(
        job.path / "encoder.onnx", job.path / "encoder-int8.onnx", weight_type=QuantType.QInt8, reduce_range=narrow
    )


def _openvino(job: Job) -> None:
    import openvino

    converted = openvino.convert_model(_HiddenStates(load_model(job)), example_input=_example(job))
    openvino.save_model(converted, job.path / "openvino.xml", compress_to_fp16=False)
