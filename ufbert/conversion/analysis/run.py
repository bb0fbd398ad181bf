"""`ufbert convert --analyse`: what choosing neurons for each token could be worth, layer by layer.

FOLDER/analysis.json    every point of every curve, and what was looked at
FOLDER/analysis.md      the same as tables, with a conclusion for each layer
FOLDER/analysis.svg     error over neurons, a panel for each layer (needs the extra `plot`)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ufbert.conversion.distillation.batch import Text
from ufbert.conversion.distillation.layer_inputs import LayerSample, collect_layer_samples
from ufbert.conversion.distillation.texts import MAXIMUM_LENGTH, Batch, Batcher, Texts, read_distillation_texts
from ufbert.conversion.distillation.token_rows import RankedTokens, rank_tokens
from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, encoder_of, load_checkpoint
from ufbert.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from ufbert.model.encoder import Layer
from ufbert.reporting import note
from ufbert.system.atomic import check_new, write_folder
from ufbert.system.devices import choose_device
from ufbert.text.corpus_sources import corpus_name
from ufbert.training.display import ProgressDisplay

from .curves import analyse_layer
from .plot import can_plot, draw_analysis
from .report import markdown, show
from .request import AnalysisRequest
from .results import LayerCurves, Results
from .sample import LayerUnderStudy

__all__ = ["analyse_checkpoint"]

BATCH_TEXTS = 32
# Of the tokens to fit on, so many more are measured on at most.
HELD_OUT_SHARE = 0.5
LEAST_HELD_OUT_TOKENS = 100
# With fewer tokens for each output weight of a neuron, errors say more of the text than of the layer.
TOKENS_A_NEURON = 2
# Of a layer, the share of neurons that is spoken of where nobody says: trees of more take as long as the layer.
SPOKEN_OF = 1 / 16


def analyse_checkpoint(request: AnalysisRequest) -> Results:
    """Do what `request` says: the table on stdout, and the files where it names a folder.

    Raises `CheckpointError` for a source without dense layers or tokenizer, `DataError` for a corpus that cannot be
    used or is too short, `ConfigError` for numbers that no layer of the model has, `OutputError` for a folder that
    exists.
    """
    if request.out is not None:
        check_new(request.out, "analysis")
    loaded = load_checkpoint(request.source, request.revision, family=request.family, drop_head=True)
    config = loaded.model.config
    check_analysable(loaded)
    assert loaded.tokenizer is not None
    width = config.intermediate_size
    neurons = [k for k in request.neurons if k <= width]
    if not neurons:
        raise ConfigError(f"--neurons {request.neurons[0]}: the layers of {loaded.name} have {width:,}")
    if request.at is not None and request.at > width:
        raise ConfigError(f"--at {request.at}: the layers of {loaded.name} have {width:,} neurons")
    if request.tokens < TOKENS_A_NEURON * width:
        raise ConfigError(
            f"--tokens {request.tokens}: layers of {width:,} neurons need at least {TOKENS_A_NEURON * width:,}"
        )
    device = choose_device(request.distillation.device)
    torch.manual_seed(request.distillation.seed)
    texts = read_distillation_texts(request.corpus, request.distillation)
    encoder = encoder_of(loaded.model).to(device)
    maximum = min(MAXIMUM_LENGTH, config.max_position_embeddings)
    batcher = Batcher(loaded.tokenizer, maximum, config.type_vocab_size > 0, device)
    seed = request.distillation.seed
    fitting = _inputs(encoder, once(batcher, texts.train, seed), request.tokens)
    held_out = _inputs(encoder, once(batcher, texts.held_out, seed), max(1, int(HELD_OUT_SHARE * request.tokens)))
    _check_tokens(request, len(fitting[0].x), len(held_out[0].x), width)
    note(
        f"Analysing {len(fitting)} dense layers of {width:,} neurons: fitted on {len(fitting[0].x):,} tokens, "
        f"measured on {len(held_out[0].x):,} more from {texts.held_out_from}"
    )
    ranked = rank_tokens(batcher, texts.train, encoder.embeddings.word.weight)
    layers = _analyse_layers(list(encoder.layers), fitting, held_out, ranked, neurons, request.depth)
    at = request.at or min(neurons, key=lambda k: abs(math.log(k / (SPOKEN_OF * width))))
    facts = _facts(loaded, request, texts, len(fitting[0].x), len(held_out[0].x))
    results = Results(loaded.name, layers, neurons, at, facts)
    show(results)
    if request.out is not None:
        _write(results, request.out)
    return results


def check_analysable(loaded: LoadedCheckpoint) -> None:
    """Raise `CheckpointError` unless the model has dense layers, and a tokenizer to read text with."""
    config = loaded.model.config
    if config.feedforward_layers or config.token_rows:
        raise CheckpointError(
            f"{loaded.name}: has {config.feedforward_name}; --analyse takes a model whose layers are dense and alike"
        )
    if config.feedforward == "none":
        raise CheckpointError(f"{loaded.name}: has no feedforward layers to analyse")
    if config.feedforward != "dense":
        raise CheckpointError(
            f"{loaded.name}: its feedforward layers are trees already ({config.trees} of depth {config.depth}); "
            "--analyse takes the dense model that trees are made of"
        )
    if loaded.tokenizer is None:
        raise CheckpointError(f"{loaded.name}: has no tokenizer, and looking at layers on text needs the model's own")


def once(batcher: Batcher, texts: Sequence[Text], seed: int) -> Iterator[Batch]:
    """Every text in random order, none twice: what is fitted on a text seen twice looks better than it is."""
    seen = 0
    for batch in batcher.endless(texts, BATCH_TEXTS, seed):
        yield batch
        seen += len(batch.input_ids)
        if seen >= len(texts):
            return


def _inputs(encoder: Any, batches: Iterator[Batch], tokens: int) -> list[LayerSample]:
    """What each layer is given, without the outputs; the last batch is cut."""
    samples = collect_layer_samples(encoder, batches, tokens)
    ids = samples[0].token_ids
    assert ids is not None
    return [LayerSample(sample.x[:tokens].clone(), sample.x[:0], ids[:tokens]) for sample in samples]


def _check_tokens(request: AnalysisRequest, fitting: int, held_out: int, width: int) -> None:
    if fitting < TOKENS_A_NEURON * width or held_out < LEAST_HELD_OUT_TOKENS:
        raise DataError(
            f"{corpus_name(request.corpus)}: too short: {fitting:,} tokens to fit on and {held_out:,} to measure on, "
            f"and layers of {width:,} neurons need {TOKENS_A_NEURON * width:,} and {LEAST_HELD_OUT_TOKENS}; give a "
            "--corpus with more text"
        )


def _analyse_layers(
    layers: Sequence[torch.nn.Module],
    fitting: Sequence[LayerSample],
    held_out: Sequence[LayerSample],
    tokens: RankedTokens,
    neurons: Sequence[int],
    depth: int | None,
) -> list[LayerCurves]:
    found = []
    steps = len(neurons) + 2
    with ProgressDisplay("layer 0", len(layers) * steps, share=1 / len(layers)) as display:
        for index, layer in enumerate(layers):
            assert isinstance(layer, Layer)
            done = index * steps

            def report(state: str, first: int = done, name: str = f"layer {index}") -> None:
                nonlocal done
                display.show(name, max(first, done), state)
                done += 1

            with torch.no_grad():
                to_fit, to_measure = fitting[index], held_out[index]
                study = LayerUnderStudy(
                    layer, to_fit.x, to_measure.x, tokens=tokens, fitting_ids=to_fit.token_ids,
                    held_out_ids=to_measure.token_ids,
                )  # fmt: skip
            found.append(analyse_layer(study, neurons, depth, report))
            display.show(f"layer {index}", (index + 1) * steps)
    return found


def _facts(
    loaded: LoadedCheckpoint, request: AnalysisRequest, texts: Texts, fitting: int, held_out: int
) -> dict[str, Any]:
    config = loaded.model.config
    return {
        "command": request.command,
        "model": {
            "model_type": loaded.model_type,
            "layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "neurons": config.intermediate_size,
            "activation": config.hidden_act,
            "gated": config.is_gated_act,
            "norm_position": config.norm_position,
        },
        "text": {
            "corpus": list(request.corpus),
            "fitting_tokens": fitting,
            "held_out_tokens": held_out,
            "held_out_pieces": len(texts.held_out),
            "held_out_from": texts.held_out_from,
            "seed": request.distillation.seed,
        },
        "error": (
            "held out, squared, behind the norm if the model is post-norm; relative to the mean output, so the mean is "
            "removed: 0 exact, 1 the mean output"
        ),
    }


def _write(results: Results, out: Path) -> None:
    """analysis.json, .md and, where it can be drawn, .svg in a new folder."""
    picture = "analysis.svg" if can_plot() else ""
    with write_folder(out) as folder:
        document = json.dumps(results.to_dict(), indent=1) + "\n"
        (folder / "analysis.json").write_text(document, encoding="utf-8")
        (folder / "analysis.md").write_text(markdown(results, picture), encoding="utf-8")
        if picture:
            draw_analysis(results, folder / picture)
    if not picture:
        note(f"no analysis.svg: {MissingExtraError('matplotlib', 'plot', 'the picture')}")
    note(f"{out}: analysis.json, analysis.md{', analysis.svg' if picture else ''} written")
