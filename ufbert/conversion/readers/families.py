"""Which family a checkpoint is of, where its config.json does not say, and what keeps one from being read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

__all__ = ["inexpressible", "recognise"]

CLASSES = {
    "Bert": "bert",
    "Camembert": "camembert",
    "CamemBert": "camembert",
    "DistilBert": "distilbert",
    "Electra": "electra",
    "Gte": "gte",
    "MPNet": "mpnet",
    "ModernBert": "modernbert",
    "New": "new",
    "NomicBert": "nomic_bert",
    "Roberta": "roberta",
    "XLMRoberta": "xlm-roberta",
}
"""What the names of a family's classes start with -> its `model_type`."""


def recognise(config: Mapping[str, Any], names: Collection[str]) -> str | None:
    """The family's `model_type` by the classes that `architectures` names, else by tensors' plain names, or None.

    A RoBERTa without a prefix or a head has the names of a BERT; its config numbers positions behind the padding's.
    """
    for architecture in config.get("architectures") or []:
        kind = re.match(r"(\w+?)(?:For\w+|Model|LMHeadModel|PreTrainedModel)$", str(architecture))
        if kind and kind[1] in CLASSES:
            return CLASSES[kind[1]]

    def any_starts(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if isinstance(config.get("arch"), Mapping):
        return "crammedBERT"
    if any("attention.q_lin." in name for name in names):
        return "distilbert"
    if any(".attention.attn.q." in name for name in names):
        return "mpnet"
    if "embeddings.tok_embeddings.weight" in names:
        return "modernbert"
    if any_starts("nomic_bert.", "emb_ln.") or any(".mlp.fc11." in name for name in names):
        return "nomic_bert"
    if any(".mlp.up_gate_proj." in name for name in names):
        return "new" if any_starts("new.") else "gte"
    if not any(".attention.self.query." in name for name in names):
        return None
    if any_starts("electra.", "embeddings_project.", "generator_", "discriminator_"):
        return "electra"
    if any_starts("roberta.", "lm_head.", "classifier.out_proj"):
        return "roberta"
    if any_starts("bert.", "cls."):
        return "bert"
    positions = config.get("max_position_embeddings")
    shifted = isinstance(positions, int) and positions > 2 and (positions - 2) % 64 == 0
    return "roberta" if shifted or (config.get("type_vocab_size") == 1 and config.get("pad_token_id") == 1) else "bert"


def _set(value: Any) -> bool:
    return value is not None and value is not False and value != 0 and value != [] and value != {} and value != ""


def _says(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and any(word in value.lower() for word in words)


RELATIVE, ROTARY, LINEAR_BIAS = "relative positions", "rotary positions", "positions as a bias of the attention (ALiBi)"
GATED, CAUSAL = "gated feedforward layers", "causal attention"
RMS, SHARED, LOCAL = "norms without a mean (RMSNorm)", "layers that share their weights", "local or sparse attention"
DECODER, EXPERTS, CONVOLUTION = "a decoder beside the encoder", "mixtures of experts", "convolutions"
BOTTLENECK, PICTURES = "bottlenecks between layers", "input that is no text"

# Key of config.json -> the values that count, and what they mean.
KEYS: dict[str, list[tuple[Callable[[Any], bool], str]]] = {
    "position_embedding_type": [
        (_says("relative"), RELATIVE),
        (_says("rotary", "rope"), ROTARY),
        (_says("alibi"), LINEAR_BIAS),
    ],
    "relative_attention": [(_set, RELATIVE)],
    "relative_attention_num_buckets": [(_set, RELATIVE)],
    "rel_pos_bins": [(_set, RELATIVE)],
    "pos_att_type": [(_set, RELATIVE)],
    "rope_theta": [(_set, ROTARY)],
    "rope_parameters": [(_set, ROTARY)],
    "rope_scaling": [(_set, ROTARY)],
    "global_rope_theta": [(_set, ROTARY)],
    "rotary_emb_fraction": [(_set, ROTARY)],
    "rotary_emb_base": [(_set, ROTARY)],
    "rotary_pct": [(_set, ROTARY)],
    "rotary_value": [(_set, ROTARY)],
    "alibi": [(_set, LINEAR_BIAS)],
    "alibi_starting_size": [(_set, LINEAR_BIAS)],
    **{
        key: [(_says("glu"), GATED)]
        for key in (
            "activation",
            "activation_function",
            "feed_forward_proj",
            "feed_forward_type",
            "hidden_act",
            "hidden_activation",
            "mlp_type",
        )
    },
    "is_gated_act": [(_set, GATED)],
    "rms_norm_eps": [(_set, RMS)],
    "num_hidden_groups": [(_set, SHARED)],
    "attention_window": [(_set, LOCAL)],
    "attention_type": [(_says("sparse"), LOCAL)],
    "local_attention": [(_set, LOCAL)],
    "sliding_window": [(_set, LOCAL)],
    "is_decoder": [(_set, CAUSAL)],
    "add_cross_attention": [(_set, DECODER)],
    "is_encoder_decoder": [(_set, DECODER)],
    "num_experts": [(_set, EXPERTS)],
    "num_local_experts": [(_set, EXPERTS)],
    "conv_kernel_size": [(_set, CONVOLUTION)],
    "use_bottleneck": [(_set, BOTTLENECK)],
    "patch_size": [(_set, PICTURES)],
}
# Pattern in a tensor's name -> what it means.
NAMES = {
    r"relative_attention_bias|rel_embeddings|relative_position|distance_embedding|r_r_bias": RELATIVE,
    r"rotary_emb|embed_positions\.inv_freq|\.inv_freq": ROTARY,
    r"gate_proj|gated_layers|mlp\.fc1[12]\.|mlp\.wi_[01]\.|DenseReluDense\.wi_1\.|up_gate_proj": GATED,
    r"albert_layer_groups": SHARED,
    r"crossattention|encoder_attn|EncDecAttention": DECODER,
    r"\.experts\.": EXPERTS,
    r"key_conv_attn_layer|conv1d": CONVOLUTION,
    r"bottleneck": BOTTLENECK,
    r"patch_embed": PICTURES,
}
# Families whose configs leave out what is fixed in them.
FAMILIES = {
    "albert": SHARED,
    "bart": DECODER,
    "bloom": f"{CAUSAL}, {LINEAR_BIAS}",
    "convbert": CONVOLUTION,
    "deberta": RELATIVE,
    "deberta-v2": RELATIVE,
    "esm": ROTARY,
    "eurobert": f"{RMS}, {ROTARY}, {GATED}",
    "funnel": RELATIVE,
    "gemma": f"{CAUSAL}, {ROTARY}, {GATED}",
    "gpt2": CAUSAL,
    "gpt_neo": CAUSAL,
    "gpt_neox": f"{CAUSAL}, {ROTARY}",
    "gptj": f"{CAUSAL}, {ROTARY}",
    "llama": f"{CAUSAL}, {ROTARY}, {GATED}",
    "longformer": LOCAL,
    "big_bird": LOCAL,
    "marian": DECODER,
    "mbart": DECODER,
    "mistral": f"{CAUSAL}, {ROTARY}, {GATED}",
    "mobilebert": BOTTLENECK,
    "modernbert-decoder": CAUSAL,
    "mt5": f"{RELATIVE}, {GATED}, {DECODER}",
    "neobert": f"{RMS}, {ROTARY}, {GATED}",
    "opt": CAUSAL,
    "phi": f"{CAUSAL}, {ROTARY}",
    "qwen2": f"{CAUSAL}, {ROTARY}, {GATED}",
    "qwen3": f"{CAUSAL}, {ROTARY}, {GATED}",
    "roformer": f"{ROTARY} that turn neighbouring numbers",
    "squeezebert": CONVOLUTION,
    "t5": f"{RELATIVE}, {DECODER}",
    "xlm-roberta-xl": "norms before the layers",
    "xlnet": RELATIVE,
}
# What the reader of a family expresses all the same.
EXPRESSED = {
    "mpnet": (RELATIVE,),
    "modernbert": (ROTARY, GATED, LOCAL),
    **dict.fromkeys(("gte", "new", "nomic_bert"), (ROTARY, GATED)),
}


def inexpressible(config: Mapping[str, Any], names: Collection[str], family: str) -> list[str]:
    """What of a model read as `family` would be lost, each with where it shows; none where nothing is known."""
    found: dict[str, str] = {}
    for key, meanings in KEYS.items():
        for counts, what in meanings:
            if counts(config.get(key)):
                found.setdefault(what, f"{key} is {config[key]!r}")
    for pattern, what in NAMES.items():
        if name := next((name for name in names if re.search(pattern, name)), None):
            found.setdefault(what, f"tensor {name}")
    for what in FAMILIES.get(str(config.get("model_type")), "").split(", "):
        if what:
            found.setdefault(what, "")
    lost = {what: where for what, where in found.items() if what not in EXPRESSED.get(family, ())}
    return [f"{what} ({where})" if where else what for what, where in lost.items()]
