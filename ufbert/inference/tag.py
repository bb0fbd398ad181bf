"""The entities of a text: every token's tag, joined to pieces of the text with their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Encoding, Tokenizer

from ufbert.checkpoint.tokenizer import special_token_id
from ufbert.errors import CheckpointError, DataError
from ufbert.model.token_head import UltraFastBertForTokenClassification
from ufbert.settings.checks import one_of
from ufbert.settings.inference import AGGREGATIONS
from ufbert.text.batching import Example, Window
from ufbert.text.long_texts import TextPart
from ufbert.text.token_places import best_rows, leading_tokens

from .aggregation import Entity, aggregate, continue_words
from .predictions import Prediction, Task, finite, shortest

__all__ = ["Tag"]


class Tag(Task):
    """`{"entities": [{"label", "score", "text", "start", "end"}, ...]}` in the order of the text.

    `start` and `end` count characters of the text, `end` the one behind the last. Tokens are joined by `aggregation`
    (see the module of that name). Blanks at the ends, which SentencePiece's tokens hold, belong to no entity.
    """

    columns = ("entities",)
    sample: ClassVar[dict[str, Any]] = {"entities": [{"label": "", "score": 0.5, "text": "", "start": 0, "end": 0}]}

    def __init__(
        self,
        model: UltraFastBertForTokenClassification,
        tokenizer: Tokenizer,
        folder: Path | None,
        aggregation: str | None = None,
    ) -> None:
        self.aggregation = aggregation or "simple"
        one_of("aggregation", self.aggregation, AGGREGATIONS)
        self.model, self.tokenizer = model, tokenizer
        self.names = model.config.label_names
        self.leading = leading_tokens(tokenizer)
        self.prefixed = bool(getattr(tokenizer.model, "continuing_subword_prefix", None))
        try:
            self.unknown: int | None = special_token_id(tokenizer, "unk", folder)
        except CheckpointError:  # vocabularies of bytes need none
            self.unknown = None

    def problems(self, window: Window) -> dict[int, DataError]:
        """Pairs, of which no tag could be told apart."""
        return {
            number: DataError(f"{example.where}: is a pair of texts; the task tag takes single ones")
            for number, example in enumerate(window.examples)
            if example.pair is not None
        }

    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """The probabilities (T, tags) of each row's tokens, special ones included; `finish` makes entities of them."""
        logits = self.model(input_ids, attention_mask, token_type_ids=token_type_ids).logits  # (B, T, tags)
        rows = finite(logits).softmax(-1).numpy()
        lengths = [rows.shape[1]] * len(rows) if attention_mask is None else attention_mask.sum(1).tolist()
        return [row[:length].copy() for row, length in zip(rows, lengths, strict=True)]

    def join(
        self,
        example: Example,
        predictions: Sequence[Prediction],
        input_ids: Sequence[npt.NDArray[np.int64]],
        parts: Sequence[TextPart],
    ) -> Prediction:
        """Each token from the row that holds most of the text on the token's poorer side, the first of equals."""
        rows, columns = best_rows(parts)
        # As if one row had held them all.
        joined = np.zeros((self.leading + len(rows), len(self.names)), dtype=np.float32)
        for number, prediction in enumerate(predictions):
            mine = np.flatnonzero(rows == number)
            joined[self.leading + mine] = np.asarray(prediction)[columns[mine]]
        return joined

    def finish(self, predictions: list[Prediction], examples: list[Example]) -> list[Prediction]:
        """The entities of each text."""
        encodings = self.tokenizer.encode_batch([e.text for e in examples], add_special_tokens=False)
        return [
            self._entities(example.text, encoding, np.asarray(prediction)[self.leading :])
            for example, encoding, prediction in zip(examples, encodings, predictions, strict=True)
        ]

    def _entities(self, text: str, encoding: Encoding, probabilities: npt.NDArray[np.float32]) -> dict[str, Any]:
        """probabilities (T, tags) of the text's tokens, as many of them as were read, and of special ones behind."""
        tokens = min(len(encoding), len(probabilities))
        offsets = encoding.offsets[:tokens]
        going_on: list[bool] = [False] * tokens
        if self.aggregation not in ("none", "simple"):
            unknown = [token == self.unknown for token in encoding.ids[:tokens]]
            going_on = continue_words(text, encoding.tokens[:tokens], offsets, unknown, self.prefixed)
        found = aggregate(probabilities[:tokens], offsets, going_on, self.names, self.aggregation)
        scores = [score for (score,) in shortest(torch.tensor([[e.score] for e in found]))] if found else []
        return {"entities": [_described(text, entity, score) for entity, score in zip(found, scores, strict=True)]}


def _described(text: str, entity: Entity, score: float) -> dict[str, Any]:
    start, end = entity.start, entity.end
    piece = text[start:end]
    if inner := piece.strip():
        start += piece.index(inner)
        end = start + len(inner)
    return {"label": entity.label, "score": score, "text": text[start:end], "start": start, "end": end}
