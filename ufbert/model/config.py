"""What a model is: the one frozen dataclass that `config.json` holds.

Field names are Hugging Face's where Hugging Face has one. The defaults are the paper's crammed 1x11
UltraFastBERT (16 layers of 768, vocabulary 32,768); the switches below `feedforward` let the same encoder
express the families that docs/conversion.md lists exactly.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from ufbert.checkpoint.cross_encoder import score_activation_keys
from ufbert.cmm.tree import check_shape
from ufbert.errors import ConfigError

from .shapes import FeedforwardShape, describe_layers, parse_shape, read_layers

__all__ = ["MODEL_TYPE", "UltraFastBertConfig"]

MODEL_TYPE = "ultrafastbert"

CHOICES: dict[str, tuple[str, ...]] = {
    "feedforward": ("fff", "dense", "none"),
    "hidden_act": ("gelu", "gelu_new", "relu", "silu"),
    "norm_position": ("pre", "post"),
    "position_embedding_type": ("scaled-sinusoidal", "absolute", "rotary"),
    "head_act": ("gelu", "gelu_new", "relu", "silu"),
    "classifier_pooling": ("first", "mean"),
    "classifier_act": ("tanh", "relu", "gelu", "gelu_new", "silu"),
    "score_activation": ("identity", "sigmoid", "tanh", "relu", "softmax"),
    "problem_type": ("single_label_classification", "multi_label_classification", "regression"),
}
OPTIONAL = ("head_act", "score_activation", "problem_type")
"""Those of `CHOICES` that may be None."""


@dataclass(frozen=True, kw_only=True)
class UltraFastBertConfig:
    """Everything that fixes the shape and the function of a model. Raises `ConfigError` on a bad value."""

    vocab_size: int = 32768
    """Entries of the WordPiece vocabulary."""
    hidden_size: int = 768
    """Width of a token's representation."""
    embedding_size: int | None = None
    """Width of the embedding tables where a projection to `hidden_size` follows them, as in ELECTRA; None for none."""
    num_hidden_layers: int = 16
    """Transformer layers."""
    num_attention_heads: int = 12
    """Attention heads; divides `hidden_size`."""
    num_key_value_heads: int | None = None
    """Heads of keys and values, shared by the attention heads in groups of equal size; None: each has its own."""
    max_position_embeddings: int = 128
    """The longest sequence in tokens, special tokens included."""
    pad_token_id: int = 0
    """Token that fills a batch up; ignored where the attention mask is 0."""

    feedforward: str = "fff"
    """`fff` (trees of neurons, one path used), `dense` (all neurons used) or `none` (attention alone)."""
    trees: int = 1
    """P, the trees of a fast feedforward layer."""
    depth: int = 11
    """D, edges from root to leaf; a tree has 2^(D+1) - 1 neurons and a token uses D + 1."""
    shared_neurons: int = 0
    """Dense neurons beside the trees that every token uses; ignored by other feedforward layers."""
    intermediate_size: int = 3072
    """Neurons of a dense feedforward layer; ignored otherwise."""
    token_rows: int = 0
    """Tokens of the vocabulary that have a row of their own in each feedforward layer, beside its neurons."""
    feedforward_layers: tuple[str, ...] = ()
    """What each layer's feedforward layer is where they differ, in place of the six fields above: `none`, `dense:216`,
    `12x6` (trees x depth) or `12x6+64` (beside shared neurons), with `+rows:8192` beside token rows, from the first
    layer on. Empty: all are alike."""
    hidden_act: str = "gelu"
    """Activation of dense feedforward layers and the prediction head; `fff` always uses exact GELU."""
    is_gated_act: bool = False
    """Dense feedforward layers multiply each neuron's activation with a second product of the input (GLU)."""

    layer_norm_eps: float = 1e-12
    """Epsilon of every LayerNorm."""
    norm_bias: bool = True
    """A shift in every LayerNorm, beside the scale."""
    norm_position: str = "pre"
    """`pre` (crammed BERT) or `post` (original BERT)."""
    skip_first_prenorm: bool = False
    """No norm before the first layer's attention, as the embeddings have just been normed; `pre` alone."""
    embedding_norm: bool = True
    """LayerNorm after the sum of the embeddings."""
    final_norm: bool = True
    """LayerNorm after the last layer; a post-norm model has none."""
    position_embedding_type: str = "scaled-sinusoidal"
    """`scaled-sinusoidal` (fixed, one learned scale), `absolute` (a learned table) or `rotary` (in attention alone)."""
    rope_theta: float = 10000.0
    """Base of the rotary positions' wavelengths."""
    local_rope_theta: float = 10000.0
    """The same in layers with local attention."""
    rope_scaling_factor: float = 1.0
    """Rotary positions are divided by it: linear scaling, which stretches a model over longer texts."""
    local_attention: int = 0
    """Tokens of a window in local layers: each sees `local_attention // 2` to either side; 0: no layer is local."""
    global_attn_every_n_layers: int = 3
    """Of so many layers the first sees the whole text, where `local_attention` makes the others local."""
    position_offset: int = 0
    """First row of the learned table in use. RoBERTa starts at `pad_token_id + 1` and skips padding."""
    alibi: bool = False
    """Attention scores fall with the distance of the tokens, beside the position embedding: ALiBi's slopes."""
    relative_attention_num_buckets: int = 0
    """Buckets of the distance of two tokens, each with a learned bias of every head's scores (T5's); 0 for none."""
    relative_attention_max_distance: int = 128
    """Distance in tokens from which on all share the last bucket."""
    type_vocab_size: int = 0
    """Token types; 0 for none."""
    use_bias: bool = False
    """Biases in the attention's and the feedforward's dense layers (an FFF always has its node biases)."""
    head_transform: bool = False
    """Dense, activation and LayerNorm before the decoder, as in BERT's masked-LM head."""
    head_act: str | None = None
    """Activation of that head; None is `hidden_act`. RoBERTa's and ELECTRA's heads always have GELU."""
    decoder_bias: bool = False
    """A bias per vocabulary entry in the decoder."""
    tie_word_embeddings: bool = True
    """The decoder uses the word embedding's matrix."""

    hidden_dropout_prob: float = 0.1
    """Dropout of embeddings and sublayer outputs; pretraining turns it off."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout of the attention weights."""
    initializer_range: float = 0.02
    """Standard deviation of the normal initialisation of every matrix."""
    zero_output_init: bool = False
    """Feedforward layers begin with zero output weights, adding nothing."""

    classifier_pooling: str = "mean"
    """What the classification head reads: the `first` token or the `mean` over the tokens."""
    classifier_hidden_size: int = 1024
    """Width of the head's dense layer."""
    classifier_act: str = "tanh"
    """Activation of the head's dense layer: `tanh` (BERT, RoBERTa), `relu` (DistilBERT), `gelu` (ELECTRA), ..."""
    tagger_transform: bool = False
    """Dense, activation (`head_act`) and LayerNorm before the tags' scores, as in ModernBERT's token classifiers."""
    classifier_norm: bool = False
    """LayerNorm between that activation and the dropout, as in ModernBERT's head."""
    classifier_dropout: float = 0.1
    """Dropout between the head's dense layer and the scores."""
    num_labels: int = 2
    """Scores of the classification head; 1 for regression."""
    score_activation: str | None = None
    """What sentence-transformers' `CrossEncoder` makes of the scores; None where the model is none."""
    id2label: dict[int, str] | None = None
    """Label names by class number; `LABEL_0`, ... where absent."""
    problem_type: str | None = None
    """Hugging Face's `single_label_classification`, `multi_label_classification` or `regression`; None where the
    model has no such head."""
    architectures: tuple[str, ...] = ()
    """The model class whose weights the checkpoint holds, Hugging Face's way."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from, for the model card; no part of the function."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "architectures", tuple(self.architectures))
        if self.id2label is not None:
            names = {int(k): str(v) for k, v in self.id2label.items()}
            object.__setattr__(self, "id2label", names)
            if sorted(names) != list(range(self.num_labels)):
                raise ConfigError(f"id2label names classes {sorted(names)}, num_labels is {self.num_labels}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name in OPTIONAL and value is None):
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        for name, least in (
            ("vocab_size", 1),
            ("hidden_size", 1),
            *([] if self.embedding_size is None else [("embedding_size", 1)]),
            ("num_hidden_layers", 0),
            ("num_attention_heads", 1),
            *([] if self.num_key_value_heads is None else [("num_key_value_heads", 1)]),
            ("local_attention", 0),
            ("global_attn_every_n_layers", 1),
            ("relative_attention_num_buckets", 4 if self.relative_attention_num_buckets else 0),
            ("max_position_embeddings", 1),
            ("shared_neurons", 0),
            ("token_rows", 0),
            ("intermediate_size", 1),
            ("type_vocab_size", 0),
            ("position_offset", 0),
            ("pad_token_id", 0),
            ("classifier_hidden_size", 1),
            ("num_labels", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must lie in [0, 1), not {getattr(self, name)!r}")
        for name in ("layer_norm_eps", "initializer_range", "rope_theta", "local_rope_theta", "rope_scaling_factor"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"num_attention_heads ({self.num_attention_heads}) must divide hidden_size ({self.hidden_size})"
            )
        if self.num_attention_heads % self.key_value_heads:
            raise ConfigError(
                f"num_key_value_heads ({self.num_key_value_heads}) must divide "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.position_embedding_type == "rotary" and self.head_size % 2:
            raise ConfigError(f"rotary positions turn pairs, and a head has {self.head_size} numbers: make it even")
        if self.skip_first_prenorm and self.norm_position == "post":
            raise ConfigError("skip_first_prenorm leaves a norm out that norm_position = 'post' does not have")
        exact = self.relative_attention_num_buckets // 4
        if self.relative_attention_max_distance <= exact:
            raise ConfigError(
                f"relative_attention_max_distance ({self.relative_attention_max_distance}) must be above the {exact} "
                "distances that have a bucket of their own"
            )
        if self.feedforward_layers:
            self._settle_layers()
        if (rows := max((shape.token_rows for shape in self.layer_shapes), default=0)) > self.vocab_size:
            raise ConfigError(f"rows of {rows:,} tokens: the vocabulary has {self.vocab_size:,}; give at most so many")
        if self.feedforward == "fff" and not self.feedforward_layers:
            check_shape(self.hidden_size, self.trees, self.depth)

    def _settle_layers(self) -> None:
        """Spell the shapes of the layers in one way; of layers that are all alike the fields for one say it."""
        shapes = read_layers(self.feedforward_layers, self.num_hidden_layers, self.hidden_size)
        same = len(set(shapes)) == 1
        fields = shapes[0].config_fields() if same else {}
        for name, value in {**fields, "feedforward_layers": () if same else tuple(map(str, shapes))}.items():
            object.__setattr__(self, name, value)

    @property
    def key_value_heads(self) -> int:
        """Heads of the keys and values."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_size(self) -> int:
        """Numbers of one head's query, key or value."""
        return self.hidden_size // self.num_attention_heads

    @property
    def query_key_value_width(self) -> int:
        """Numbers that a token's query, key and value have together."""
        return self.hidden_size + 2 * self.key_value_heads * self.head_size

    def is_local(self, layer: int) -> bool:
        """Whether the attention of that layer, counted from 0, sees a window only."""
        return self.local_attention > 0 and layer % self.global_attn_every_n_layers > 0

    @property
    def embedding_width(self) -> int:
        """Columns of the embedding tables."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def decoder_width(self) -> int:
        """Columns of the decoder. Raises `ConfigError` where nothing brings hidden states to the tables' width."""
        if self.embedding_width != self.hidden_size and not self.head_transform:
            raise ConfigError(
                f"a masked-LM head on embeddings of {self.embedding_width} and a hidden_size of {self.hidden_size} "
                "needs head_transform = true"
            )
        return self.embedding_width

    @property
    def multi_label(self) -> bool:
        """Whether the classification head gives a text any number of labels, each by its own sigmoid."""
        return self.problem_type == "multi_label_classification"

    @property
    def regression(self) -> bool:
        """Whether the classification head is trained to give values, nearly always one."""
        return self.problem_type == "regression" or (self.num_labels == 1 and not self.multi_label)

    def layer_shape(self, index: int) -> FeedforwardShape:
        """The feedforward layer of that layer, counted from 0."""
        if self.feedforward_layers:
            return parse_shape(self.feedforward_layers[index])
        if self.feedforward == "fff":
            shape = FeedforwardShape.of_trees(self.trees, self.depth, self.shared_neurons)
        else:
            shape = FeedforwardShape.of_dense(self.intermediate_size if self.feedforward == "dense" else 0)
        return shape.with_rows(self.token_rows)

    @property
    def layer_shapes(self) -> tuple[FeedforwardShape, ...]:
        """The feedforward layers of all layers."""
        return tuple(self.layer_shape(index) for index in range(self.num_hidden_layers))

    @property
    def has_token_rows(self) -> bool:
        """Whether any layer has token rows, so that a model must know how frequent each token is."""
        return any(shape.token_rows for shape in self.layer_shapes)

    @property
    def feedforward_kind(self) -> str:
        """`fff` where any layer has trees, else `dense` where any is dense, else `none`."""
        kinds = {shape.kind for shape in self.layer_shapes} or {self.feedforward}
        return next(kind for kind in CHOICES["feedforward"] if kind in kinds)

    @property
    def neurons_available(self) -> int:
        """Neurons of one feedforward layer; the rounded mean of layers that differ."""
        shapes = self.layer_shapes or (self.layer_shape(0),)
        return round(sum(shape.neurons_available for shape in shapes) / len(shapes))

    @property
    def neurons_used(self) -> int:
        """Neurons of one feedforward layer that a token uses; the rounded mean of layers that differ."""
        shapes = self.layer_shapes or (self.layer_shape(0),)
        return round(sum(shape.neurons_used for shape in shapes) / len(shapes))

    @property
    def feedforward_name(self) -> str:
        """What the feedforward layers are, for people: "dense layers", for instance."""
        if self.feedforward_layers:
            return f"feedforward layers that differ ({describe_layers(self.layer_shapes)})"
        names = {"fff": "fast feedforward layers", "dense": "dense layers", "none": "no feedforward layers"}
        if not self.token_rows:
            return names[self.feedforward]
        return "token rows" if self.feedforward == "none" else f"{names[self.feedforward]} beside token rows"

    @property
    def label_names(self) -> list[str]:
        """Names of the classes in order."""
        return [(self.id2label or {}).get(i, f"LABEL_{i}") for i in range(self.num_labels)]

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`."""
        values = dataclasses.asdict(self)
        values["architectures"] = list(self.architectures)
        values["feedforward_layers"] = list(self.feedforward_layers)
        if not self.feedforward_layers:  # a file without it can be read by releases that do not know it
            del values["feedforward_layers"]
        if not self.token_rows:
            del values["token_rows"]
        if self.id2label is not None:
            values["id2label"] = {str(k): v for k, v in self.id2label.items()}
            values["label2id"] = {v: k for k, v in self.id2label.items()}
        return {"model_type": MODEL_TYPE, **values, **score_activation_keys(self.score_activation)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> Self:
        """Read what `to_dict` wrote; keys that Hugging Face's tools add are ignored. `source` is for errors."""
        if values.get("model_type") != MODEL_TYPE:
            raise ConfigError(f"{source}: model_type is {values.get('model_type')!r}, not {MODEL_TYPE!r}")
        known = {f.name for f in dataclasses.fields(cls)}
        try:
            return cls(**{k: v for k, v in values.items() if k in known})
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"{source}: {error}") from error
