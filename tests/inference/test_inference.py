"""Pipeline: every task against the model called directly, and results that hang on nothing but the text."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from ufbert import (
    Pipeline,
    UltraFastBertConfig,
    UltraFastBertForMaskedLM,
    UltraFastBertForSequenceClassification,
    UltraFastBertModel,
)
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import CheckpointError, ConfigError, DataError
from ufbert.inference.display import Display
from ufbert.inference.engine import PackedEncoder
from ufbert.inference.engine.linear import multiplied_as
from ufbert.text.batching import Example, encode_window, length_batches, windows
from ufbert.text.tokenization import encode_batch

TEXT = "the quick brown fox jumps over a lazy dog and she sells sea shells by walking paths"
WORDS = TEXT.split()


def some_texts(number: int, longest: int = 25) -> list[str]:
    """Texts of very different lengths, an empty one among them."""
    choose = random.Random(0)
    return ["", *(" ".join(choose.choices(WORDS, k=choose.randint(1, longest))) for _ in range(number - 1))]


def hidden_states(folder: Path, text: str, pair: str | None = None) -> torch.Tensor:
    """The encoder's output for one text alone, (T, H)."""
    model = UltraFastBertModel.from_pretrained(folder)
    pairs = None if pair is None else [pair]
    batch = encode_batch(load_tokenizer(folder), [text], pairs, max_length=32)
    types = torch.from_numpy(batch.token_type_ids) if model.config.type_vocab_size else None
    with torch.no_grad():
        return model.encode(torch.from_numpy(batch.input_ids), None, types)[0]


def float32(folder: Path, task: str | None = None, **options: Any) -> Pipeline:
    return Pipeline(folder, task, precision="float32", **options)


def test_fill_mask_is_the_models_softmax_at_the_mask(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["masked_lm"]
    text = "The quick [MASK] jumps over the dog."
    (result,) = float32(folder, top_k=3)([text])
    assert isinstance(result, dict)
    model = UltraFastBertForMaskedLM.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        logits = model(ids).logits[0, ids[0].tolist().index(tokenizer.token_to_id("[MASK]"))]
    expected, tokens = logits.softmax(0).topk(3)
    (candidates,) = result["masks"]
    assert [c["token"] for c in candidates] == [tokenizer.id_to_token(i) for i in tokens.tolist()]
    assert [c["probability"] for c in candidates] == pytest.approx(expected.tolist(), rel=1e-4)


def test_each_mask_has_its_candidates_and_only_masks_are_decoded(tiny_checkpoints: dict[str, Path]) -> None:
    pipeline = float32(tiny_checkpoints["masked_lm"], top_k=2)
    model = pipeline._task.model  # type: ignore[attr-defined]
    decoded = []
    decode = model.decode

    def record(hidden: torch.Tensor) -> torch.Tensor:
        decoded.append(hidden.shape[0])
        return decode(hidden)  # type: ignore[no-any-return]

    model.decode = record
    one, two = pipeline(["the [MASK] dog", "a [MASK] fox and a longer [MASK] path"])
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert [len(r["masks"]) for r in (one, two)] == [1, 2]
    assert all(len(candidates) == 2 for candidates in two["masks"])
    assert two["filled"] is None
    assert sum(decoded) == 3


@pytest.mark.parametrize(
    ("token", "text", "filled"),
    [
        ("##ing", "She is walk [MASK], slowly", "She is walking, slowly"),
        ("dog", "She is walk [MASK], slowly", "She is walk dog, slowly"),
        ("##ing", "[MASK] is a Word", "ing is a Word"),
    ],
)
def test_the_filled_text_keeps_its_spelling_and_joins_pieces(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], token: str, text: str, filled: str
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["masked_lm"])
    config = UltraFastBertForMaskedLM.from_pretrained(tiny_checkpoints["masked_lm"]).config
    model = UltraFastBertForMaskedLM(config.replace(decoder_bias=True))
    assert tokenizer.token_to_id(token) is not None
    model.decoder.bias.data[tokenizer.token_to_id(token)] = 1000.0
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    (result,) = float32(tmp_path / "model")([text])
    assert isinstance(result, dict)
    assert result["filled"] == filled
    assert result["masks"][0][0] == {"token": token, "probability": 1.0}


