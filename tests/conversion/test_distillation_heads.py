"""What two outputs of a head differ by, against what defines it; and the masks of a masked LM."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ufbert import UltraFastBertConfig, UltraFastBertForSequenceClassification
from ufbert.conversion.distillation.batch import Masker
from ufbert.conversion.distillation.head_report import HeadTally
from ufbert.conversion.distillation.heads import Head, Texts
from ufbert.text.tokenization import encode_batch, train_tokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A walking dog is talking to the sleeping fox, and nobody is listening.",
    "Reading and writing texts about models, trees and paths takes time.",
    "She sells sea shells by the sea shore.",
]


def head(config: UltraFastBertConfig, **changes: object) -> Head:
    own = config.replace(architectures=(UltraFastBertForSequenceClassification.__name__,), **changes)
    return Texts(UltraFastBertForSequenceClassification(own), [0])


def test_divergences_are_those_of_the_distributions(tiny_config: UltraFastBertConfig) -> None:
    mine, theirs = torch.randn(50, 4), torch.randn(50, 4)
    softmax = head(tiny_config, num_labels=4, problem_type="single_label_classification")
    wanted = F.kl_div(mine.log_softmax(1), theirs.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(softmax.divergence(mine, theirs), wanted)
    torch.testing.assert_close(softmax.loss(mine, theirs), wanted.mean())
    binary = head(tiny_config, num_labels=4, problem_type="multi_label_classification")
    each = [torch.distributions.Bernoulli(logits=x) for x in (theirs, mine)]
    torch.testing.assert_close(binary.divergence(mine, theirs), torch.distributions.kl_divergence(*each).sum(1))
    values = head(tiny_config, num_labels=4, problem_type="regression")
    torch.testing.assert_close(values.divergence(mine, theirs), (mine - theirs).square().mean(1))
    # In units of the variance, so that a scale of 100 changes nothing.
    torch.testing.assert_close(values.loss(100 * mine, 100 * theirs), values.loss(mine, theirs))
    for one in (softmax, binary, values):
        assert float(one.divergence(mine, mine).abs().max()) < 1e-6
        assert float(one.loss(mine[:0], theirs[:0])) == 0.0


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"num_labels": 1, "problem_type": "regression"}, "values"),
        ({"num_labels": 1, "score_activation": "sigmoid"}, "binary"),
        ({"num_labels": 1, "score_activation": "identity"}, "values"),
        ({"num_labels": 3, "score_activation": "identity"}, "softmax"),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, "binary"),
        ({"num_labels": 2}, "softmax"),
    ],
)
def test_outputs_are_understood_as_infer_does(
    changes: dict[str, object], kind: str, tiny_config: UltraFastBertConfig
) -> None:
    assert head(tiny_config, **changes).kind == kind


def test_agreement_is_counted_over_all_batches(tiny_config: UltraFastBertConfig) -> None:
    tally = HeadTally(head(tiny_config, num_labels=2, problem_type="single_label_classification"))
    left, right = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    tally.add(torch.cat((left, right)), torch.cat((left, right)), torch.cat((left, left)))
    tally.add(right, left, left)
    found = tally.measurement()
    assert found is not None
    assert (found.rows, found.student.agreement, found.control.agreement) == (3, 2 / 3, 1 / 3)
    names = [name for name, *_ in found.rows_of_figures()]
    assert names == ["same best label", "mean KL divergence, nats"]
    assert HeadTally(None).measurement() is None


def test_masks_leave_padding_out_and_hang_on_seed_and_number_alone() -> None:
    tokenizer = train_tokenizer(SENTENCES * 3, 300, min_frequency=2)
    masker = Masker(tokenizer)
    encoded = encode_batch(tokenizer, [*SENTENCES, "a fox"], max_length=64)
    ids, mask = torch.from_numpy(encoded.input_ids), torch.from_numpy(encoded.attention_mask)
    seen, masked = masker.apply(ids, mask, 1, 7)
    lengths = mask.sum(1)
    for row, length in enumerate(lengths.tolist()):
        assert int(masked[row].sum()) == min(length - 2, max(1, round(0.25 * length)))  # as in pretraining
        assert not masked[row, length:].any()
    assert torch.equal(seen[~masked], ids[~masked])
    assert not torch.isin(ids[masked], torch.tensor(masker.special_ids)).any()
    assert (seen[masked] == masker.mask_id).float().mean() > 0.5
    again = masker.apply(ids, mask, 1, 7)
    assert torch.equal(again[0], seen)
    assert torch.equal(again[1], masked)
    assert not torch.equal(masker.apply(ids, mask, 1, 8)[1], masked)
    assert not torch.equal(masker.apply(ids, mask, 2, 7)[1], masked)
