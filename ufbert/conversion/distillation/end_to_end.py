"""The whole student learns the whole teacher's hidden states and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.pooling import pool
from ufbert.system.devices import autocast
from ufbert.training.budget import TrainingBudget
from ufbert.training.optimization import set_learning_rate
from ufbert.training.schedules import one_cycle

from .layer_inputs import record_hidden_states
from .texts import Batch

__all__ = ["StepReport", "train_end_to_end"]

BETAS = (0.9, 0.98)
EMBEDDING_WEIGHT = 5.0
CLIP = 1.0


@dataclass(frozen=True)
class StepReport:
    """Losses of one step: of the hidden states (1 is their variance), and 1 - cosine of the embeddings."""

    hidden: float
    embedding: float


def train_end_to_end(
    student: UltraFastBertModel,
    teacher: UltraFastBertModel,
    batches: Iterator[Batch],
    *,
    targets: Sequence[int],
    learning_rate: float,
    budget: TrainingBudget,
    precision: torch.dtype,
    pooling: str,
    report: Callable[[StepReport], None],
) -> None:
    """Adam on mean squared error of every layer's output plus 1 - cosine of the pooled embeddings.

    `targets` has for each of the student's states the number of the teacher's that it learns.
    """
    # The tables stay: a batch has few of their rows.
    trained = [p for name, p in student.named_parameters() if not name.startswith("embeddings.")]
    optimizer = torch.optim.Adam(trained, lr=learning_rate, betas=BETAS, fused=True)
    for parameter in student.embeddings.parameters():
        parameter.requires_grad_(False)
    with record_hidden_states(teacher) as wanted, record_hidden_states(student) as got:
        while (done := budget.fraction()) < 1.0:
            batch = next(batches)
            ids, mask, types = batch.input_ids, batch.attention_mask, batch.token_type_ids
            with autocast(student.device, precision):
                with torch.no_grad():
                    teacher.encode(ids, mask, types)
                student.encode(ids, mask, types)
            present = mask.bool()
            pairs = zip(got, (wanted[target] for target in targets), strict=True)
            hidden = torch.stack([_hidden_loss(g[present].float(), w[present].float()) for g, w in pairs]).mean()
            mine, theirs = (pool(states[-1].float(), mask, pooling) for states in (got, wanted))  # (B, H)
            embedding = 1.0 - F.cosine_similarity(mine, theirs).mean()
            loss = hidden + EMBEDDING_WEIGHT * embedding
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            set_learning_rate(optimizer, learning_rate * one_cycle(done))
            optimizer.step()
            budget.count()
            report(StepReport(float(hidden.detach()), float(embedding.detach())))
    for parameter in student.embeddings.parameters():
        parameter.requires_grad_(True)


def _hidden_loss(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of (tokens, H) over the variance across tokens."""
    variance = (wanted - wanted.mean(0)).square().mean().clamp(min=1e-12)
    return (got - wanted).square().mean() / variance
