"""The whole student learns the whole teacher's hidden states and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.pooling import pool
from ufbert.model.token_rows import TokenRows
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.devices import autocast
from ufbert.training.budget import TrainingBudget
from ufbert.training.optimization import set_learning_rate
from ufbert.training.schedules import one_cycle

from .active_neurons import hoyer_share, record_active
from .batch import Batch, Text
from .heads import Head
from .kept_phase import KeptPhase
from .layer_inputs import record_hidden_states
from .loss_curve import LossCurve
from .stages import END_TO_END, Stages
from .student import StudentPlan
from .teacher import Teacher, of_tokens
from .texts import Batcher

__all__ = ["StepReport", "train_end_to_end", "train_together"]

BETAS = (0.9, 0.98)
TASK_WEIGHT = 5.0  # of embeddings or outputs beside the hidden states
CLIP = 1.0


@dataclass(frozen=True)
class StepReport:
    """Losses of one step: of the hidden states (1 is their variance), and what the task is about."""

    hidden: float
    embedding: float | None
    """1 - cosine of the embeddings; None where the outputs of a head are learned."""
    head: float | None
    """Of the head's outputs: `Head.loss`."""
    active: float | None = None
    """Share of the neurons that are active for a token: `hoyer_share`; None where it is not to be lowered."""

    def losses(self) -> dict[str, float]:
        """Those there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def describe(self, average: dict[str, float]) -> str:
        """Running means of `losses`, for people."""
        error = f"hidden-state error {average['hidden'] ** 0.5:.3f}"
        if self.active is not None:
            error += f", active neurons {100 * average['active']:.1f} %"
        if self.head is not None:
            return f"{error}, loss of the head's outputs {average['head']:.4f}"
        return f"{error}, cosine of embeddings {1 - average['embedding']:.4f}"


def train_end_to_end(
    student: UltraFastBertModel,
    teacher: Teacher,
    batches: Iterator[Batch],
    *,
    targets: Sequence[int],
    learning_rate: float,
    budget: TrainingBudget,
    precision: torch.dtype,
    pooling: str,
    head: Head | None,
    report: Callable[[StepReport], None],
    phase: KeptPhase,
    sparse: tuple[int, ...] = (),
    sparsity: float = 0.0,
) -> None:
    """Adam on mean squared error of every layer's output, plus 1 - cosine of the pooled embeddings or `head`'s loss.

    `targets` has for each of the student's states the number of the teacher's that it learns. Of the layers `sparse`,
    `sparsity` times the share of the neurons that are active for a token comes on top.
    `phase` keeps the training on the way, and takes up what was kept.
    """
    # The embeddings' tables stay: a batch has few of their rows.
    named = {name: p for name, p in student.named_parameters() if not name.startswith("embeddings.")}
    rows = [module for module in student.modules() if isinstance(module, TokenRows)]
    tables = {id(module.weight) for module in rows}
    trained = [parameter for parameter in named.values() if id(parameter) not in tables]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(trained, lr=learning_rate, betas=BETAS, fused=True)]
    if rows:  # a step over whole tables would take as long as one over everything else
        optimizers.append(torch.optim.SparseAdam([module.weight for module in rows], lr=learning_rate, betas=BETAS))
    for module in rows:
        module.sparse_gradient = True
    for parameter in student.embeddings.parameters():
        parameter.requires_grad_(False)
    phase.begin(named, *optimizers)
    with (
        record_hidden_states(student) as got,
        record_active(student, sparse) as sizes,
        _sums_in(precision, student.embeddings),
    ):
        while (done := budget.fraction()) < 1.0:
            batch = next(batches)
            mask, wanted = batch.attention_mask, teacher.states(batch)
            with autocast(student.device, precision):
                student.encode(batch.input_ids, None if mask.all() else mask, batch.token_type_ids)
            pairs = zip(got, (wanted.tokens[target] for target in targets), strict=True)
            hidden = torch.stack([_hidden_loss(of_tokens(g, mask), w) for g, w in pairs]).mean()
            last = got[-1].float()
            if head is None:
                mine, theirs = (pool(states, mask, pooling) for states in (last, wanted.last))  # (B, H)
                task = 1.0 - F.cosine_similarity(mine, theirs).mean()
            else:
                mine, theirs = (head.logits(states, batch) for states in (last, wanted.last))
                task = head.loss(mine, theirs)
            loss = hidden + TASK_WEIGHT * task
            active: torch.Tensor | None = None
            if sparse:
                active = torch.stack([hoyer_share(of_tokens(s, mask)) for s in sizes]).mean()
                loss = loss + sparsity * active
            student.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            set_learning_rate(learning_rate * one_cycle(done), *optimizers)
            for optimizer in optimizers:
                optimizer.step()
            budget.count()
            value = float(task.detach())
            report(
                StepReport(
                    float(hidden.detach()),
                    embedding=value if head is None else None,
                    head=None if head is None else value,
                    active=None if active is None else float(active.detach()),
                )
            )
            phase.after_step()
    for parameter in student.embeddings.parameters():
        parameter.requires_grad_(True)
    for module in rows:
        module.sparse_gradient = False


@contextmanager
def _sums_in(precision: torch.dtype, embeddings: nn.Module) -> Iterator[None]:
    """Within the block the embeddings come in `precision`, and so do all sums of the layers behind them.

    Autocast leaves those in float32, and a training on a CPU waits for memory: a step takes about a tenth less. The
    gradient's cosine to float32's is 0.997 to 1.000, of all-MiniLM-L6-v2 with 256 neurons.
    """
    handle = embeddings.register_forward_hook(lambda _module, _arguments, output: output.to(precision))
    try:
        yield
    finally:
        handle.remove()


def _hidden_loss(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error of (tokens, H) over the variance across tokens."""
    variance = (wanted - wanted.mean(0)).square().mean().clamp(min=1e-12)
    return (got - wanted).square().mean() / variance


def train_together(
    teacher: Teacher,
    student: UltraFastBertModel,
    plan: StudentPlan,
    batcher: Batcher,
    texts: Sequence[Text],
    settings: DistillationSettings,
    precision: torch.dtype,
    pooling: str,
    head: Head | None,
    phase: KeptPhase,
    stages: Stages,
) -> LossCurve:
    """The end-to-end phase, with its progress; its losses."""
    budget, kept = phase.budget, phase.kept
    average: dict[str, float] = {}
    curve = LossCurve(kept.get("curve"))
    phase.facts = lambda: {"allotted": budget.seconds, "curve": curve.to_dict()}
    stages.begin(END_TO_END, done=phase.share_before, line=True)

    def report(step: StepReport) -> None:
        curve.add(budget.spent, budget.steps_done, step.losses())
        for name, value in step.losses().items():
            average[name] = 0.95 * average.get(name, value) + 0.05 * value
        stages.show(budget.fraction(), f"step {budget.steps_done:,}  {step.describe(average)}")

    train_end_to_end(
        student,
        teacher,
        batcher.endless(texts, settings.batch_size, settings.seed + 1, skip=kept.get("steps", 0)),
        targets=plan.targets,
        learning_rate=settings.learning_rate,
        budget=budget,
        precision=precision,
        pooling=pooling,
        head=head,
        report=report,
        phase=phase,
        sparse=plan.converted if plan.sparse else (),
        sparsity=settings.sparsity,
    )
    phase.end()
    return curve
