"""What a pipeline may be asked for, given its checkpoint."""

from __future__ import annotations

import torch

from ufbert.errors import BackendError, CheckpointError, ConfigError
from ufbert.inference.engine.linear import packs
from ufbert.model.config import UltraFastBertConfig
from ufbert.settings.inference import AUTO, PRECISIONS
from ufbert.system.devices import choose_precision

__all__ = [
    "OWNERS",
    "check_length",
    "check_relevance",
    "choose_inference_precision",
    "choose_long_text",
    "choose_task",
]

TASKS = {
    "UltraFastBertForMaskedLM": "fill-mask",
    "UltraFastBertForSequenceClassification": "classify",
    "UltraFastBertForTokenClassification": "tag",
    "UltraFastBertModel": "embed",
}
OWNERS = {
    **dict.fromkeys(("top_k", "targets"), "fill-mask"),
    "aggregation": "tag",
    **dict.fromkeys(("pooling", "normalize", "prompt", "truncate_dim"), "embed"),
}
"""The options that one task alone has."""


def choose_inference_precision(name: str, device: torch.device) -> str:
    """One of `PRECISIONS`: `auto` takes bfloat16 where the hardware multiplies it natively, else float32.

    Raises `ConfigError` for an unknown one, `BackendError` for int8 on a GPU.
    """
    if name != "int8":
        if name not in ("auto", *PRECISIONS):
            raise ConfigError(f"unknown precision {name!r}; known: auto, {', '.join(PRECISIONS)}")
        return str(choose_precision(name, device)).removeprefix("torch.")
    if device.type != "cpu":
        raise BackendError("precision int8 computes on a CPU only; take bfloat16 on a GPU")
    if not packs():
        raise BackendError("precision int8 needs a torch built with oneDNN; take float32 or bfloat16")
    return name


def choose_task(task: str | None, config: UltraFastBertConfig, folder: str) -> str:
    """The task asked for, if the checkpoint has its head."""
    kind = next((name for name in config.architectures if name in TASKS), None)
    own = TASKS[kind] if kind else None
    if task is None:
        if own is None:
            raise CheckpointError(
                f"{folder}: config.json names no architecture of ours ({', '.join(TASKS)}); give a task"
            )
        return own
    if task not in TASKS.values():
        raise ConfigError(f"unknown task {task!r}; known: {', '.join(TASKS.values())}")
    if task in (own, "embed"):
        return task
    if task == "fill-mask":
        cure = "give a checkpoint as pretrained"
    elif task == "tag":
        cure = f"finetune it first: ufbert finetune {folder} --task tag --train FILE"
    else:
        cure = f"finetune it first: ufbert finetune {folder} --task glue/NAME"
    usable = " or ".join(dict.fromkeys(t for t in (own, "embed") if t))
    raise CheckpointError(
        f"{folder}: holds {f'an {kind}' if kind else 'a model of unknown kind'}, which has no head for {task}; {cure}, "
        f"or use the task {usable}"
    )


def check_relevance(task: str, **options: object) -> None:
    """Raise `ConfigError` for an option that another task has."""
    for name, value in options.items():
        if value is not None and task != OWNERS[name]:
            raise ConfigError(f"{name} is an option of the task {OWNERS[name]}; the task here is {task}")


def choose_long_text(long_text: str, task: str) -> str:
    """What happens to texts that are too long: `auto` reads them whole for `tag`, and truncates them otherwise."""
    if long_text != AUTO:
        return long_text
    return "window" if task == "tag" else "truncate"


def check_length(max_length: int | None, config: UltraFastBertConfig, default: int | None) -> int:
    most = config.max_position_embeddings
    if max_length is None:
        return min(most, default or most)
    if not 1 <= max_length <= most:
        raise ConfigError(f"max_length must lie between 1 and the model's maximum of {most}, not {max_length}")
    return max_length
