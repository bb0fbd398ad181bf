"""Token rows of a student's layers: which tokens have one, and what the rows are before the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ufbert.model.encoder import Layer, UltraFastBertModel
from ufbert.model.token_rows import TokenRows

from .batch import Text
from .layer_inputs import LayerSample
from .texts import Batcher

__all__ = ["RankedRows", "RankedTokens", "error_weights", "rank_tokens", "tokens_of"]

# Texts that tell how frequent each token is, taken evenly from all: about a million tokens.
COUNTED_TEXTS = 50_000
# A row is drawn to what its token's embedding tells as by so many tokens that say it: means of few are mostly noise.
PRIOR_TOKENS = 8.0
RIDGE = 1e-3
CHUNK = 4096


@dataclass(frozen=True)
class RankedTokens:
    """A vocabulary by how frequent its tokens are."""

    ranks: torch.Tensor
    """Of each token (V,) int64: how many others are more frequent."""
    words: torch.Tensor
    """The original's word embeddings (V, E), which tell how tokens are alike."""

    def most_frequent(self, count: int) -> torch.Tensor:
        """The word embeddings (count, E) of the most frequent ones, the very first first."""
        return self.words[self.ranks.argsort()[:count]].float()


def rank_tokens(batcher: Batcher, texts: Sequence[Text], words: torch.Tensor) -> RankedTokens:
    """The vocabulary with the word embeddings `words` (V, E), by how often `texts` have each token; ties by number."""
    vocab_size = len(words)
    step = max(1, len(texts) // COUNTED_TEXTS)
    counts = np.zeros(vocab_size, dtype=np.int64)
    for ids in batcher.token_ids(texts[::step]):
        np.add.at(counts, ids, 1)
    if batcher.masker is not None:  # which no text has before it is masked
        counts[batcher.masker.mask_id] = counts.max() + 1
    ranks = np.empty(vocab_size, dtype=np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(vocab_size)
    return RankedTokens(torch.from_numpy(ranks).to(words.device), words.detach())


def error_weights(teacher: Layer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By how much the norm behind a layer multiplies errors of its output y for the input x, squared: (n, 1).

    The norm divides by the token's standard deviation, and so to first order errors too; 1 where there is no norm.
    """
    if teacher.pre_norm:
        return torch.ones_like(x[:, :1])
    eps = getattr(teacher.feedforward_norm, "eps", 0.0)
    return (x + y).var(1, unbiased=False, keepdim=True).add(eps).reciprocal()


def tokens_of(original: UltraFastBertModel, batcher: Batcher, texts: Sequence[Text]) -> RankedTokens:
    """The original's vocabulary: by its own ranks if its layers have rows, which go by them, else by `texts`."""
    words, ranks = original.embeddings.word.weight, original.embeddings.token_ranks
    return rank_tokens(batcher, texts, words) if ranks is None else RankedTokens(ranks, words.detach())


@dataclass(frozen=True)
class RankedRows:
    """The token rows of one layer, by the ids of tokens."""

    rows: TokenRows
    tokens: RankedTokens

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Ids (n,) -> (n, H)."""
        found: torch.Tensor = self.rows(self.tokens.ranks[token_ids])
        return found

    @torch.no_grad()
    def fit(self, teacher: Layer, sample: LayerSample, others: Callable[[torch.Tensor], torch.Tensor] | None) -> None:
        """Each row becomes the mean of what `others`, given x, leave over at its token, drawn to what is expected.

        That is the linear map of the token's word embedding that is nearest to the rows of all tokens: of a token that
        the sample has twice, that tells more than the two. In layers 1 and 3 of all-MiniLM-L6-v2, with 128 neurons and
        100,000 tokens, the squared error falls from 0.41 to 0.38 and from 0.39 to 0.37 by it.

        Weighted by `error_weights`. Without `others` it is the layer's output less its mean.
        """
        weight = self.rows.weight
        sums, weights = torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
        assert sample.token_ids is not None
        mean = sample.y.float().mean(0)
        for start in range(0, len(sample.x), CHUNK):
            part = slice(start, start + CHUNK)
            x, y = sample.x[part].float(), sample.y[part].float()
            left = y - (mean if others is None else others(x))
            w = error_weights(teacher, x, y)
            rows = self.tokens.ranks[sample.token_ids[part]].clamp(max=self.rows.tokens)
            sums.index_add_(0, rows, left * w)
            weights.index_add_(0, rows, w[:, 0])
        total = weights.sum()
        prior = PRIOR_TOKENS * total / len(sample.x)
        expected = (sums.sum(0) / total).expand_as(sums).clone()
        expected[:-1] = self._by_word(sums[:-1], weights[:-1], prior)
        weight.copy_((sums + prior * expected) / (weights + prior)[:, None])

    def _by_word(self, sums: torch.Tensor, weights: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        """What tokens' embeddings tell of their rows (N, H), by the sums (N, H) and the weights (N,) in them."""
        design = F.pad(self.tokens.most_frequent(len(sums)), (0, 1), value=1.0)
        reliable = weights / (weights + prior)  # of a mean's variance, the share that is not noise
        gram = (design * reliable[:, None]).T @ design
        moments = (design * (reliable / weights.clamp(min=1e-12))[:, None]).T @ sums
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        found: torch.Tensor = design @ torch.linalg.solve(gram.double(), moments.double()).float()
        return found

    @torch.no_grad()
    def left_over(self, sample: LayerSample) -> LayerSample:
        """The sample with outputs less the rows: what neurons are to say."""
        assert sample.token_ids is not None
        y = torch.cat([
            (sample.y[start : start + CHUNK].float() - self(sample.token_ids[start : start + CHUNK])).to(sample.y.dtype)
            for start in range(0, len(sample.y), CHUNK)
        ])  # fmt: skip
        return LayerSample(sample.x, y, sample.token_ids)