def test_a_byte_level_tokenizer_has_its_own_mask(tmp_path: Path, tiny_config: UltraFastBertConfig) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["a walking dog and a talking dog"] * 5, trainer)
    tokenizer.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    config = tiny_config.replace(vocab_size=500, decoder_bias=True, pad_token_id=1)
    for word, filled in ((" dog", "my dog !"), ("alking", "myalking !")):
        model = UltraFastBertForMaskedLM(config)
        model.decoder.bias.data.zero_()
        model.decoder.bias.data[tokenizer.encode(word).ids[0]] = 1000.0
        assert len(tokenizer.encode(word)) == 1
        model.save_pretrained(tmp_path / "model", tokenizer=tokenizer, replace=True)
        results = float32(tmp_path / "model")(["my [MASK] !", "my <mask> !"])
        assert [r["filled"] for r in results if isinstance(r, dict)] == [filled, filled]


def test_classify_is_the_models_softmax(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["classifier"]
    texts = some_texts(5)
    model = UltraFastBertForSequenceClassification.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    for text, result in zip(texts, float32(folder)(texts), strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([tokenizer.encode(text).ids])).logits[0].softmax(0).tolist()
        assert isinstance(result, dict)
        assert list(result["scores"]) == ["no", "maybe", "yes"]
        assert list(result["scores"].values()) == pytest.approx(expected, abs=1e-5)
        assert result["label"] == ["no", "maybe", "yes"][int(np.argmax(expected))]
        assert result["score"] == max(result["scores"].values())


def test_regression_gives_a_value(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["regression"]
    model = UltraFastBertForSequenceClassification.from_pretrained(folder)
    ids = load_tokenizer(folder).encode("a lazy dog", "a fox").ids
    (result,) = float32(folder)([("a lazy dog", "a fox")])
    assert isinstance(result, dict)
    assert result == {"value": pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-5)}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["encoder", "masked_lm", "classifier"])
