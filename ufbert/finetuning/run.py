"""Finetuning: a checkpoint's encoder with a new head, trained on labelled texts or on sentences of tagged words.

The recipe is the paper's (Belcak & Wattenhofer 2023, section 3.1): 5 epochs, batches of 16, AdamW with a peak
learning rate of 4e-5, a warm-up over the first tenth of the steps, cosine decay, dropout 0.1, the same for
every task. One thing is ours: a regression head learns the labels in units of their standard deviation and
is scaled back when it is saved, so that labels of any size are learned alike.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ufbert.checkpoint.folder import locate_checkpoint
from ufbert.model.pretrained import read_config
from ufbert.system.allocation import keep_freed_memory
from ufbert.system.atomic import check_new
from ufbert.system.devices import choose_device

from .classification_data import load_task_data
from .classification_run import ClassificationRun
from .epochs import FinetuningRun
from .glue_server import find_test_sets, write_predictions
from .model import load_model, matching_tokenizer
from .report import FinetuningReport
from .request import DataRequest, FinetuningRequest
from .tag_data import load_tag_data
from .tagging_model import load_tagger
from .tagging_run import TaggingRun
from .tasks import glue_task

__all__ = ["PREDICTIONS", "DataRequest", "FinetuningRequest", "FinetuningResult", "finetune"]

PREDICTIONS = "predictions"
"""Folder of what is written for the GLUE server."""


@dataclass(frozen=True)
class FinetuningResult:
    """Where the finetuned checkpoint is, and how the run went."""

    folder: Path
    report: FinetuningReport


def finetune(request: FinetuningRequest) -> FinetuningResult:
    """Finetune what `request` names on what it names and save it to the folder `request.out`.

    The folder is brought up to date after every epoch, whole each time: the kept weights, the tokenizer, the
    model card with the figures, and metrics.jsonl. The same seed gives the same model on a CPU.

    Ctrl-C saves what there is, says so and raises `KeyboardInterrupt` again. Raises `CheckpointError`,
    `DataError`, `OutputError` and `BackendError` before any work, and `ConfigError` if the loss diverges.
    """
    settings = request.settings
    out = _free_folder(request.data.name) if request.out is None else request.out
    check_new(out, "finetuned model")
    folder = locate_checkpoint(request.checkpoint, request.revision)
    config = read_config(folder)
    tokenizer = matching_tokenizer(folder, request.tokenizer, config.vocab_size)
    device = choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    tests = []
    if request.predict is not None:
        assert request.data.task is not None
        tests = find_test_sets(glue_task(request.data.task), request.data.data, request.predict)
    source, command = str(request.checkpoint), request.command_line
    tags = load_tag_data(request.data, settings.seed) if request.data.tagging else None
    data = load_task_data(request.data, settings.seed) if tags is None else None
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        run: FinetuningRun
        if tags is not None:
            tagger = load_tagger(folder, tags, settings)
            run = TaggingRun(tagger, tokenizer, tags, settings, device, out, source, command)
        else:
            assert data is not None
            loaded = load_model(folder, data, settings)
            run = ClassificationRun(loaded, tokenizer, data, settings, device, out, source, command)
        report = run.train()
    if tests:
        write_predictions(out, tests, out / PREDICTIONS, settings)
    return FinetuningResult(out, report)


def _free_folder(name: str) -> Path:
    first = Path("runs") / f"finetune-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"
    names = itertools.chain([first], (first.with_name(f"{first.name}-{n}") for n in itertools.count(2)))
    return next(path for path in names if not path.exists() and not path.is_symlink())
