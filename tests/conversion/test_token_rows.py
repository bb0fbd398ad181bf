"""Token rows before any training: whose they are, and what they say of a layer, against what defines it."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from ufbert import UltraFastBertConfig
from ufbert.conversion.distillation.batch import Masker
from ufbert.conversion.distillation.layer_inputs import LayerSample
from ufbert.conversion.distillation.layer_regression import sublayer
from ufbert.conversion.distillation.texts import Batcher
from ufbert.conversion.distillation.token_rows import RankedRows, RankedTokens, error_weights, rank_tokens
from ufbert.model.encoder import Layer
from ufbert.model.token_rows import TokenRows

HIDDEN, VOCABULARY = 12, 40


def teacher_layer(norm: str) -> Layer:
    config = UltraFastBertConfig(hidden_size=HIDDEN, num_attention_heads=2, feedforward="dense", norm_position=norm)
    return Layer(config).requires_grad_(False)


def sample_of(rows: torch.Tensor, tokens: int, noise: float) -> LayerSample:
    """Outputs that are a token's row and noise, at tokens of very different frequency."""
    share = 1.0 / torch.arange(1, VOCABULARY + 1)
    ids = torch.multinomial(share, tokens, replacement=True)
    return LayerSample(torch.randn(tokens, HIDDEN), rows[ids] + noise * torch.randn(tokens, HIDDEN), ids)


def test_tokens_are_ranked_by_how_often_the_texts_have_them() -> None:
    words = {word: number for number, word in enumerate(("[UNK]", "[MASK]", "a", "b", "c", "d"))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["[UNK]", "[MASK]"])
    texts = ["c c c a", "b"]
    embeddings = torch.randn(6, 3)
    batcher = Batcher(tokenizer, 16, False, torch.device("cpu"))
    ranked = rank_tokens(batcher, texts, embeddings)
    assert ranked.ranks.tolist() == [3, 4, 1, 2, 0, 5]  # c thrice, a and b once, the lower number first
    assert torch.equal(ranked.most_frequent(2), embeddings[[4, 2]])
    masking = Batcher(tokenizer, 16, False, torch.device("cpu"), Masker(tokenizer))
    assert rank_tokens(masking, ["c c c a"], embeddings).ranks.tolist()[1] == 0


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_row_is_what_neurons_leave_over_at_its_token(norm: str) -> None:
    teacher = teacher_layer(norm)
    tokens = RankedTokens(torch.randperm(VOCABULARY), torch.randn(VOCABULARY, 5))
    truth = torch.randn(VOCABULARY, HIDDEN)
    sample = sample_of(truth, 20_000, noise=0.1)
    assert sample.token_ids is not None
    rows = RankedRows(TokenRows(VOCABULARY, HIDDEN), tokens)
    neurons = torch.randn(HIDDEN, HIDDEN)
    beside = LayerSample(sample.x, sample.y + sample.x @ neurons, sample.token_ids)
    rows.fit(teacher, beside, lambda x: x @ neurons)
    everything = torch.arange(VOCABULARY)
    seen = torch.bincount(sample.token_ids, minlength=VOCABULARY) > 100
    torch.testing.assert_close(rows(everything)[seen], truth[seen], atol=0.25, rtol=0)
    left = rows.left_over(sample)
    torch.testing.assert_close(left.y, sample.y - rows(sample.token_ids))
    # Of the tokens without a row of their own the last one speaks.
    few = RankedRows(TokenRows(5, HIDDEN), tokens)
    few.fit(teacher, sample, torch.zeros_like)
    rare = tokens.ranks >= 5
    assert len(few(everything[rare]).unique(dim=0)) == 1
    others = rare[sample.token_ids]
    weights = error_weights(teacher, sample.x, sample.y)[others]
    mean = (sample.y[others] * weights).sum(0) / weights.sum()
    torch.testing.assert_close(few(everything[rare])[0], mean, atol=0.02, rtol=0)


def test_tokens_that_the_text_has_seldom_have_rows_by_their_embeddings() -> None:
    """Where rows are a linear map of the embeddings, as far as there is one."""
    teacher, words = teacher_layer("pre"), torch.randn(VOCABULARY, 5)
    truth = words @ torch.randn(5, HIDDEN) + torch.randn(HIDDEN)
    sample = sample_of(truth, 3000, noise=1.0)
    assert sample.token_ids is not None
    absent = sample.token_ids < 25  # the last 15 tokens, left out of the sample
    known = LayerSample(sample.x[absent], sample.y[absent], sample.token_ids[absent])
    tokens = RankedTokens(torch.arange(VOCABULARY), words)
    rows = RankedRows(TokenRows(VOCABULARY, HIDDEN), tokens)
    rows.fit(teacher, known, torch.zeros_like)
    found = rows(torch.arange(25, VOCABULARY))
    mean = known.y.mean(0)
    error, by_mean = ((values - truth[25:]).square().mean() for values in (found, mean))
    assert error < 0.1 * by_mean


def test_errors_weigh_as_the_norm_makes_them() -> None:
    teacher = teacher_layer("post")
    assert teacher.feedforward_norm is not None
    x, y = torch.randn(2000, HIDDEN) * torch.rand(2000, 1) * 9, torch.randn(2000, HIDDEN)
    error = 1e-3 * torch.randn(2000, HIDDEN)
    behind = (sublayer(teacher, x, y + error) - sublayer(teacher, x, y)).square().sum(1)
    before = error.square().sum(1) * error_weights(teacher, x, y)[:, 0]
    # The norm takes two directions of the error away; what is left is as foretold.
    assert float(torch.corrcoef(torch.stack((behind.log(), before.log())))[0, 1]) > 0.95
    assert torch.equal(error_weights(teacher_layer("pre"), x, y), torch.ones(2000, 1))
