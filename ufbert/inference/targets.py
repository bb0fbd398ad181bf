"""The words that a mask is asked about, as tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tokenizers import Tokenizer

from ufbert.errors import ConfigError

__all__ = ["target_ids"]

log = logging.getLogger(__name__)


def target_ids(tokenizer: Tokenizer, targets: Sequence[str]) -> list[int]:
    """The token of each target, each once: the entry of that name, else the first token of the word.

    A word of several tokens, or of none that is known, is said in the log; one without any is left out.
    Raises `ConfigError` if none is left.
    """
    unknown = getattr(tokenizer.model, "unk_token", None)
    ids: dict[int, None] = {}
    for target in targets:
        token_id = tokenizer.token_to_id(target)
        if token_id is None:
            encoding = tokenizer.encode(target, add_special_tokens=False)
            if not encoding.ids:
                log.warning("the target %r is no token, and has none; it is left out", target)
                continue
            token_id, token = encoding.ids[0], tokenizer.id_to_token(encoding.ids[0])
            if len(encoding.ids) > 1:
                log.warning("the target %r is %d tokens; its first, %r, stands for it", target, len(encoding), token)
            elif token == unknown:
                log.warning("the target %r is not in the vocabulary; %r stands for it", target, token)
        ids[token_id] = None
    if not ids:
        raise ConfigError(f"targets: none of {', '.join(map(repr, targets))} is a token; name words of the vocabulary")
    return list(ids)
