"""The teacher of a distillation: made ready for inference it says what it says as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ufbert import UltraFastBertConfig
from ufbert.conversion.distillation.batch import Batch
from ufbert.conversion.distillation.teacher import Teacher, of_tokens
from ufbert.inference.engine import pack_encoder
from ufbert.model.encoder import UltraFastBertModel

LENGTHS = (7, 3, 3, 1)
POST: dict[str, Any] = {
    "norm_position": "post",
    "final_norm": False,
    "use_bias": True,
    "position_embedding_type": "absolute",
}


def encoder_of(**options: Any) -> UltraFastBertModel:
    torch.manual_seed(0)
    config = UltraFastBertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=16,
        initializer_range=0.3, zero_output_init=False, **{"feedforward": "dense", "intermediate_size": 48, **options},
    )  # fmt: skip
    return UltraFastBertModel(config).eval().requires_grad_(False)


def batch_of(*lengths: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return Batch(ids, mask, None)


@pytest.mark.parametrize(
    "options",
    [
        POST,
        {},
        {"feedforward": "fff", "trees": 2, "depth": 2},
        {**POST, "feedforward_layers": ("dense:8+rows:20", "none", "2x1")},
    ],
    ids=["post", "pre", "trees", "shapes"],
)
@pytest.mark.parametrize("lengths", [LENGTHS, (5, 5)], ids=["padded", "full"])
def test_a_packed_teacher_has_the_same_states(options: dict[str, Any], lengths: tuple[int, ...]) -> None:
    encoder, batch = encoder_of(**options), batch_of(*lengths)
    before = copy.deepcopy(encoder.state_dict())
    plain = Teacher(encoder, torch.float32, None).states(batch)
    packed = Teacher(encoder, torch.float32, pack_encoder).states(batch)
    rounded = Teacher(encoder, torch.bfloat16, pack_encoder).states(batch)
    count = len(encoder.layers) + (encoder.final_norm is not None)
    assert [len(states.tokens) for states in (plain, packed, rounded)] == [count] * 3
    for mine, theirs, third in zip(packed.tokens, plain.tokens, rounded.tokens, strict=True):
        assert mine.shape == (sum(lengths), 32)
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        assert third.dtype == torch.float32
        assert (third - theirs).square().mean() < 1e-3 * theirs.square().mean()
    present = batch.attention_mask.bool()
    torch.testing.assert_close(packed.last[present], plain.last[present], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(packed.last[present], packed.tokens[-1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_the_tokens_of_a_batch_are_taken_text_by_text() -> None:
    states = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    assert torch.equal(of_tokens(states.bfloat16(), mask), states.flatten(0, 1)[[0, 1, 4]])
    assert torch.equal(of_tokens(states, torch.ones(2, 4)), states.flatten(0, 1))
