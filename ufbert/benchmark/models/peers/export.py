"""What the peers run: reference hidden states, ONNX graphs and OpenVINO's model, all of one `BertModel`.

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

from .hugging_face import load_bert
from .job import Ids, Job, draw_inputs

__all__ = ["CHECKED_TEXTS", "check_inputs", "export"]

CHECKED_TEXTS = 2
OPSET = 18


def check_inputs(job: Job) -> Ids:
    """The tokens (B, T) whose hidden states are compared; none of those that are timed."""
    return draw_inputs(1, CHECKED_TEXTS, job.sequence_length, job.vocabulary, job.seed + 1)[0]


class _HiddenStates(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, T) -> (B, T, H)."""
        states: torch.Tensor = self.model(input_ids=input_ids).last_hidden_state
        return states


def export(job: Job) -> float:
    """Write what the job's option `kind` names into its folder; the seconds it took.

    Kinds are `reference`, `onnx`, `onnx-int8` (after `onnx`) and `openvino`.
    """
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # of tracing; the exported models are checked by their results
    torch.set_num_threads(job.threads)
    step = {"reference": _reference, "onnx": _onnx, "onnx-int8": _quantize, "openvino": _openvino}[job.options["kind"]]
    started = time.perf_counter()
    with torch.no_grad():
        step(job)
    return time.perf_counter() - started


def _model(job: Job) -> tuple[nn.Module, torch.Tensor]:
    return _HiddenStates(load_bert(job)), torch.from_numpy(check_inputs(job))


def _reference(job: Job) -> None:
    model, ids = _model(job)
    np.save(job.path / "reference-ff.npy", model(ids).numpy())


def _onnx(job: Job) -> None:
    model, ids = _model(job)
    # By tracing: torch's newer exporter takes longer and gives a graph that ran 9 % slower here.
    torch.onnx.export(
        model,
        (ids,),
        str(job.path / "bert.onnx"),
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
        job.path / "bert.onnx", job.path / "bert-int8.onnx", weight_type=QuantType.QInt8, reduce_range=narrow
    )


def _openvino(job: Job) -> None:
    import openvino

    model, ids = _model(job)
    converted = openvino.convert_model(model, example_input=ids)
    openvino.save_model(converted, job.path / "openvino.xml", compress_to_fp16=False)
