"""The whole way of `ufbert convert`: read, distil if asked to, write in the wanted form."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ufbert.checkpoint.tokenizer import save_tokenizer
from ufbert.conversion.readers.source import Source, load_source
from ufbert.errors import ConfigError
from ufbert.model.card import model_card
from ufbert.model.config import MODEL_TYPE
from ufbert.reporting import note
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.atomic import check_new, write_folder

__all__ = ["TARGETS", "convert_checkpoint", "distillation_wanted"]

TARGETS = ("ultrafastbert", "dense", "onnx")


def distillation_wanted(
    *, to: str, trees: int | None, depth: int | None, corpus: Sequence[str]
) -> tuple[int, int] | None:
    """(trees, depth) if dense layers are to become trees, None for an exact conversion.

    Raises `ConfigError` unless all of trees, depth and corpus are given, or none.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to {to}: unknown form; known: {', '.join(TARGETS)}")
    if trees is None and depth is None:
        if corpus:
            raise ConfigError("--corpus is what trees are distilled on; give --trees and --depth too, or leave it out")
        return None
    if trees is None or depth is None:
        given, absent = ("--depth", "--trees") if trees is None else ("--trees", "--depth")
        raise ConfigError(f"{given} without {absent}: give both, for example --trees 48 --depth 4")
    if not corpus:
        raise ConfigError("--trees needs text to distil on; give --corpus FILE, or --corpus embedded")
    if to != "ultrafastbert":
        raise ConfigError(f"--trees makes an ultrafastbert checkpoint; convert that with --to {to} in a second step")
    return trees, depth


def convert_checkpoint(
    source: str | Path,
    destination: Path,
    *,
    to: str = "ultrafastbert",
    revision: str | None = None,
    distillation: DistillationSettings | None = None,
    command: str = "",
) -> None:
    """Write `source` to the new folder `destination`, saying on stderr what was done.

    `revision` is a branch, tag or commit of a `source` on the hub; `command` the command line for the model card.

    Raises `CheckpointError` for a source that cannot be read or expressed, `OutputError` for a destination
    that exists or cannot be written, `MissingExtraError` for `onnx` without its extra.
    """
    check_new(destination, "converted model", "DEST")
    if to == "onnx":
        from ufbert.conversion.export.onnx import export_onnx, require_onnx

        require_onnx()  # before the time spent on reading
    loaded = load_source(source, revision)
    for line in loaded.notes:
        note(f"note: {line}")
    if to == "onnx":
        with write_folder(destination) as folder:
            export_onnx(loaded.model, folder)
            if loaded.tokenizer is not None:
                save_tokenizer(loaded.tokenizer, folder, loaded.model.config.max_position_embeddings)
        note(f"{destination / 'model.onnx'}: ONNX graph of {loaded.model_type} checkpoint {loaded.name}")
        return
    if to == "dense":
        from ufbert.conversion.export.hugging_face import write_hugging_face

        with write_folder(destination) as folder:
            notes = write_hugging_face(loaded.model, loaded.tokenizer, folder, loaded.name)
        for line in notes:
            note(f"note: {line}")
        note(f"{destination}: dense checkpoint that transformers loads")
        return
    if distillation is None:
        _write(loaded, destination, command=command, figures={}, origin=_origin(loaded, "exactly, without training"))
        note(f"{destination}: {loaded.model_type} checkpoint {loaded.name}, converted exactly")
        return
    from ufbert.conversion.distillation.run import distil

    figures = distil(loaded, distillation)
    how = f"its dense feedforward layers distilled into {distillation.trees} trees of depth {distillation.depth}"
    _write(loaded, destination, command=command, figures=figures, origin=_origin(loaded, how))
    note(f"{destination}: written")


def _origin(source: Source, how: str) -> str:
    kind = "an" if source.model_type == MODEL_TYPE else "a"
    return f"Converted from `{source.name}`, {kind} {source.model_type} checkpoint, {how}."


def _write(source: Source, destination: Path, *, command: str, figures: dict[str, str], origin: str) -> None:
    model = source.model
    config = model.config.replace(architectures=(type(model).__name__,))
    card = model_card(
        config,
        title=destination.absolute().name,
        origin=origin,
        figures=figures,
        command=command or f"ufbert convert {shlex.quote(source.name)} {shlex.quote(str(destination))}",
    )
    model.save_pretrained(destination, tokenizer=source.tokenizer, card=card)
