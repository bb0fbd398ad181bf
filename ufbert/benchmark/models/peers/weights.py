"""The random weights of a run: a BERT for the peers, and ours, which differ from it in the feedforward layers only.

bert/     Hugging Face's names, for transformers and what is exported from it
dense/    the same weights as one of our checkpoints, by our converter
fff/      the same weights with trees in the place of the feedforward layers
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from ufbert.benchmark.models.paths import describe_paths
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.checkpoint.folder import write_tensors
from ufbert.conversion.readers.bert import LAYERS
from ufbert.conversion.readers.checkpoint import load_checkpoint
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.fff import FFF

from .export import check_inputs
from .job import Job, draw_inputs
from .tokenising import prepare_text

__all__ = ["VOCABULARY", "dense_parameters", "describe_paths", "write_models"]

VOCABULARY = 30522
LEAST_POSITIONS = 512
SCALE = 0.02
# Tokens whose paths are counted.
PATH_TOKENS = 4096


def hugging_face_config(settings: BenchmarkSettings) -> dict[str, Any]:
    """Of a `BertModel` with the settings' shape."""
    shape = settings.shape
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "intermediate_size": shape.intermediate_size,
        "hidden_act": "gelu",
        "max_position_embeddings": max(LEAST_POSITIONS, settings.sequence_length),
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }


def dense_parameters(settings: BenchmarkSettings) -> int:
    """Of the BERT, nearly."""
    shape = settings.shape
    layer = 4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size
    return settings.layers * layer + VOCABULARY * shape.hidden_size


def random_state(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Every tensor by Hugging Face's name. Biases and norms are random too, lest a mix-up go unnoticed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return SCALE * torch.randn(shape, generator=generator)

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    state = {
        "embeddings.word_embeddings.weight": normal(config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": normal(config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": normal(config["type_vocab_size"], hidden),
    }
    norms = ["embeddings.LayerNorm"]
    linears: dict[str, tuple[int, int]] = {}
    for number in range(config["num_hidden_layers"]):
        prefix = LAYERS.prefix.format(number)
        for name in (LAYERS.query, LAYERS.key, LAYERS.value, LAYERS.attention_output):
            linears[prefix + name] = (hidden, hidden)
        linears[prefix + LAYERS.feedforward_in] = (inner, hidden)
        linears[prefix + LAYERS.feedforward_out] = (hidden, inner)
        norms += [prefix + LAYERS.attention_norm, prefix + LAYERS.feedforward_norm]
    for name, shape in linears.items():
        state |= {f"{name}.weight": normal(*shape), f"{name}.bias": normal(shape[0])}
    for name in norms:
        state |= {f"{name}.weight": 1 + normal(hidden), f"{name}.bias": normal(hidden)}
    return state


def write_models(settings: BenchmarkSettings, job: Job) -> dict[str, Any]:
    """Write the three folders, the text, and `checked.npy`, `reference-fff.npy`, `reference-ff.npy`.

    The references are the hidden states by the plain modules in float32. transformers' own replace the dense
    ones, where it is installed. Returns the path statistics.
    """
    folder = job.path
    config = hugging_face_config(settings)
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_tensors(random_state(config, settings.seed), folder / "bert" / "model.safetensors")
    tokenizer = prepare_text(job)
    checked = check_inputs(job)
    np.save(folder / "checked.npy", checked)
    dense = load_checkpoint(folder / "bert").model
    assert isinstance(dense, UltraFastBertModel)
    dense.save_pretrained(folder / "dense", tokenizer=tokenizer)
    trees = with_trees(dense, settings)
    trees.save_pretrained(folder / "fff", tokenizer=tokenizer)
    with torch.inference_mode():
        for name, model in (("ff", dense), ("fff", trees)):
            np.save(folder / f"reference-{name}.npy", model.encode(torch.from_numpy(checked)).numpy())
    batch = max(1, PATH_TOKENS // settings.sequence_length)
    (ids,) = draw_inputs(1, batch, settings.sequence_length, VOCABULARY, settings.seed)
    return describe_paths(trees, torch.from_numpy(ids), settings.seed)


def with_trees(dense: UltraFastBertModel, settings: BenchmarkSettings) -> UltraFastBertModel:
    """The same encoder with random trees for its feedforward layers, on the reference backend.

    Where the settings want fewer key-value heads, each is the first of those that it stands for.
    """
    shape = settings.shape
    config: UltraFastBertConfig = dense.config.replace(
        feedforward="fff", trees=shape.trees, depth=shape.depth, num_key_value_heads=settings.key_value_heads
    )
    torch.manual_seed(settings.seed)
    model = UltraFastBertModel(config).eval()
    shared = {name: tensor for name, tensor in dense.state_dict().items() if ".feedforward." not in name}
    if config.key_value_heads < config.num_attention_heads:
        shared = {
            name: _first_of_each_group(tensor, config) if ".qkv." in name else tensor for name, tensor in shared.items()
        }
    model.load_state_dict(shared, strict=False)
    for module in model.modules():
        if isinstance(module, FFF):
            module.backend = "reference"
            torch.nn.init.normal_(module.b_in, std=SCALE)
    return model


def _first_of_each_group(qkv: torch.Tensor, config: UltraFastBertConfig) -> torch.Tensor:
    """Rows of query, key and value (3 * H, ...) -> those of the query and of every so many heads' key and value."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    query, *others = qkv.split(hidden)
    step = heads // config.key_value_heads
    return torch.cat([query, *(part.unflatten(0, (heads, -1))[::step].flatten(0, 1) for part in others)])
