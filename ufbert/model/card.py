"""The README.md of a checkpoint folder: what the model is, where it comes from, what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .config import UltraFastBertConfig
from .shapes import describe_layers

__all__ = ["markdown_table", "model_card"]


def model_card(
    config: UltraFastBertConfig,
    *,
    title: str,
    origin: str,
    figures: dict[str, str],
    command: str,
    sections: str = "",
) -> str:
    """Markdown with Hugging Face's front matter.

    `origin` is a sentence on the weights' source, `figures` measured quantity -> value with its unit,
    `command` the command line that made the model, `sections` further Markdown for the end.
    """
    if config.feedforward_layers:
        layer = (
            f"by layer {describe_layers(config.layer_shapes)}: a token uses "
            f"{sum(shape.neurons_used for shape in config.layer_shapes):,} of "
            f"{sum(shape.neurons_available for shape in config.layer_shapes):,} neurons in all"
        )
    elif config.feedforward == "fff":
        layer = (
            f"{config.trees} tree(s) of depth {config.depth}: a token uses {config.neurons_used:,} of "
            f"{config.neurons_available:,} neurons per layer"
            + (f", {config.shared_neurons:,} of which all tokens share" if config.shared_neurons else "")
        )
    elif config.feedforward == "none":
        layer = "none"
    else:
        layer = f"dense, {config.intermediate_size:,} neurons per layer"
    if config.token_rows:
        rows_there = f"rows of {config.token_rows:,} tokens"
        layer = rows_there if config.feedforward == "none" else f"{layer}, beside {rows_there}"
    rows = {
        "layers x hidden size": f"{config.num_hidden_layers} x {config.hidden_size}",
        "attention heads": str(config.num_attention_heads)
        + ("" if config.num_key_value_heads is None else f", {config.num_key_value_heads} of keys and values"),
        "feedforward": layer,
        "vocabulary": f"{config.vocab_size:,}",
        "longest sequence": f"{config.max_position_embeddings} tokens",
    }
    if config.problem_type in ("single_label_classification", "multi_label_classification"):
        rows["labels, any number a text" if config.multi_label else "classes"] = ", ".join(config.label_names)
    kind = config.architectures[0] if config.architectures else ""
    if kind == "UltraFastBertForTokenClassification":
        rows["tags"] = ", ".join(config.label_names)
    task = {
        "UltraFastBertForMaskedLM": "fill-mask",
        "UltraFastBertForSequenceClassification": "text-classification",
        "UltraFastBertForTokenClassification": "token-classification",
    }.get(kind, "feature-extraction")
    measured = (
        markdown_table(("measured", "value"), figures.items())
        if figures
        else "No figure was measured for this checkpoint.\n"
    )
    properties = markdown_table(("property", "value"), rows.items())
    return (
        f"---\nlibrary_name: ufbert\npipeline_tag: {task}\n---\n\n# {title}\n\n{origin}\n\nMade by:\n\n"
        f"```bash\n{command}\n```\n\n## Model\n\n{properties}\n## Figures\n\n{measured}{sections}"
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, ending in a line break."""
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
