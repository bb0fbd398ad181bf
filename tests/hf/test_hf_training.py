"""`ufbert.hf` under transformers' `Trainer` and under PEFT: gradient checkpointing, inputs_embeds, labels, LoRA."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ufbert
from ufbert import UltraFastBertConfig
from ufbert.conversion import ConversionRequest, convert_checkpoint
from ufbert.errors import DataError

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

hf: Any = importlib.import_module("ufbert.hf")

# Newer releases of transformers have second names for what users, Trainer and PEFT call by the first.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "classifier_hidden_size": 32,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
CRAMMED = UltraFastBertConfig(**SIZES, trees=2, depth=3, num_labels=3)
BERT = UltraFastBertConfig(
    **SIZES,
    feedforward="dense",
    intermediate_size=48,
    norm_position="post",
    final_norm=False,
    position_embedding_type="absolute",
    type_vocab_size=2,
    use_bias=True,
    classifier_pooling="first",
    num_labels=3,
)
ROBERTA = BERT.replace(position_offset=2, pad_token_id=1, type_vocab_size=1)
CONFIGS = {"crammed": CRAMMED, "bert": BERT, "roberta": ROBERTA}


def saved(config: UltraFastBertConfig, folder: Path) -> Path:
    """A random classifier's folder."""
    ufbert.UltraFastBertForSequenceClassification(config).save_pretrained(folder)
    return folder


def classifier(folder: Path, **changes: Any) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, **changes)


