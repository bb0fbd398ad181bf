"""`ufbert bench encoder --model`: a checkpoint beside other software on the checkpoint's own weights.

Ours reads it as `ufbert convert` does and runs it as `ufbert infer` does. The peers run the folder itself through
transformers' class for it; where transformers does not load it, its dense export, if there is one. All read the same
English text through the checkpoint's tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ufbert.benchmark.layer.implementations import Absent
from ufbert.benchmark.models.peers.checkpoint import CheckpointModel
from ufbert.benchmark.models.peers.process import Worker, WorkerError
from ufbert.benchmark.models.peers.roster import EncoderVariant, choose_encoders, encoders_of_checkpoint
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.conversion.export.hugging_face import write_hugging_face
from ufbert.errors import CheckpointError
from ufbert.model.config import MODEL_TYPE
from ufbert.system.resources import available_cores

from .encoder import EXPORT_LIMIT_SECONDS, EncoderBenchmark

__all__ = ["CheckpointBenchmark"]

MODEL, EXPORT = "model", "peer"
# Trained weights may round badly, which is theirs and no fault of who computes: all-MiniLM-L6-v2 in ONNX Runtime's
# int8 is off by 0.36, as `ufbert bench encoder --model` shows. States that have nothing in common are off by 1.4.
CHECKPOINT_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.3, "int8": 0.7}


class CheckpointBenchmark(EncoderBenchmark):
    """`EncoderBenchmark` of the model of a checkpoint."""

    tolerance = CHECKPOINT_TOLERANCE
    smaller = "take a smaller checkpoint"

    def __init__(
        self, checkpoint: CheckpointModel, settings: BenchmarkSettings, device: torch.device, *arguments: Any
    ) -> None:
        """`arguments` are the other ones of `EncoderBenchmark`."""
        super().__init__(settings, device, *arguments)
        self.checkpoint = checkpoint
        self.whose = checkpoint.name
        self.layers = checkpoint.encoder.config.num_hidden_layers
        self.tokenizer_of = MODEL
        self.described = checkpoint.describe()
        """What the report says of the model, and whose classes the peers are."""

    @property
    def parameters(self) -> int:
        """Of the encoder."""
        return int(self.described["parameters"])

    def choose(self) -> tuple[list[EncoderVariant], list[Absent]]:
        """What to time, and what is not to be had."""
        settings = self.settings
        encoders = encoders_of_checkpoint(self.checkpoint.layer, MODEL)
        return choose_encoders(settings.implementations, settings.dtypes, settings.device, encoders)

    def write(self, entries: list[EncoderVariant], folder: str) -> list[EncoderVariant]:
        """Write our model, and settle what the peers run; those that can run it."""
        self.note("writing the model and its text")
        self.paths = self.checkpoint.write(self.job("", folder), MODEL, self.settings)
        if not any(entry.encoder.is_peer for entry in entries):
            return entries
        if reason := self.settle_peers(folder):
            self.absent += [entry.absent(reason) for entry in entries if entry.encoder.is_peer]
            return [entry for entry in entries if not entry.encoder.is_peer]
        self.exported.add("reference")
        return entries

    def settle_peers(self, folder: str) -> str | None:
        """Write the peers' reference with the first folder that transformers loads; why there is none."""
        reasons = []
        if self.checkpoint.model_type != MODEL_TYPE:
            try:
                self.write_reference(folder, str(self.checkpoint.folder.absolute()), "itself")
            except WorkerError as error:
                reasons.append(plain(error))
            else:
                return None
        try:
            path = Path(folder) / EXPORT
            path.mkdir()
            write_hugging_face(self.checkpoint.encoder, None, path, self.checkpoint.name)
            self.write_reference(folder, EXPORT, "as ufbert convert --to dense writes it")
        except CheckpointError as error:
            return "; ".join([*reasons, f"no dense export: {error}"])
        except WorkerError as error:
            return "; ".join([*reasons, f"of its dense export: {plain(error)}"])
        return None

    def write_reference(self, folder: str, peer_model: str, how: str) -> None:
        """The hidden states of transformers' own class. Raises `WorkerError`."""
        self.note("exporting: reference")
        self.peer_model = peer_model
        with Worker(available_cores(), ours=False) as worker:
            job = self.job("", folder, kind="reference")
            answer = worker.ask("export", limit=EXPORT_LIMIT_SECONDS, job=job.to_dict())
        self.facts["export_seconds"]["reference"] = round(answer["seconds"], 2)
        self.described["peers"] = f"transformers' {answer['model']}, of the folder {how}"


def plain(error: WorkerError) -> str:
    """Without the class that a process's last line starts with."""
    return str(error).removeprefix("CheckpointError: ")
