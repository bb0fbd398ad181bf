"""Embeddings as sentence-transformers gives them for a folder, by its files of all releases: ours, and back again."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_command import run_convert
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ufbert import Pipeline
from ufbert.checkpoint.embedder import Dense, Embedder, LayerNorm, Normalize
from ufbert.checkpoint.embedder_files import write_embedder
from ufbert.checkpoint.poolings import FLAGS, POOLINGS
from ufbert.checkpoint.sentence_transformers import SETTINGS, read_embedder
from ufbert.checkpoint.tokenizer import load_tokenizer, save_tokenizer
from ufbert.commands.app import main
from ufbert.model.pooling import pool, pool_by_length

transformers = pytest.importorskip("transformers")
library = pytest.importorskip("sentence_transformers")
hf: Any = importlib.import_module("ufbert.hf")  # which lets both libraries open our folders
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

Capture = pytest.CaptureFixture[str]
WORDS = [f"w{i}" for i in range(24)]
TEXTS = ["w1 w2 w3", " ".join(WORDS), "w9 w8", "Hello World w4", "w5"]
HIDDEN = 32


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two small layers with a cased vocabulary and no file of sentence-transformers."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "query", "passage", ":", "hello", "Hello", "world", "World", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.2,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def write(file: Path, values: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values))


def declare(folder: Path, pooling: dict[str, Any] | None = None, layers: tuple[str, ...] = ()) -> None:
    """`modules.json` and the pooling's file; `layers` are names of modules behind it."""
    paths = {"": "Transformer", "1_Pooling": "Pooling", **{f"{i}_{kind}": kind for i, kind in enumerate(layers, 2)}}
    types = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in paths.items()]
    write(folder / "modules.json", [{"idx": i, "name": str(i), **module} for i, module in enumerate(types)])
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **(pooling or {})})


