"""Candidates for the masks of a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import special_token_id
from ufbert.errors import ConfigError, DataError
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.text.batching import Example, Window
from ufbert.text.long_texts import TextPart

from .predictions import Prediction, Task, shortest
from .spelling import Spelling
from .targets import target_ids

__all__ = ["FillMask"]

COMMON_MASK = "[MASK]"
DEFAULT_TOP_K = 5
# Rows of vocabulary logits at a time: 512 x 32,768 float32 are 67 MB, whatever number of masks a batch has.
DECODED_ROWS = 512


class FillMask(Task):
    """`{"masks": [[{"token", "probability"}, ... best first], ... a list per mask], "filled": text or None}`.

    `filled` is the text with the best token in the place of its only mask, joined to the word before the mask where
    the token goes on with it; `Spelling` says how tokens are written. With `targets` these words alone are
    candidates, `top_k` or all of them, with their probabilities among all tokens.
    """

    columns = ("masks", "filled")

    def __init__(
        self,
        model: UltraFastBertForMaskedLM,
        tokenizer: Tokenizer,
        folder: Path | None,
        top_k: int | None = None,
        targets: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.mask_id = special_token_id(tokenizer, "mask", folder)
        self.mask = str(tokenizer.id_to_token(self.mask_id))
        # A model's vocabulary may be padded beyond the tokenizer's; those entries are no words.
        self.entries = max(tokenizer.get_vocab().values()) + 1
        if top_k is not None and not 1 <= top_k <= self.entries:
            raise ConfigError(f"top_k must lie between 1 and the vocabulary's {self.entries}, not {top_k}")
        # None: all tokens are candidates.
        self.targets = torch.tensor(target_ids(tokenizer, targets)) if targets else None
        candidates = self.entries if self.targets is None else len(self.targets)
        self.top_k = min(top_k or (DEFAULT_TOP_K if self.targets is None else candidates), candidates)
        self.spelling = Spelling(tokenizer, self.mask)

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
        masks = window.encoded.input_ids == self.mask_id
        kept = np.bincount(window.owner, masks.sum(1), minlength=len(window.examples)).astype(int).tolist()
        seen: dict[int, set[int]] = {}  # a mask where two rows of a text overlap counts once
        for row, part in window.parts.items():
            places = part.places[masks[row, : len(part.places)]].tolist()
            seen.setdefault(int(window.owner[row]), set()).update(places)
        for text, all_places in seen.items():
            kept[text] = len(all_places)
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
            if self.targets is None:
                best, tokens = logits[:, : self.entries].topk(self.top_k, dim=1)  # (rows, top_k)
            else:
                targets = self.targets.to(logits.device)
                best, places = logits[:, targets].topk(self.top_k, dim=1)
                tokens = targets[places]
            probabilities = (best - logits.logsumexp(1, keepdim=True)).exp()
            for ids, values in zip(tokens.tolist(), shortest(probabilities), strict=True):
                candidates.append(
                    [{"token": self.spelling.text(i), "probability": p} for i, p in zip(ids, values, strict=True)]
                )
        masks: list[list[list[dict[str, Any]]]] = [[] for _ in examples]
        for row, found in zip(rows.tolist(), candidates, strict=True):
            masks[row].append(found)
        return [
            # A split text's row may hold no mask or one of several; `join` fills the whole.
            {"masks": found, "filled": self._fill(example, found[0][0]["token"]) if len(found) == 1 else None}
            for example, found in zip(examples, masks, strict=True)
        ]

    def join(
        self,
        example: Example,
        predictions: Sequence[Prediction],
        input_ids: Sequence[npt.NDArray[np.int64]],
        parts: Sequence[TextPart],
    ) -> Prediction:
        """Each mask from the row that holds most of the text on the mask's poorer side, the first of equals."""
        best: dict[int, tuple[int, list[dict[str, Any]]]] = {}
        for prediction, ids, part in zip(predictions, input_ids, parts, strict=True):
            columns = np.flatnonzero(ids == self.mask_id)
            assert isinstance(prediction, dict)
            for column, candidates in zip(columns, prediction["masks"], strict=True):
                place, context = int(part.places[column]), int(part.context[column])
                if place not in best or context > best[place][0]:
                    best[place] = (context, candidates)
        masks = [best[place][1] for place in sorted(best)]
        return {"masks": masks, "filled": self._fill(example, masks[0][0]["token"]) if len(masks) == 1 else None}

    def _fill(self, example: Example, token: str) -> str:
        text = example.text if self.mask in example.text else example.pair or example.text
        before, _, after = text.partition(self.mask)
        return self.spelling.fill(before, token, after)
