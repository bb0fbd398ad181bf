"""What each task makes of a batch: candidates for masks, labels with scores, or embeddings.

A task knows the model class it needs, which texts it cannot take, and how hidden states become results.
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders

from ..encoder import UltraFastBertModel
from ..errors import CheckpointError, ConfigError, DataError
from ..heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ..text.batching import Example, Window
from ..text.tokenization import special_token_id

__all__ = ["Classify", "Embed", "FillMask", "Prediction", "Task"]

Prediction: TypeAlias = "dict[str, Any] | npt.NDArray[np.float32]"

COMMON_MASK = "[MASK]"
# Rows of vocabulary logits at a time: 512 x 32,768 float32 are 67 MB, whatever number of masks a batch has.
DECODED_ROWS = 512


class Task(abc.ABC):
    """One way to use a model."""

    columns: tuple[str, ...]
    """What the result of a text is called in an output file."""

    def prepare(self, example: Example) -> Example:
        """Change a text before it is tokenised."""
        return example

    def problems(self, window: Window) -> dict[int, DataError]:
        """The rows of a window that the task cannot take, and why."""
        return {}

    @abc.abstractmethod
    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """One result for each of the B examples; the tensors are (B, T), no mask means no padding."""


class FillMask(Task):
    """`{"masks": [[{"token", "probability"}, ... best first], ... a list per mask], "filled": text or None}`.

    `filled` is the text with the best token in the place of its only mask. A continuation piece (`##ing`)
    is joined to the word before the mask.
    """

    columns = ("masks", "filled")

    def __init__(self, model: UltraFastBertForMaskedLM, tokenizer: Tokenizer, folder: Path, top_k: int) -> None:
        self.model, self.tokenizer, self.top_k = model, tokenizer, top_k
        self.mask_id = special_token_id(tokenizer, "mask", folder)
        self.mask = str(tokenizer.id_to_token(self.mask_id))
        # A model's vocabulary may be padded beyond the tokenizer's; those entries are no words.
        self.entries = max(tokenizer.get_vocab().values()) + 1
        if not 1 <= top_k <= self.entries:
            raise ConfigError(f"top_k must lie between 1 and the vocabulary's {self.entries}, not {top_k}")
        self._spelling: dict[int, str] = {}

    def prepare(self, example: Example) -> Example:
        """Let `[MASK]` stand for the tokenizer's own mask token."""
        if self.mask != COMMON_MASK:
            example.text = example.text.replace(COMMON_MASK, self.mask)
            if example.pair is not None:
                example.pair = example.pair.replace(COMMON_MASK, self.mask)
        return example

    def problems(self, window: Window) -> dict[int, DataError]:
        """Texts without a mask, or with one beyond the tokens that the model sees."""
        # Padding is never the mask token, so the attention mask need not be asked.
        kept = (window.encoded.input_ids == self.mask_id).sum(1).tolist()
        found = {}
        for row, (example, count) in enumerate(zip(window.examples, kept, strict=True)):
            written = example.text.count(self.mask) + (example.pair or "").count(self.mask)
            if not written and not count:
                found[row] = DataError(f"{example.where}: no {self.mask} in the text; mark what to predict by it")
            elif count < written:
                found[row] = DataError(
                    f"{example.where}: {written - count} of {written} {self.mask} lie beyond the "
                    f"{window.encoded.input_ids.shape[1]} tokens that are read; shorten the text before the mask"
                )
        return found

    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """Only the masked positions reach the decoder."""
        hidden = self.model.encoder.encode(input_ids, attention_mask, token_type_ids)  # (B, T, H)
        rows, positions = (input_ids == self.mask_id).nonzero(as_tuple=True)  # both (masks,)
        candidates: list[list[dict[str, Any]]] = []
        for masked in hidden[rows, positions].split(DECODED_ROWS):
            logits = self.model.decode(masked).float()  # (rows, V)
            best, tokens = logits[:, : self.entries].topk(self.top_k, dim=1)  # (rows, top_k)
            probabilities = (best - logits.logsumexp(1, keepdim=True)).exp()
            for ids, values in zip(tokens.tolist(), _shortest(probabilities), strict=True):
                candidates.append(
                    [{"token": self._spell(i), "probability": p} for i, p in zip(ids, values, strict=True)]
                )
        masks: list[list[list[dict[str, Any]]]] = [[] for _ in examples]
        for row, found in zip(rows.tolist(), candidates, strict=True):
            masks[row].append(found)
        return [
            {"masks": found, "filled": self._fill(example, found[0][0]["token"]) if len(found) == 1 else None}
            for example, found in zip(examples, masks, strict=True)
        ]

    def _spell(self, token_id: int) -> str:
        if token_id not in self._spelling:
            text = self.tokenizer.decode([token_id], skip_special_tokens=False)
            self._spelling[token_id] = text or str(self.tokenizer.id_to_token(token_id))
        return self._spelling[token_id]

    def _fill(self, example: Example, token: str) -> str:
        text = example.text if self.mask in example.text else example.pair or example.text
        before, _, after = text.partition(self.mask)
        if isinstance(self.tokenizer.decoder, decoders.ByteLevel):
            continues = token[:1].isalnum()  # a byte-level token holds the space before its word
        else:
            continues = token.startswith("##") and len(token) > 2
            token = token.removeprefix("##") if continues else token
        if continues and before.strip():
            before = before.rstrip()
        return before + token.strip() + after