def batch(labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Three texts of 9, 6 and 2 tokens."""
    ids = torch.arange(27).reshape(3, 9) + 5
    mask = torch.ones_like(ids)
    for row, length in ((1, 6), (2, 2)):
        ids[row, length:], mask[row, length:] = 1, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs if labels is None else inputs | {"labels": labels}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_gradient_checkpointing_changes_no_gradient(family: str, reentrant: bool, tmp_path: Path) -> None:
    model = classifier(saved(CONFIGS[family], tmp_path / "model")).train()
    calls: list[str] = []
    for layer in model.encoder.layers:
        layer.attention.register_forward_hook(lambda *_: calls.append("attention"))
    inputs = batch(torch.tensor([0, 2, 1]))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        calls.clear()
        model(**inputs).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    wanted = gradients()
    assert len(calls) == 2
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert model.is_gradient_checkpointing
    found = gradients()
    assert len(calls) == 4  # each layer once more, in the backward pass
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-6, rtol=1e-6, msg=name)
    model.eval()(**inputs)
    assert len(calls) == 6
    model.train().gradient_checkpointing_disable()
    gradients()
    assert len(calls) == 2


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_embeddings_and_positions_given_as_transformers_takes_them(family: str, tmp_path: Path) -> None:
    config = CONFIGS[family]
    ufbert.UltraFastBertModel(config).save_pretrained(tmp_path / "ours")
    convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "theirs", to="dense"))
    ours = transformers.AutoModel.from_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "theirs", add_pooling_layer=False)
    assert type(theirs).__name__.lower() == f"{family}model"
    inputs = batch()
    mask = inputs["attention_mask"]
    vectors = torch.randn(3, 9, 32)
    rows = torch.arange(8, -1, -1)[None] + config.position_offset
    for values in (
        {"inputs_embeds": vectors},
        {"inputs_embeds": vectors, "position_ids": rows},
        {"input_ids": inputs["input_ids"], "position_ids": rows.expand(3, -1)},
    ):
        wanted = theirs(attention_mask=mask, **values).last_hidden_state
        torch.testing.assert_close(ours(attention_mask=mask, **values).last_hidden_state, wanted, atol=1e-5, rtol=0)


def test_embeddings_given_to_trees(tmp_path: Path) -> None:
    model = classifier(saved(CRAMMED, tmp_path / "model"))
    inputs = batch()
    wanted = model(**inputs).logits
    vectors = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    found = model(inputs_embeds=vectors, attention_mask=inputs["attention_mask"])
    torch.testing.assert_close(found.logits, wanted)
    found.logits.sum().backward()
    assert vectors.grad is not None
    assert bool(vectors.grad[0].any())
    shifted = model(**inputs, position_ids=torch.arange(9)[None] + 3).logits
    assert not torch.allclose(shifted, wanted)
    torch.testing.assert_close(model(**inputs, position_ids=torch.arange(9)[None]).logits, wanted)
    for given in ({}, {"input_ids": inputs["input_ids"], "inputs_embeds": vectors}):
        with pytest.raises(DataError, match=r"^input_ids or inputs_embeds: give exactly one of the two$"):
            model(**given)
    with pytest.raises(DataError, match="17 tokens are more than the model's maximum of 16"):
        model(inputs_embeds=torch.zeros(1, 17, 32))


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "labels"),
    [
        (3, None, torch.tensor([0, 2, 1])),
        (3, None, torch.tensor([[0], [2], [1]])),
        (3, None, torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])),
        (3, "multi_label_classification", torch.eye(3)),
        (3, "regression", torch.eye(3)),
        (1, None, torch.tensor([0.5, -1.0, 2.0])),
        (1, None, torch.tensor([[0.5], [-1.0], [2.0]])),
    ],
)
def test_the_loss_is_that_of_transformers(
    num_labels: int, problem_type: str | None, labels: torch.Tensor, tmp_path: Path
) -> None:
    saved(BERT.replace(num_labels=num_labels), tmp_path / "ours")
    convert_checkpoint(ConversionRequest(tmp_path / "ours", tmp_path / "theirs", to="dense"))
    ours, theirs = classifier(tmp_path / "ours"), classifier(tmp_path / "theirs")
    assert type(theirs).__name__ == "BertForSequenceClassification"
    if problem_type is not None:
        ours.config.problem_type = theirs.config.problem_type = problem_type
    wanted, found = theirs(**batch(labels)), ours(**batch(labels))
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.loss, wanted.loss, atol=1e-5, rtol=0)
    assert ours.config.problem_type == theirs.config.problem_type


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Eight labelled texts."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: values[row % 3] for name, values in batch(torch.tensor([0, 2, 1])).items()}


def train(model: Any, folder: Path, checkpointing: bool) -> list[float]:
    """The losses of two steps of transformers' own loop; the model is saved in `folder`."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        gradient_checkpointing=checkpointing,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the loop warns of pinned memory and of its own old names
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows())
        trainer.train()
    trainer.save_model(str(folder))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trainer_with_gradient_checkpointing(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = saved(CRAMMED, tmp_path / "model")
    plain = train(classifier(folder), tmp_path / "plain", False)
    assert len(plain) == 2
    # Trainer's share of a step that accumulates two batches: about ln 3 at the start, not twice that.
    assert 0.2 < plain[0] < 2.0
    assert train(classifier(folder), tmp_path / "again", True) == pytest.approx(plain, abs=1e-5)
    ours = ufbert.UltraFastBertForSequenceClassification.from_pretrained(tmp_path / "again")
    theirs = classifier(tmp_path / "again")
    inputs = batch()
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits)
    assert ours.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("targets", [["qkv"], "all-linear"])
def test_lora_on_a_classifier(targets: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = saved(CRAMMED, tmp_path / "model")
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=targets, r=2, init_lora_weights=False)
    model = peft.get_peft_model(classifier(folder), config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("attention.qkv.lora_A" in name for name in trained)
    assert all("lora_" in name or "classifier" in name for name in trained)
    assert any("attention.output" in name for name in trained) == (targets == "all-linear")
    inputs = batch()
    usual = {
        "token_type_ids": None,
        "position_ids": None,
        "inputs_embeds": None,
        "labels": torch.tensor([0, 2, 1]),
        "output_attentions": False,
        "output_hidden_states": True,
        "return_dict": True,
    }
    output = model(**inputs, **usual)
    output.loss.backward()
    assert len(output.hidden_states) == 3
    losses = train(model, tmp_path / "adapter", True)
    assert len(losses) == 2
    wanted = model.eval()(**inputs).logits
    again = peft.PeftModel.from_pretrained(classifier(folder), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(again(**inputs).logits, wanted)
    assert not torch.allclose(classifier(folder)(**inputs).logits, wanted)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    ours = ufbert.UltraFastBertForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(ours(**inputs).logits, wanted)
