"""A checkpoint from the Hugging Face hub: one set of weights and the small files beside it, nothing else.

Repositories hold the same weights several times, for PyTorch, TensorFlow, ONNX, OpenVINO and in several precisions.
So the list of files comes first, and from it what is read here is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ufbert.errors import CheckpointError

__all__ = ["choose_files", "download_checkpoint"]

# Safetensors come first: reading them cannot run code.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SMALL_FILES = (".json", ".txt", ".model")
# Left by a training that went on elsewhere; it can be larger than a tokenizer.
LEFTOVERS = ("trainer_state.json",)
# The modules of sentence-transformers, such as 1_Pooling and 0_Transformer; other folders hold other formats.
MODULE_FOLDER = re.compile(r"\d+_\w+")
SECONDS = 10.0  # to wait for the list


def choose_files(names: Iterable[str]) -> list[str]:
    """Of a repository's files those that a checkpoint is read from, in their order.

    The small files of the repository's root and of sentence-transformers' modules, and of each of these folders one
    set of weights, whole or in shards: safetensors, or `.bin` where there are none.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folder = str(PurePosixPath(name).parent)
        if folder == "." or MODULE_FOLDER.fullmatch(folder):
            folders.setdefault(folder, []).append(PurePosixPath(name).name)
    chosen = []
    for folder, files in folders.items():
        weights = _choose_weights(files)
        for file in files:
            small = file.endswith(SMALL_FILES) and not file.endswith(".index.json") and file not in LEFTOVERS
            if small or file in weights:
                chosen.append(file if folder == "." else f"{folder}/{file}")
    return chosen


def _choose_weights(files: list[str]) -> set[str]:
    for whole in WEIGHTS:
        if whole in files:
            return {whole}
        if (index := f"{whole}.index.json") in files:
            stem, suffix = whole.rsplit(".", 1)
            shard = re.compile(rf"{stem}-\d+-of-\d+\.{suffix}")
            return {index, *(file for file in files if shard.fullmatch(file))}
    return set()


def download_checkpoint(name: str, revision: str | None = None) -> Path:
    """The folder in the hub's local cache that holds the model `name`, fetched as far as it is not there.

    `revision` is a branch, a tag or a commit. Where the hub cannot be reached, what was fetched before serves.
    Raises `CheckpointError`.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

    # The roots of the errors of whichever HTTP library the hub's client uses; requests' are OSErrors.
    unreachable: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)
    expected: tuple[type[Exception], ...] = (*unreachable, HFValidationError)
    try:
        listed = HfApi().model_info(name, revision=revision, timeout=SECONDS).siblings or []
        files = choose_files(file.rfilename for file in listed)
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except expected as error:
        problem = error
    if not isinstance(problem, HFValidationError | RevisionNotFoundError):
        try:
            cached = snapshot_download(
                name, revision=revision, allow_patterns=["config.json", "modules.json"], local_files_only=True
            )
            return Path(cached)
        except unreachable:
            pass  # not fetched before
    raise CheckpointError(_explain(name, revision, problem)) from problem


def _explain(name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"{name}: a gated model; ask for access on its page of the hub, then log in with: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"{name}: has no revision {revision!r} on the Hugging Face hub; give a branch, a tag or a commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name}: no such folder, and no such model on the Hugging Face hub; check the name, or log in with "
            "hf auth login if it is private"
        )
    if isinstance(error, HFValidationError):
        return f"{name}: no such folder, and no name of a model on the Hugging Face hub"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{name}: no such folder, and not fetched before; unset HF_HUB_OFFLINE to fetch it from the hub"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{name}: no such folder, and not to be had from the Hugging Face hub ({reason}); check the network and "
        "the proxy (HTTPS_PROXY)"
    )
