"""The whole way of `ufbert convert`: read, distil if asked to, write in the wanted form."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import ufbert
from ufbert.checkpoint.folder import CONFIG_FILE
from ufbert.checkpoint.upload import check_upload, upload_checkpoint
from ufbert.conversion.distillation.instruments import Instruments
from ufbert.conversion.distillation.partial import PartialConversion, open_partial, partial_folder
from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, load_checkpoint
from ufbert.model.card import model_card
from ufbert.model.config import MODEL_TYPE
from ufbert.model.pretrained import PretrainedModel
from ufbert.reporting import note
from ufbert.system.atomic import check_new, write_folder

from .request import ConversionRequest
from .student import StudentRequest

__all__ = ["convert_checkpoint"]


def convert_checkpoint(request: ConversionRequest, instruments: Instruments | None = None) -> None:
    """Do what `request` says, saying on stderr what was done.

    An interrupted distillation leaves its work beside the destination, for a request with `resume`.
    Raises `CheckpointError` for a source that cannot be read or expressed, `OutputError` for a destination
    that exists or cannot be written, `MissingExtraError` for `onnx` without its extra; a distillation also
    `ConfigError` for layers that cannot be and `DataError` for a corpus that cannot be used. With `push` it raises
    `ConfigError` without a login, and `OutputError` if a complete result could not be sent.
    """
    if request.push is not None:
        check_upload(request.push)  # before the time spent on converting
    if request.resume and is_complete(request):
        note(f"{request.destination}: is complete; nothing to resume")
    else:
        _convert(request, instruments)
    if request.push is not None:
        address = upload_checkpoint(request.destination, request.push, private=request.private)
        note(f"{request.destination}: sent to {address}")


def _convert(request: ConversionRequest, instruments: Instruments | None) -> None:
    check_new(request.destination, "converted model", "DEST")
    if request.to == "onnx":
        from ufbert.conversion.export.onnx import require_onnx

        require_onnx()  # before the time spent on reading
    if (student := request.student) is not None:
        with open_partial(request.destination, _options(request), resume=request.resume) as partial:
            teacher = None if request.teacher is None else load_checkpoint(request.teacher, drop_head=request.drop_head)
            _distil(_load(request), teacher, student, request, partial, instruments)
        return
    loaded = _load(request)
    if request.to == "onnx":
        _write_onnx(loaded, request)
    elif request.to == "dense":
        _write_dense(loaded, request)
    else:
        card = _card(loaded.model, request, _origin(loaded, "exactly, without training"), {})
        loaded.model.save_pretrained(request.destination, tokenizer=loaded.tokenizer, card=card)
        note(f"{request.destination}: {loaded.model_type} checkpoint {loaded.name}, converted exactly")


def is_complete(request: ConversionRequest) -> bool:
    """Whether a distillation has come to its end: its result is there, and no partial one."""
    there = (request.destination / CONFIG_FILE).is_file()
    return there and not partial_folder(request.destination).exists()


def _options(request: ConversionRequest) -> dict[str, Any]:
    """All that may not differ when a distillation goes on; source and corpus are compared by their contents."""
    assert request.student is not None
    settings = asdict(request.distillation)
    del settings["device"]
    teacher = "the source" if request.teacher is None else "another model"
    return {"version": ufbert.__version__, "teacher": teacher, **asdict(request.student), **settings}


def _load(request: ConversionRequest) -> LoadedCheckpoint:
    loaded = load_checkpoint(request.source, request.revision, family=request.family, drop_head=request.drop_head)
    for line in loaded.notes:
        note(f"note: {line}")
    return loaded


def _write_onnx(loaded: LoadedCheckpoint, request: ConversionRequest) -> None:
    from ufbert.conversion.export.onnx_folder import write_onnx_folder

    with write_folder(request.destination) as folder:
        write_onnx_folder(loaded.model, loaded.tokenizer, folder)
    note(f"{request.destination / 'model.onnx'}: ONNX graph of {loaded.model_type} checkpoint {loaded.name}")


def _write_dense(loaded: LoadedCheckpoint, request: ConversionRequest) -> None:
    from ufbert.conversion.export.hugging_face import write_hugging_face

    with write_folder(request.destination) as folder:
        write_hugging_face(loaded.model, loaded.tokenizer, folder, loaded.name)
    note(f"{request.destination}: dense checkpoint that transformers loads")


def _distil(
    loaded: LoadedCheckpoint,
    teacher: LoadedCheckpoint | None,
    student: StudentRequest,
    request: ConversionRequest,
    partial: PartialConversion,
    instruments: Instruments | None,
) -> None:
    from ufbert.conversion.distillation.closing_report import REPORT_FILE
    from ufbert.conversion.distillation.run import distil

    distilled = distil(loaded, student, request.corpus, request.distillation, partial, instruments, teacher)
    model, report = distilled.model, distilled.report
    learned_from = "" if teacher is None else f", learning from `{teacher.name}`"
    origin = _origin(loaded, f"{distilled.request}{learned_from}")
    card = _card(model, request, origin, report.figures(), report.markdown())
    with write_folder(request.destination) as folder:
        model.write(folder, tokenizer=loaded.tokenizer, card=card)
        page = report.html(request.destination.absolute().name, origin, request.command_line)
        (folder / REPORT_FILE).write_text(page, encoding="utf-8")
    note(f"{request.destination}: written, with {REPORT_FILE}")


def _origin(loaded: LoadedCheckpoint, how: str) -> str:
    kind = "an" if loaded.model_type == MODEL_TYPE else "a"
    return f"Converted from `{loaded.name}`, {kind} {loaded.model_type} checkpoint, {how}."


def _card(
    model: PretrainedModel, request: ConversionRequest, origin: str, figures: dict[str, str], sections: str = ""
) -> str:
    return model_card(
        model.config.replace(architectures=(type(model).__name__,)),
        title=request.destination.absolute().name,
        origin=origin,
        figures=figures,
        command=request.command_line,
        sections=sections,
    )