class Classify(Task):
    """`{"label", "score", "scores": {label: probability}}`, or `{"value"}` for a regression model."""

    def __init__(self, model: UltraFastBertForSequenceClassification) -> None:
        config = model.config
        self.model = model
        self.regression = config.problem_type == "regression" or config.num_labels == 1
        names = config.label_names
        if len(set(names)) < len(names):
            names = [f"{name} ({number})" for number, name in enumerate(names)]
        self.labels = names
        self.columns = ("value",) if self.regression else ("label", "score", "scores")

    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """Softmax over the classes, in float32."""
        output = self.model(input_ids, attention_mask, token_type_ids=token_type_ids)
        if self.regression:
            return [{"value": value} for (value,) in _shortest(output.logits[:, :1])]
        scores = output.logits.float().softmax(1)  # (B, num_labels)
        best = scores.argmax(1).tolist()
        return [
            {"label": self.labels[top], "score": row[top], "scores": dict(zip(self.labels, row, strict=True))}
            for row, top in zip(_shortest(scores), best, strict=True)
        ]


class Embed(Task):
    """A float32 vector (H,): the mean over the tokens or the first token's, of length 1 if `normalize`."""

    columns = ("embedding",)

    def __init__(self, model: UltraFastBertModel, pooling: str, normalize: bool) -> None:
        if pooling not in ("mean", "cls"):
            raise ConfigError(f"unknown pooling {pooling!r}; known: mean, cls")
        self.model, self.pooling, self.normalize = model, pooling, normalize

    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """The mean leaves padding out and counts the special tokens, as sentence-transformers does."""
        hidden = self.model.encode(input_ids, attention_mask, token_type_ids).float()  # (B, T, H)
        if self.pooling == "cls":
            vectors = hidden[:, 0]
        elif attention_mask is None:
            vectors = hidden.mean(1)
        else:
            weight = attention_mask[:, :, None].to(hidden.dtype)
            vectors = (hidden * weight).sum(1) / weight.sum(1)
        if self.normalize:
            vectors = F.normalize(vectors, dim=1)
        return list(_finite(vectors).numpy())


def _shortest(values: torch.Tensor) -> list[list[float]]:
    """Rows of numbers whose Python `repr` is float32's shortest: 0.1, not 0.10000000149011612."""
    rows: list[list[float]] = _finite(values).numpy().astype(str).astype(np.float64).tolist()
    return rows


def _finite(values: torch.Tensor) -> torch.Tensor:
    """float32 on the CPU. Raises `CheckpointError` for NaN and infinity, which no file should carry on."""
    values = values.float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(
            "the model's output is not finite: its weights are damaged or its training diverged; "
            "take an earlier checkpoint"
        )
    return values
