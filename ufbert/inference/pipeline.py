"""Texts in, predictions out, in order and streaming.

    Pipeline(folder)(["a text", ...])           ->  a list of results
    Pipeline(folder).stream(generator)          ->  an iterator of results, in bounded memory

Texts pass in windows: while the model works on one, the next is tokenised on another thread. Within a window
the texts are sorted by length, so that a batch has little padding, and the results are put back in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ufbert.checkpoint.cross_encoder import read_score_activation
from ufbert.checkpoint.embedder import Embedder
from ufbert.checkpoint.folder import CONFIG_FILE, locate_checkpoint, read_json
from ufbert.checkpoint.sentence_transformers import read_embedder
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.cmm.operator import resolve_backend
from ufbert.errors import CheckpointError, ConfigError, DataError
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.model.pretrained import PretrainedModel, read_config
from ufbert.model.token_head import UltraFastBertForTokenClassification
from ufbert.settings.inference import AUTO
from ufbert.system.devices import autocast, choose_device
from ufbert.system.forking import work_alone_after_fork
from ufbert.system.interruption import Interruption
from ufbert.text.batching import Example, Window, encode_window, length_batches, windows
from ufbert.text.long_texts import choose_overlap

from .embed import Embed, choose_embedding, count_prompt_tokens, lowercase_first
from .engine import prepare
from .fill_mask import FillMask
from .options import check_length, check_relevance, choose_inference_precision, choose_long_text, choose_task
from .pickling import Recipe, make_again
from .predictions import Classify, Prediction, Task
from .tag import Tag

__all__ = ["Pipeline", "WindowResults"]

# Tokens in an automatic batch, by device. Trees share more rows in larger ones, but activations leave the caches:
# SST-2's texts through 12 layers of 768 in bfloat16, two cores, ran at 7,860 tokens/s in batches of 1,024 tokens,
# at 8,280 in those of 2,048 and at 8,470 in those of 4,096.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


@dataclass
class WindowResults:
    """The results of neighbouring texts, in their order, without the bad ones."""

    examples: list[Example]
    predictions: list[Prediction]
    tokens: int
    """Tokens the model read, padding not counted."""
    truncated: int
    """Texts that were cut to the maximal length."""
    split: int
    """Texts that were read in several overlapping windows of tokens."""
    read: int
    """Examples that were taken, bad ones included."""


class Pipeline:
    """A model with its tokenizer, made ready for one task.

    `task` is `fill-mask`, `classify`, `tag` or `embed`; by default what the checkpoint was made for. A text's result:

    - fill-mask: `{"masks": [[{"token", "probability"}, ...], ...], "filled": str | None}`, a list of the
      `top_k` (5) best tokens for each mask, and the text filled if it has one mask; with `targets`, words that are
      one token each, the probabilities of these alone;
    - classify: `{"label", "score", "scores": {label: probability}}`; `{"value"}` for a regression model (`{"values"}`
      for one of several values), `{"labels", "scores"}` for one that gives a text any number of labels: those of
      probability 0.5 and above; a cross-encoder's score is that of sentence-transformers;
    - tag: `{"entities": [{"label", "score", "text", "start", "end"}, ...]}`, the pieces of the text that transformers'
      pipeline finds with the same `aggregation` (`simple`; `none`, `first`, `average`, `max`); `end` is the character
      behind the last;
    - embed: a float32 array, as sentence-transformers gives it for the folder: pooled by its `pooling` (else `mean`),
      through its layers, of length 1 if it says so. `pooling` (`cls`, `max`, `mean`, `mean_sqrt_len_tokens`,
      `weightedmean`, `lasttoken`, or several joined by `+`) and `normalize` go before that; `truncate_dim` keeps so
      many numbers at the front. `prompt`, the name of one of the folder's prompts or a text, stands before each text;
      by default its default prompt, if it has one, and `""` for none. `long_text="window"` reads it once, at the
      front.

    `revision` is a branch, tag or commit of a model on the hub.
    `device` is `auto`, `cpu` or `cuda`; `precision` `auto`, `float32`, `bfloat16` or, on a CPU, `int8`
    (of the matrix products);
    `backend` that of the fast feedforward layers; `batch_size` texts make a batch, by default about 4,096
    tokens on a CPU.

    Texts are cut at `max_length` tokens, by default the model's maximum, or for `embed` the length its
    sentence-transformers original cuts at. With `long_text="window"`, the default of `tag`, a longer one is read
    whole, in windows of so many tokens that share `stride` (a quarter of them), and the results are joined: the mean
    of the windows' embeddings or probabilities, weighted by their tokens; each mask is filled and each token tagged
    by the window that holds most of the text around it. Of a pair the longer text is split.

    A pickled pipeline is its folder and these options, not its weights: unpickling makes it anew of them, on the
    machine where that happens, so that processes can be given one. Threads are the process', see `docs/scale.md`.

    Raises `CheckpointError` for a folder that is none, or lacks the head or the tokenizer, `ConfigError` for
    a value that cannot be, `BackendError` for a device or backend that is not there.
    """

    def __init__(
        self,
        folder: str | Path,
        task: str | None = None,
        *,
        revision: str | None = None,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        aggregation: str | None = None,
        pooling: str | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        long_text: str = AUTO,
        stride: int | None = None,
        batch_size: int | None = None,
        precision: str = "auto",
        device: str = "auto",
        backend: str = "auto",
    ) -> None:
        options = {name: value for name, value in locals().items() if name != "self"}
        work_alone_after_fork()
        self.folder = locate_checkpoint(folder, revision)
        self._recipe = Recipe.of(self.folder, options)
        self.config = read_config(self.folder)
        self.task = choose_task(task, self.config, str(folder))
        embed = self.task == "embed"
        check_relevance(
            self.task,
            top_k=top_k,
            targets=targets or None,
            aggregation=aggregation,
            pooling=pooling,
            normalize=normalize,
            prompt=prompt,
            truncate_dim=truncate_dim,
        )
        self.device = choose_device(device)
        self.precision = choose_inference_precision(precision, self.device)
        embedder = read_embedder(self.folder, self.config.provenance) if embed else Embedder()
        embedding = choose_embedding(
            embedder,
            self.config.hidden_size,
            pooling=pooling,
            normalize=normalize,
            prompt=prompt,
            truncate_dim=truncate_dim,
            where=str(folder),
        )
        longest = embedder.max_seq_length
        if self.task == "classify" and self.config.score_activation is not None:
            longest = self.config.provenance.get("max_seq_length")
        self.max_length = check_length(max_length, self.config, longest)
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        if self.config.feedforward_kind == "fff":
            self.backend = resolve_backend(backend, self.device)
        elif backend == "auto":
            self.backend = f"torch ({self.config.feedforward_name})"
        else:
            raise ConfigError(
                f"backend {backend!r} is for fast feedforward layers; {folder} has {self.config.feedforward_name}"
            )
        self.tokenizer = load_tokenizer(self.folder)
        if embedder.do_lower_case:
            self.tokenizer = lowercase_first(self.tokenizer)
        self.overlap = choose_overlap(self.tokenizer, self.max_length, choose_long_text(long_text, self.task), stride)
        self.embedding = count_prompt_tokens(
            embedding, self.tokenizer, self.max_length, windows=self.overlap is not None
        )
        entries = max(self.tokenizer.get_vocab().values(), default=0) + 1
        if entries > self.config.vocab_size:
            raise CheckpointError(
                f"{folder}: its tokenizer has {entries} entries, its model only {self.config.vocab_size}; "
                "put the tokenizer there that the model was trained with"
            )
        self._task = self._load(aggregation, top_k, [targets] if isinstance(targets, str) else targets or ())

    def __reduce__(self) -> tuple[Any, ...]:
        """Raises `CheckpointError` if the folder has changed, of which another model would be made."""
        self._recipe.check(self.folder)
        return make_again, (type(self), self._recipe)

    @property
    def dtype(self) -> torch.dtype:
        """Of autocast on a GPU; on a CPU the model itself is in its precision."""
        wide = self.device.type == "cpu" or self.precision == "float32"
        return torch.float32 if wide else torch.bfloat16

    @property
    def pooling(self) -> str:
        """How `embed` pools the tokens."""
        return self.embedding.embedder.pooling

    @property
    def normalize(self) -> bool:
        """Whether the vectors of `embed` have length 1."""
        return self.embedding.normalized

    @property
    def columns(self) -> tuple[str, ...]:
        """What a result consists of, for the columns of a file."""
        return self._task.columns

    @property
    def sample(self) -> dict[str, Any]:
        """A result with something in each list, for the columns whose lists may be empty in every text."""
        return self._task.sample

    def __call__(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Prediction]:
        """The results of all texts, or of all pairs of texts.

        Raises `DataError` naming the first text that cannot be taken: no string, or without a mask.
        """
        if isinstance(texts, str):
            raise DataError("texts must be a list of strings, not one string; write [text]")
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str] | Iterable[tuple[str, str]]) -> Iterator[Prediction]:
        """The results one after the other, in order; no more than two windows of texts are held."""
        for results in self.run(_examples(texts)):
            yield from results.predictions

    def run(
        self, examples: Iterable[Example], on_bad: Callable[[DataError], None] | None = None, *, done: int = 0
    ) -> Iterator[WindowResults]:
        """Window after window of results. A bad example raises `DataError`, or goes to `on_bad` and is left out.

        Where the examples continue those of an earlier run, `done` windows of it, the same windows follow.
        """
        cut = self.overlap is None
        prepared = (self._task.prepare(example) for example in examples)
        with ThreadPoolExecutor(1, thread_name_prefix="ufbert-tokenizer") as executor:
            waiting: Future[Window] | None = None
            for window in windows(prepared, self.batch_size, self.max_length, cut=cut, done=done):
                following = executor.submit(encode_window, self.tokenizer, window, self.max_length, self.overlap)
                if waiting is not None:
                    yield self._predict(waiting.result(), on_bad)
                waiting = following
            if waiting is not None:
                yield self._predict(waiting.result(), on_bad)

    def _predict(self, window: Window, on_bad: Callable[[DataError], None] | None) -> WindowResults:
        problems = self._task.problems(window)
        for problem in problems.values():
            if on_bad is None:
                raise problem
            on_bad(problem)
        good = np.flatnonzero(~np.isin(window.owner, list(problems)))
        lengths = window.lengths[good]
        results: list[Prediction | None] = [None] * len(good)
        # A text without tokens is read as one padding token; see `Task.without_tokens`.
        for batch in length_batches(np.maximum(lengths, 1), self.batch_size, BATCH_TOKENS[self.device.type]):
            rows = good[batch]
            longest, shortest = max(1, int(lengths[batch[0]])), int(lengths[batch[-1]])
            input_ids = self._tensor(window.encoded.input_ids[rows, :longest])
            mask = token_types = None
            if shortest < longest and longest > 1:
                attended = window.encoded.attention_mask[rows, :longest]
                attended[:, 0] = 1
                mask = self._tensor(attended)
            if self.config.type_vocab_size > 1 and window.examples[0].pair is not None:
                token_types = self._tensor(window.encoded.token_type_ids[rows, :longest])
            examples = [window.examples[text] for text in window.owner[rows]]
            with torch.inference_mode(), autocast(self.device, self.dtype):
                predictions = self._task.predict(input_ids, mask, token_types, examples)
            for place, prediction in zip(batch, predictions, strict=True):
                results[place] = prediction if lengths[place] else self._task.without_tokens(prediction)
        return WindowResults(
            examples=[e for text, e in enumerate(window.examples) if text not in problems],
            predictions=self._join(window, good, [r for r in results if r is not None]),
            tokens=int(lengths.sum()),
            truncated=window.encoded.truncated_count,
            split=len(np.unique(window.owner[list(window.parts)])),
            read=len(window.examples),
        )

    def _join(self, window: Window, rows: npt.NDArray[np.int64], results: list[Prediction]) -> list[Prediction]:
        """The results of texts out of those of `rows`."""
        if window.parts:
            joined: list[Prediction] = []
            _, starts = np.unique(window.owner[rows], return_index=True)
            for start, end in itertools.pairwise([*starts.tolist(), len(rows)]):
                if end - start == 1:
                    joined.append(results[start])
                    continue
                parts = [window.parts[row] for row in rows[start:end].tolist()]
                ids = [
                    window.encoded.input_ids[row, : len(part.places)]
                    for row, part in zip(rows[start:end], parts, strict=True)
                ]
                example = window.examples[window.owner[rows[start]]]
                joined.append(self._task.join(example, results[start:end], ids, parts))
            results = joined
        owners = np.unique(window.owner[rows])
        return self._task.finish(results, [window.examples[text] for text in owners])

    def _tensor(self, array: np.typing.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _load(self, aggregation: str | None, top_k: int | None, targets: Sequence[str]) -> Task:
        if self.task == "fill-mask":
            masked_lm = UltraFastBertForMaskedLM.from_pretrained(self.folder)
            self._prepare(masked_lm)
            return FillMask(masked_lm, self.tokenizer, self.folder, top_k, targets)
        if self.task == "classify":
            classifier = UltraFastBertForSequenceClassification.from_pretrained(self.folder)
            self._prepare(classifier)
            # A folder that sentence-transformers has saved since may name another activation.
            values = read_json(self.folder / CONFIG_FILE)
            return Classify(classifier, read_score_activation(self.folder, values, self.config.num_labels))
        if self.task == "tag":
            tagger = UltraFastBertForTokenClassification.from_pretrained(self.folder)
            self._prepare(tagger)
            return Tag(tagger, self.tokenizer, self.folder, aggregation)
        return Embed(self._prepare(UltraFastBertModel.from_pretrained(self.folder)), self.embedding)

    def _prepare(self, model: PretrainedModel) -> Any:
        """The model in its precision, on its device and backend, with its kernels loaded."""
        # Kernels are compiled or loaded at their first use, within callbacks from C that swallow an exception:
        # a Ctrl-C there would be lost. So that happens here, on one token, with interrupts held back.
        interruption = Interruption("Stopping when the kernels are loaded; a second Ctrl-C stops at once.")
        with interruption, torch.inference_mode(), autocast(self.device, self.dtype):
            prepared = prepare(model, self.precision, self.device, self.backend)
            encoder: Any = getattr(prepared, "encoder", prepared)
            encoder.encode(torch.zeros((1, 1), dtype=torch.int64, device=self.device))
        interruption.obey()
        return prepared


def _examples(texts: Iterable[str] | Iterable[tuple[str, str]]) -> Iterator[Example]:
    first_is_pair: bool | None = None
    for index, item in enumerate(texts):
        parts = (item,) if isinstance(item, str) else tuple(item) if isinstance(item, tuple | list) else ()
        if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
            raise DataError(f"texts[{index}]: is a {type(item).__name__}, not a string or a pair of two strings")
        is_pair = len(parts) == 2
        if first_is_pair is None:
            first_is_pair = is_pair
        elif is_pair != first_is_pair:
            raise DataError(f"texts[{index}]: texts and pairs are mixed; give all of one kind")
        for part in parts:
            if not part.isascii() and any("\ud800" <= c <= "\udfff" for c in part):
                raise DataError(f"texts[{index}]: holds half a surrogate pair, which no encoding can express")
        yield Example(parts[0], parts[1] if is_pair else None, where=f"texts[{index}]")