def dense(folder: Path, number: int, inputs: int, outputs: int, *, pickled: bool = False, **values: Any) -> None:
    """The files of a Dense layer, old or new."""
    torch.manual_seed(number)
    state = {"linear.weight": torch.randn(outputs, inputs) * 0.3}
    if values.setdefault("bias", True):
        state["linear.bias"] = torch.randn(outputs)
    if values.get("use_residual") and inputs != outputs:
        state["residual.weight"] = torch.randn(outputs, inputs) * 0.3
    path = folder / f"{number}_Dense"
    write(path / "config.json", {"in_features": inputs, "out_features": outputs, **values})
    if pickled:
        torch.save(state, path / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(state, path / "model.safetensors")


def embed(capsys: Capture, folder: Path, texts: list[str], *options: object) -> tuple[np.ndarray[Any, Any], str]:
    """What `ufbert infer` writes, and what it says."""
    (folder.parent / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    output = folder.parent / "out.npy"
    arguments = [folder, folder.parent / "texts.txt", "--task", "embed", "--precision", "float32", "-o", output]
    with pytest.raises(SystemExit) as end:
        main(["infer", *map(str, [*arguments, "--overwrite", *options])])
    said = capsys.readouterr().err
    assert (end.value.code or 0) == 0, said
    return np.load(output), said


def original(folder: Path) -> Any:
    return library.SentenceTransformer(str(folder), device="cpu")


def close(ours: Any, theirs: Any) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def old_flags(*modes: str) -> Callable[[Path], None]:
    return lambda folder: declare(folder, {flag: mode in modes for flag, mode in FLAGS.items()})


def new_modes(modes: Any) -> Callable[[Path], None]:
    return lambda folder: declare(folder, {"pooling_mode": modes, "include_prompt": True})


def labse(folder: Path) -> None:
    declare(folder, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("Dense", "Normalize"))
    dense(folder, 2, HIDDEN, HIDDEN, pickled=True, activation_function="torch.nn.modules.activation.Tanh")


def distiluse(folder: Path) -> None:
    declare(folder, layers=("Dense",))
    dense(folder, 2, HIDDEN, 16)  # the activation is not named: Tanh


def many_layers(folder: Path) -> None:
    declare(folder, {"pooling_mode": ["lasttoken", "cls"]}, ("Normalize", "Dense", "Dropout", "LayerNorm", "Dense"))
    dense(folder, 3, 2 * HIDDEN, 16, use_residual=True, activation_function="torch.nn.modules.activation.GELU")
    (folder / "5_LayerNorm").mkdir()
    library.models.LayerNorm(16).save(str(folder / "5_LayerNorm"))
    write(folder / "4_Dropout" / "config.json", {"dropout": 0.3})
    dense(folder, 6, 16, 16, use_residual=True, bias=False, activation_function="torch.nn.modules.linear.Identity")


def length_file(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        declare(folder)
        write(folder / name, {"max_seq_length": 8, "do_lower_case": False})

    return change


def length_in_new_release(folder: Path) -> None:
    model = original(folder)
    model.max_seq_length = 8
    model.save(str(folder))


def length_of_tokenizer_arguments(folder: Path) -> None:
    declare(folder)
    write(folder / SETTINGS[0], {"max_seq_length": 16, "tokenizer_args": {"model_max_length": 7}})


def length_of_processing(folder: Path) -> None:
    declare(folder)
    write(folder / SETTINGS[0], {"processing_kwargs": {"text": {"max_length": 9}}})


def tokenizer_length(name: str, *, declared: bool) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if declared:
            declare(folder)
            write(folder / SETTINGS[0], {"max_seq_length": None, "do_lower_case": False})
        values = json.loads((folder / "tokenizer_config.json").read_text())
        write(folder / "tokenizer_config.json", {**values, name: 8})

    return change


def length_of_another_software(folder: Path) -> None:
    write(folder / SETTINGS[0], {"max_seq_length": 8})  # not read there without modules.json


def lower_case(folder: Path) -> None:
    declare(folder)
    write(folder / SETTINGS[0], {"max_seq_length": 30, "do_lower_case": True})


def prompts(default: str | None, **pooling: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        declare(folder, pooling)
        values = {"prompts": {"query": "query : ", "document": None}, "default_prompt_name": default}
        write(folder / "config_sentence_transformers.json", values)

    return change


def truncated(folder: Path) -> None:
    declare(folder, layers=("Normalize",))
    write(folder / "config_sentence_transformers.json", {"truncate_dim": 8, "similarity_fn_name": "dot"})


def byte_level(folder: Path) -> None:
    """A tokenizer to which spaces at the ends of a text are tokens."""
    declare(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(["w1 w2"], trainers.BpeTrainer(vocab_size=30, special_tokens=special))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    (folder / "vocab.txt").unlink()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


CASES: dict[str, Callable[[Path], None]] = {
    "an old flag": old_flags("lasttoken"),
    "a new mode": new_modes("weightedmean"),
    "several old flags": old_flags("mean", "cls", "max"),
    "no old flag": old_flags(),
    "several modes in their order": new_modes(["weightedmean", "cls", "mean_sqrt_len_tokens", "lasttoken", "max"]),
    "a list of one": new_modes(["max"]),
    "LaBSE": labse,
    "distiluse": distiluse,
    "many layers": many_layers,
    "length of an old file": length_file("sentence_xlm-roberta_config.json"),
    "length saved by a new release": length_in_new_release,
    "length of tokenizer_args": length_of_tokenizer_arguments,
    "length of processing_kwargs": length_of_processing,
    "length of the tokenizer": tokenizer_length("model_max_length", declared=True),
    "length of a plain folder": tokenizer_length("model_max_length", declared=False),
    "length by its old name": tokenizer_length("max_len", declared=False),
    "length that is not read": length_of_another_software,
    "lower case": lower_case,
    "default prompt": prompts("query"),
    "empty default prompt": prompts("document"),
    "prompt left out of the mean": prompts("query", include_prompt=False),
    "prompt left out of others": prompts(
        "query", include_prompt=False, pooling_mode=["cls", "weightedmean", "max", "lasttoken", "mean_sqrt_len_tokens"]
    ),
    "truncated": truncated,
    "spaces": byte_level,
}


@pytest.mark.parametrize("case", CASES)
def test_as_the_original_there_and_back(case: str, plain: Path, tmp_path: Path, capsys: Capture) -> None:
    source, ours = shutil.copytree(plain, tmp_path / "source"), tmp_path / "ours"
    CASES[case](source)
    texts = [*TEXTS, "  w1 w2  ", "w1 w2", "w2 "]
    model = original(source)
    wanted = model.encode(texts)
    code, said = run_convert(capsys, source, ours)
    assert code == 0, said
    close(embed(capsys, ours, texts)[0], wanted)
    again = original(ours)
    close(again.encode(texts), wanted)
    if case != "length of processing_kwargs":  # which that property leaves out
        assert again.max_seq_length == model.max_seq_length
    assert again.similarity_fn_name == model.similarity_fn_name
    if case in ("LaBSE", "many layers", "lower case", "prompt left out of the mean", "length by its old name"):
        run_convert(capsys, ours, tmp_path / "dense", "--to", "dense")
        close(original(tmp_path / "dense").encode(texts), wanted)
        run_convert(capsys, tmp_path / "dense", tmp_path / "again")
        close(embed(capsys, tmp_path / "again", texts)[0], wanted)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_name_of_the_settings_file_is_read(name: str, tmp_path: Path) -> None:
    length_file(name)(tmp_path)
    assert read_embedder(tmp_path).max_seq_length == 8


def test_layout_of_the_oldest_releases(plain: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(plain, tmp_path / "old" / "0_Transformer")
    declare(tmp_path / "old", {"pooling_mode_cls_token": True})
    modules = json.loads((tmp_path / "old" / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write(tmp_path / "old" / "modules.json", modules)
    write(tmp_path / "old" / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 8})
    write(tmp_path / "old" / "config.json", {"__version__": "0.3.0"})  # of the software, not of a model
    wanted = original(tmp_path / "old").encode(TEXTS)
    modules[0]["type"] = "sentence_transformers.models.BERT"
    write(tmp_path / "old" / "modules.json", modules)
    run_convert(capsys, tmp_path / "old", tmp_path / "ours")
    close(embed(capsys, tmp_path / "ours", TEXTS)[0], wanted)


def test_prompts_normalising_and_truncating_as_asked_for(plain: Path, tmp_path: Path, capsys: Capture) -> None:
    source, ours = shutil.copytree(plain, tmp_path / "source"), tmp_path / "ours"
    prompts("query")(source)
    run_convert(capsys, source, ours)
    model, again = original(source), original(ours)
    found, said = embed(capsys, ours, TEXTS, "--prompt", "document")
    close(found, model.encode(TEXTS, prompt_name="document"))
    assert "embed (mean pooling, not normalised) with" in said
    found, said = embed(capsys, ours, TEXTS, "--prompt", "passage: ", "--truncate-dim", 5, "--normalize")
    close(found, model.encode(TEXTS, prompt="passage: ", truncate_dim=5, normalize_embeddings=True))
    assert "embed (mean pooling, cut to 5 numbers, of length 1, prompt 'passage: ') with" in said
    found, _ = embed(capsys, ours, TEXTS, "--prompt", "", "--pooling", "max+cls")
    close(found[:, HIDDEN:], original_states(model, TEXTS))
    close(again.encode_query(TEXTS), model.encode_query(TEXTS))
    close(again.encode_document(TEXTS), model.encode_document(TEXTS))
    close(np.stack(Pipeline(ours, prompt="query", precision="float32")(TEXTS)), model.encode_query(TEXTS))  # type: ignore[arg-type]
    pairs = [("w1 w2", "w3"), ("w4", "w5 w6")]
    close(np.stack(Pipeline(ours, precision="float32")(pairs)), model.encode(pairs))  # type: ignore[arg-type]


def original_states(model: Any, texts: list[str]) -> Any:
    """The first token's state of each text, without a prompt."""
    return np.stack([s[0].numpy() for s in model.encode(texts, prompt="", output_value="token_embeddings")])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--prompt", "qeury"], "the checkpoint has no prompt 'qeury'; it has: query, document; a text to put before"),
        (["--truncate-dim", "33"], "truncate_dim must lie between 1 and the 32 numbers of an embedding, not 33"),
        (["--pooling", "mean+first"], "inference.pooling must be one of"),
        (["--max-length", "4"], "the prompt fills the 4 tokens that are read"),
        (["--long-text", "window"], "the checkpoint leaves its prompt out of the pooling, which long_text 'window'"),
    ],
)
def test_what_cannot_be_asked_for(options: list[str], text: str, plain: Path, tmp_path: Path, capsys: Capture) -> None:
    source = shutil.copytree(plain, tmp_path / "source")
    prompts("query", include_prompt=False)(source)
    run_convert(capsys, source, tmp_path / "ours")
    (tmp_path / "texts.txt").write_text("w1\n")
    with pytest.raises(SystemExit) as end:
        main(["infer", str(tmp_path / "ours"), str(tmp_path / "texts.txt"), "--task", "embed", *options])
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert text in said
    assert said.count("\n") == 1


def module_before_pooling(folder: Path) -> None:
    declare(folder, layers=("Normalize",))
    modules = json.loads((folder / "modules.json").read_text())
    modules[1:] = [{"path": "1_WeightedLayerPooling", "type": "sentence_transformers.models.WeightedLayerPooling"}]
    write(folder / "modules.json", modules)


def unknown_activation(folder: Path) -> None:
    distiluse(folder)
    dense(folder, 2, HIDDEN, 16, activation_function="elsewhere.Snake")


def dense_on_tokens(folder: Path) -> None:
    distiluse(folder)
    dense(folder, 2, HIDDEN, 16, module_input_name="token_embeddings")


def dense_without_weights(folder: Path) -> None:
    distiluse(folder)
    (folder / "2_Dense" / "model.safetensors").unlink()


def dense_of_another_size(folder: Path) -> None:
    distiluse(folder)
    dense(folder, 2, 48, 16)


def other_settings(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        declare(folder)
        write(folder / SETTINGS[0], values)

    return change


def word_embeddings(folder: Path) -> None:
    """No model of transformers at all, and none of its files."""
    declare(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0] = {"path": "0_WordEmbeddings", "type": "sentence_transformers.models.WordEmbeddings"}
    write(folder / "modules.json", modules)
    (folder / "config.json").unlink()


def cut_at_the_front(folder: Path) -> None:
    declare(folder)
    values = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", {**values, "truncation_side": "left"})


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "LSTM": (lambda folder: declare(folder, layers=("LSTM",)), "LSTM behind the Pooling cannot be expressed"),
    "words": (word_embeddings, "starts with WordEmbeddings, which cannot be expressed; a Transformer must"),
    "front": (cut_at_the_front, "truncation_side is 'left'; long texts can only be cut at their end"),
    "before": (module_before_pooling, "WeightedLayerPooling follows the Transformer, which cannot be expressed"),
    "pooling": (new_modes("attention"), "the pooling ['attention'] is not known; known: cls, max, mean,"),
    "flag": (lambda f: declare(f, {"pooling_mode_attention": True}), "the pooling ['pooling_mode_attention'] is not"),
    "activation": (unknown_activation, "activation_function is 'elsewhere.Snake', which cannot be expressed"),
    "tokens": (dense_on_tokens, "module_input_name is 'token_embeddings'; only sentence_embedding"),
    "weights": (dense_without_weights, "2_Dense: holds no weights (model.safetensors or pytorch_model.bin)"),
    "size": (dense_of_another_size, "the layer Dense 48 to 16 behind the pooling mean takes 48 numbers, but gets 32"),
    "prompt": (prompts("other"), "default_prompt_name is 'other', which is none of the prompts: query, document"),
    "task": (other_settings(transformer_task="fill-mask"), "transformer_task is 'fill-mask'; only feature-extraction"),
    "config": (other_settings(config_args={"num_hidden_layers": 1}), "config_args changes num_hidden_layers"),
    "tokenizer": (other_settings(tokenizer_args={"do_lower_case": True}), "tokenizer_args changes do_lower_case"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_named(case: str, plain: Path, tmp_path: Path, capsys: Capture) -> None:
    change, text = REFUSED[case]
    change(shutil.copytree(plain, tmp_path / "source"))
    code, said = run_convert(capsys, tmp_path / "source", tmp_path / "ours")
    assert code == 1
    assert text in said
    assert said.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def test_a_module_of_another_package_is_named_in_full(plain: Path, tmp_path: Path, capsys: Capture) -> None:
    source = shutil.copytree(plain, tmp_path / "source")
    declare(source)
    text = (source / "modules.json").read_text()
    (source / "modules.json").write_text(text.replace("sentence_transformers.models.Pooling", "modeling_own.Pooling"))
    _, said = run_convert(capsys, source, tmp_path / "ours")
    assert "modeling_own.Pooling follows the Transformer, which cannot be expressed; a Pooling must" in said


def test_layers_survive_saving_but_not_the_loss_of_their_files(plain: Path, tmp_path: Path, capsys: Capture) -> None:
    from ufbert import UltraFastBertModel

    source = shutil.copytree(plain, tmp_path / "source")
    labse(source)
    run_convert(capsys, source, tmp_path / "ours")
    UltraFastBertModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "saved")
    read = read_embedder(tmp_path / "saved")
    assert list(map(str, read.layers)) == ["Dense 32 to 32", "Normalize"]
    tokenizer_files = [f for f in (tmp_path / "ours").iterdir() if f.name.startswith("tokenizer")]
    hf.UltraFastBertModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "bare")
    for file in tokenizer_files:
        shutil.copy(file, tmp_path / "bare")
    with pytest.raises(ValueError, match="bare: lacks the files of Dense, Normalize, which its embeddings pass"):
        Pipeline(tmp_path / "bare", "embed")


def test_an_embedder_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = Embedder(
        declared=True,
        pooling="mean+cls",
        include_prompt=False,
        layers=(
            Normalize(),
            Dense(torch.randn(4, 8), None, "ReLU", residual=True, shortcut=torch.randn(4, 8)),
            LayerNorm(torch.randn(4), torch.randn(4)),
        ),
        do_lower_case=True,
        prompts={"query": "Frage: "},
        default_prompt="query",
        truncate_dim=3,
        similarity="dot",
        lengths_by_task={"query_length": 12},
        max_seq_length=64,
    )
    write_embedder(written, 4, 32, tmp_path)
    read = read_embedder(tmp_path)
    for field in dataclasses.fields(Embedder):
        if field.name not in ("layers", "max_seq_length"):
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    assert read.max_seq_length == 32  # the model has no more positions
    for one, two in zip(read.layers, written.layers, strict=True):
        assert str(one) == str(two)
        for name, value in vars(two).items():
            assert torch.equal(getattr(one, name), value) if isinstance(value, torch.Tensor) else True


@pytest.mark.parametrize("mode", [*POOLINGS, "mean+cls", "lasttoken+max+weightedmean"])
@pytest.mark.parametrize("prompt", [0, 2])
def test_pooling_of_padded_rows(mode: str, prompt: int) -> None:
    lengths = torch.tensor([7, 7, 5, 3])
    mask = (torch.arange(7) < lengths[:, None]).long()
    hidden = torch.randn(4, 7, 8)
    theirs = library.models.Pooling(8, tuple(mode.split("+")), include_prompt=False)
    features = {"token_embeddings": hidden, "attention_mask": mask, "prompt_length": prompt}
    wanted = theirs(features)["sentence_embedding"]
    for function in (pool, pool_by_length):
        torch.testing.assert_close(function(hidden, mask, mode, prompt), wanted)
    assert torch.equal(pool(hidden[:, :2], None, mode, 2), torch.zeros_like(wanted))  # nothing but a prompt


def test_onnx_folder_holds_the_embedder(
    plain: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(plain, tmp_path / "source")
    labse(source)
    settings = {"max_seq_length": 8, "do_lower_case": True}
    write(source / SETTINGS[0], settings)
    # The graph is held to the model elsewhere, and takes long.
    monkeypatch.setattr("ufbert.conversion.export.onnx.require_onnx", lambda: None)
    monkeypatch.setattr("ufbert.conversion.export.onnx_folder.export_onnx", lambda *arguments: None)
    code, said = run_convert(capsys, source, tmp_path / "onnx", "--to", "onnx")
    assert code == 0, said
    model = original(source)
    features = model.preprocess(TEXTS)
    states = model[0](features)
    for module in json.loads((tmp_path / "onnx" / "modules.json").read_text())[1:]:
        layer = getattr(library.models, module["type"].rsplit(".", 1)[-1]).load(str(tmp_path / "onnx" / module["path"]))
        states = layer(states)
    close(states["sentence_embedding"].detach().numpy(), model.encode(TEXTS))
    assert json.loads((tmp_path / "onnx" / SETTINGS[0]).read_text()) == settings
    config = transformers.AutoConfig.from_pretrained(tmp_path / "onnx")
    assert (config.model_type, config.hidden_size, config.architectures) == ("bert", HIDDEN, ["BertModel"])
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "onnx")) == config.vocab_size


KIN: dict[str, tuple[str, int]] = {
    "bert": ("BertConfig", 30),  # BGE
    "mpnet": ("MPNetConfig", 38),
    "modernbert": ("ModernBertConfig", 50),
    "nomic_bert": ("NomicBertConfig", 50),
    "gte": ("GteConfig", 35),
}
"""Families, and the longest text that their embedder names: rotary positions go beyond the model's 40."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", KIN)
def test_embedders_of_other_families(family: str, plain: Path, tmp_path: Path, capsys: Capture) -> None:
    kind, longest = KIN[family]
    entries = len((plain / "vocab.txt").read_text().split())
    special = {"pad_token_id": 1 if family == "mpnet" else 0, "bos_token_id": 2, "eos_token_id": 3}
    config = getattr(transformers, kind)(
        **{"vocab_size": entries, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, **special},
        **{"intermediate_size": 48, "max_position_embeddings": 40, "initializer_range": 0.2},
    )
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "source")
    save_tokenizer(load_tokenizer(plain), tmp_path / "source", 512, token_types=False)
    declare(tmp_path / "source", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("Normalize",))
    write(tmp_path / "source" / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    texts = [*TEXTS, " ".join([*WORDS, *WORDS[::-1], *WORDS])]
    original = library.SentenceTransformer(str(tmp_path / "source"), device="cpu")
    assert original.tokenize(texts[-1:])["input_ids"].shape[1] == longest
    wanted = original.encode(texts)
    code, err = run_convert(capsys, tmp_path / "source", tmp_path / "ours")
    assert code == 0, err
    ours, _ = embed(capsys, tmp_path / "ours", texts)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    again = library.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(texts)
    np.testing.assert_allclose(again, wanted, atol=1e-4)