def test_embed_pools_what_the_encoder_gives(
    tiny_checkpoints: dict[str, Path], kind: str, pooling: str, normalize: bool
) -> None:
    folder = tiny_checkpoints[kind]
    texts = ["a dog", "the quick brown fox jumps over", ""]
    results = float32(folder, "embed", pooling=pooling, normalize=normalize)(texts)
    for text, vector in zip(texts, results, strict=True):
        hidden = hidden_states(folder, text)
        expected = hidden.mean(0) if pooling == "mean" else hidden[0]
        if normalize:
            expected = expected / expected.norm()
        assert isinstance(vector, np.ndarray)
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_the_checkpoint_says_how_to_embed(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    model = UltraFastBertModel.from_pretrained(
        tiny_checkpoints["encoder"], provenance={"pooling": "cls", "normalize": True}
    )
    model.save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    pipeline = float32(tmp_path / "model")
    assert (pipeline.task, pipeline.pooling, pipeline.normalize) == ("embed", "cls", True)
    (vector,) = pipeline(["a dog"])
    assert np.linalg.norm(vector) == pytest.approx(1.0)  # type: ignore[arg-type]
    asked = float32(tmp_path / "model", pooling="mean", normalize=False)
    assert (asked.pooling, asked.normalize) == ("mean", False)
    plain = float32(tiny_checkpoints["encoder"])
    assert (plain.pooling, plain.normalize) == ("mean", False)


@pytest.mark.usefixtures("steady_products")
@pytest.mark.parametrize(("batch_size", "threads"), [(2, 1), (7, 2), (100, 3), (None, 1), (None, 2)])
def test_float32_results_do_not_hang_on_batches_order_or_threads(
    tiny_checkpoints: dict[str, Path], batch_size: int | None, threads: int
) -> None:
    texts = some_texts(150)
    embed = float32(tiny_checkpoints["encoder"], batch_size=batch_size)
    alone = float32(tiny_checkpoints["encoder"], batch_size=1)
    expected = np.stack([np.asarray(v) for v in alone(texts)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        np.testing.assert_array_equal(np.stack([np.asarray(v) for v in embed(texts)]), expected)
        order = np.random.default_rng(0).permutation(len(texts))
        shuffled = np.stack([np.asarray(v) for v in embed([texts[i] for i in order])])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(shuffled, expected[order])


def test_pairs_use_token_types(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    config = UltraFastBertModel.from_pretrained(tiny_checkpoints["encoder"]).config
    UltraFastBertModel(config.replace(type_vocab_size=2)).save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    pairs = [("a dog", "the fox"), ("she sells sea shells", "by the sea shore and over a path")]
    for (text, pair), vector in zip(pairs, float32(tmp_path / "model")(pairs), strict=True):
        expected = hidden_states(tmp_path / "model", text, pair).mean(0).numpy()
        np.testing.assert_allclose(np.asarray(vector), expected, atol=1e-5)


def test_streaming_reads_only_what_it_needs(tiny_checkpoints: dict[str, Path]) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield f"the dog {WORDS[taken % len(WORDS)]}"

    pipeline = float32(tiny_checkpoints["classifier"])
    results = list(itertools.islice(pipeline.stream(endless()), 100))
    assert len(results) == 100
    assert taken <= 32 + 64 + 128 + 256
    assert results[0] != results[1]
    scores = [r["score"] for r in results if isinstance(r, dict)]
    cycle = len(WORDS)
    assert scores[:cycle] == pytest.approx(scores[cycle : 2 * cycle], abs=1e-5)
    assert pipeline([]) == []


def test_windows_grow_and_are_bounded() -> None:
    def examples(number: int, length: int) -> Iterator[Example]:
        return (Example("x" * length) for _ in range(number))

    sizes = [len(w) for w in windows(examples(5000, 10), None, 128)]
    assert sizes == [32, 64, 128, 256, 512, 1024, 2048, 936]
    assert max(len(w) for w in windows(examples(100, 4_000_000), None, 128)) == 4
    assert max(len(w) for w in windows(examples(3000, 1), 10, 40_000)) == 100


def test_batches_hold_texts_of_like_length() -> None:
    lengths = np.array([3, 100, 5, 90, 4, 1], dtype=np.int64)
    assert [b.tolist() for b in length_batches(lengths, 2, 0)] == [[1, 3], [2, 4], [0, 5]]
    assert [b.tolist() for b in length_batches(lengths, None, 200)] == [[1, 3], [2, 4, 0, 5]]
    assert [b.tolist() for b in length_batches(lengths, None, 1)] == [[1], [3], [2], [4], [0], [5]]


@pytest.mark.parametrize(
    "text",
    [
        " ".join(WORDS * 200),
        "dog " + "x" * 5000 + " fox " + "y" * 3000 + " sea shells",  # two unknown words of many letters
        "one-very-long-word-" * 300,
        " " * 400 + "the quick dog",
    ],
)
def test_the_beginning_of_a_long_text_gives_the_tokens_of_the_whole(
    tiny_checkpoints: dict[str, Path], text: str
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    whole = encode_batch(tokenizer, [text], max_length=32)
    window = encode_window(tokenizer, [Example(text)], 32)
    np.testing.assert_array_equal(window.encoded.input_ids, whole.input_ids)
    assert window.encoded.truncated_count == whole.truncated_count


def test_long_texts_are_cut_and_counted(tiny_checkpoints: dict[str, Path]) -> None:
    pipeline = float32(tiny_checkpoints["encoder"], max_length=6)
    texts = ["the dog", "the quick brown fox jumps over", "the quick brown fox and she sells"]
    (results,) = pipeline.run(Example(t) for t in texts)
    assert results.truncated == 2
    assert results.tokens == 4 + 6 + 6
    np.testing.assert_array_equal(results.predictions[1], results.predictions[2])


def test_bad_texts_stop_or_are_reported(tiny_checkpoints: dict[str, Path]) -> None:
    pipeline = float32(tiny_checkpoints["masked_lm"])
    far = "the dog " * 40 + "[MASK]"
    with pytest.raises(DataError, match=r"^texts\[1\]: no \[MASK\] in the text"):
        pipeline(["a [MASK]", "a dog"])
    with pytest.raises(DataError, match=r"^texts\[0\]: 1 of 2 \[MASK\] lie beyond the 32 tokens"):
        pipeline(["[MASK] " + far])
    bad: list[DataError] = []
    examples = [Example("a dog", where="f:1"), Example("a [MASK]", where="f:2"), Example("", where="f:3")]
    (results,) = pipeline.run(examples, bad.append)
    assert [e.where for e in results.examples] == ["f:2"]
    assert len(results.predictions) == 1
    assert [str(e)[:3] for e in bad] == ["f:1", "f:3"]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ("a dog", "not one string"),
        (["a", 3], r"texts\[1\]: is a int"),
        (["a", None], r"texts\[1\]: is a NoneType"),
        ([("a", "b", "c")], r"texts\[0\]: is a tuple"),
        (["a", ("b", "c")], r"texts\[1\]: texts and pairs are mixed"),
        (["\ud800"], r"texts\[0\]: holds half a surrogate pair"),
    ],
)
def test_what_is_no_text_is_named(tiny_checkpoints: dict[str, Path], texts: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        float32(tiny_checkpoints["encoder"])(texts)


@pytest.mark.parametrize(
    ("kind", "task", "problem"),
    [
        ("classifier", "fill-mask", "holds an UltraFastBertForSequenceClassification, which has no head for"),
        ("masked_lm", "classify", "finetune it first: ufbert finetune .* or use the task fill-mask or embed"),
        ("encoder", "classify", "no head for classify; finetune it first.* or use the task embed"),
    ],
)
def test_the_checkpoint_must_have_the_tasks_head(
    tiny_checkpoints: dict[str, Path], kind: str, task: str, problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        Pipeline(tiny_checkpoints[kind], task)


def test_the_default_task_is_what_the_checkpoint_was_made_for(tiny_checkpoints: dict[str, Path]) -> None:
    tasks = {kind: Pipeline(folder).task for kind, folder in tiny_checkpoints.items()}
    assert tasks == {
        "masked_lm": "fill-mask",
        "classifier": "classify",
        "regression": "classify",
        "encoder": "embed",
    }


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"task": "translate"}, "unknown task 'translate'; known: fill-mask, classify, tag, embed"),
        ({"top_k": 0}, "top_k must lie between 1 and"),
        ({"top_k": 10**6}, "top_k must lie between 1 and"),
        ({"max_length": 33}, "max_length must lie between 1 and the model's maximum of 32, not 33"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"task": "embed", "pooling": "mean+median"}, "unknown pooling 'median'; known: cls, max, mean, mean_sqrt_len"),
        ({"precision": "int3"}, "unknown precision 'int3'"),
        ({"backend": "abacus"}, "unknown backend 'abacus'"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
    ],
)
def test_impossible_options(tiny_checkpoints: dict[str, Path], options: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Pipeline(tiny_checkpoints["masked_lm"], **options)


def test_checkpoints_that_cannot_be_used(
    tmp_path: Path, tiny_checkpoints: dict[str, Path], tiny_config: UltraFastBertConfig
) -> None:
    UltraFastBertModel(tiny_config).save_pretrained(tmp_path / "bare")
    with pytest.raises(CheckpointError, match="bare: no tokenizer there"):
        Pipeline(tmp_path / "bare")
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    UltraFastBertModel(tiny_config.replace(vocab_size=20)).save_pretrained(tmp_path / "few", tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match=r"its tokenizer has .* entries, its model only 20"):
        Pipeline(tmp_path / "few")
    dense = tiny_config.replace(feedforward="dense", vocab_size=300)
    UltraFastBertModel(dense).save_pretrained(tmp_path / "dense", tokenizer=tokenizer)
    assert Pipeline(tmp_path / "dense").backend == "torch (dense layers)"
    with pytest.raises(ConfigError, match="dense has dense layers"):
        Pipeline(tmp_path / "dense", backend="numba")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"is a bert checkpoint.*run: ufbert convert"):
        Pipeline(tmp_path / "foreign")
    broken = UltraFastBertModel.from_pretrained(tiny_checkpoints["encoder"])
    broken.embeddings.word.weight.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken", tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="output is not finite"):
        Pipeline(tmp_path / "broken")(["a dog"])


def test_backends_agree_and_numba_is_the_default_on_a_cpu(tiny_checkpoints: dict[str, Path]) -> None:
    texts = some_texts(10)
    numba = float32(tiny_checkpoints["encoder"], device="cpu")
    assert numba.backend == "numba"
    reference = float32(tiny_checkpoints["encoder"], device="cpu", backend="reference")
    assert reference.backend == "reference"
    np.testing.assert_allclose(np.stack(numba(texts)), np.stack(reference(texts)), atol=1e-5)  # type: ignore[arg-type]


def test_bfloat16_changes_little_and_stores_the_matrices_once(tiny_checkpoints: dict[str, Path]) -> None:
    texts = some_texts(20)
    exact = np.stack([np.asarray(v) for v in float32(tiny_checkpoints["encoder"], normalize=True)(texts)])
    pipeline = Pipeline(tiny_checkpoints["encoder"], precision="bfloat16", normalize=True)
    assert pipeline.precision == "bfloat16"
    near = np.stack([np.asarray(v) for v in pipeline(texts)])
    assert near.dtype == np.float32
    assert np.median((exact * near).sum(1)) > 0.99
    assert not np.array_equal(exact, near)
    masked_lm = Pipeline(tiny_checkpoints["masked_lm"], precision="bfloat16")
    model = masked_lm._task.model  # type: ignore[attr-defined]
    assert model.decoder.weight.dtype == multiplied_as(torch.bfloat16)
    assert model.encoder.embeddings.word.weight.dtype == torch.float32
    assert model.encoder.layers[0].feedforward.trees.w_in.dtype == torch.bfloat16
    (result,) = masked_lm(["a [MASK] dog"])
    (expected,) = float32(tiny_checkpoints["masked_lm"])(["a [MASK] dog"])
    assert isinstance(result, dict)
    assert isinstance(expected, dict)
    best, same = expected["masks"][0][0], result["masks"][0][0]
    assert same["token"] == best["token"]
    assert same["probability"] == pytest.approx(best["probability"], rel=0.05)


def test_an_interrupt_while_kernels_load_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    encode = PackedEncoder.encode

    def swallowing(*arguments: Any) -> torch.Tensor:
        with contextlib.suppress(KeyboardInterrupt):  # as a callback from C does
            signal.raise_signal(signal.SIGINT)
        return encode(*arguments)

    monkeypatch.setattr(PackedEncoder, "encode", swallowing)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(tiny_checkpoints["encoder"])
    assert signal.getsignal(signal.SIGINT) is handler
    assert "Stopping when the kernels are loaded" in capsys.readouterr().err


def test_a_rate_of_nothing_is_told_without_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ufbert.inference.display.SECONDS_BETWEEN_NOTES", -1.0)
    with Display(100, done=40) as display:
        display.update(40)  # rows without a text, after an interruption
    assert capsys.readouterr().err == "40 texts, 0 texts/s\n"
