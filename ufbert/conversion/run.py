"""The whole way of `ufbert convert`: read, distil if asked to, write in the wanted form."""

from __future__ import annotations

from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, load_checkpoint
from ufbert.model.card import model_card
from ufbert.model.config import MODEL_TYPE
from ufbert.model.pretrained import PretrainedModel
from ufbert.reporting import note
from ufbert.system.atomic import check_new, write_folder

from .request import ConversionRequest
from .student import StudentRequest

__all__ = ["convert_checkpoint"]


def convert_checkpoint(request: ConversionRequest) -> None:
    """Do what `request` says, saying on stderr what was done.

    Raises `CheckpointError` for a source that cannot be read or expressed, `OutputError` for a destination
    that exists or cannot be written, `MissingExtraError` for `onnx` without its extra; a distillation also
    `ConfigError` for layers that cannot be and `DataError` for a corpus that cannot be used.
    """
    check_new(request.destination, "converted model", "DEST")
    if request.to == "onnx":
        from ufbert.conversion.export.onnx import require_onnx

        require_onnx()  # before the time spent on reading
    loaded = load_checkpoint(request.source, request.revision, family=request.family, drop_head=request.drop_head)
    for line in loaded.notes:
        note(f"note: {line}")
    if request.to == "onnx":
        _write_onnx(loaded, request)
    elif request.to == "dense":
        _write_dense(loaded, request)
    elif (student := request.student) is not None:
        _distil(loaded, student, request)
    else:
        _write(loaded, loaded.model, request, how="exactly, without training", figures={})
        note(f"{request.destination}: {loaded.model_type} checkpoint {loaded.name}, converted exactly")


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


def _distil(loaded: LoadedCheckpoint, student: StudentRequest, request: ConversionRequest) -> None:
    from ufbert.conversion.distillation.run import distil

    distilled = distil(loaded, student, request.corpus, request.distillation)
    _write(loaded, distilled.model, request, how=str(student), figures=distilled.figures)
    note(f"{request.destination}: written")


def _write(
    loaded: LoadedCheckpoint, model: PretrainedModel, request: ConversionRequest, *, how: str, figures: dict[str, str]
) -> None:
    kind = "an" if loaded.model_type == MODEL_TYPE else "a"
    card = model_card(
        model.config.replace(architectures=(type(model).__name__,)),
        title=request.destination.absolute().name,
        origin=f"Converted from `{loaded.name}`, {kind} {loaded.model_type} checkpoint, {how}.",
        figures=figures,
        command=request.command_line,
    )
    model.save_pretrained(request.destination, tokenizer=loaded.tokenizer, card=card)
