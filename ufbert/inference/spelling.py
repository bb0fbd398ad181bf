"""Tokens as text: with the spaces that they stand for, and put in the place of a mask as the tokenizer decodes them."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders

__all__ = ["Spelling"]

SPACE_PIECE = "\u2581"  # SentencePiece's space
CONTINUING = "##"


class Spelling:
    """How the tokens of one tokenizer are written.

    WordPiece: `dog` begins a word and `##s` goes on with one. Vocabularies whose pieces hold the space before a word
    (SentencePiece's and those of bytes): ` dog` and `s`. Those that mark the end of a word (`</w>`): `dog ` and `walk`.
    """

    def __init__(self, tokenizer: Tokenizer, mask: str) -> None:
        self.tokenizer = tokenizer
        shown = f"{tokenizer.decoder!r} {tokenizer.pre_tokenizer!r}"
        self.of_sentence_pieces = SPACE_PIECE in shown
        self.of_bytes = "ByteLevel" in shown
        self.end_of_word = tokenizer.decoder.suffix if isinstance(tokenizer.decoder, decoders.BPEDecoder) else ""
        # Whether a space before a mask is part of the mask, or else a token of its own that stays.
        spaced, joined = tokenizer.encode_batch([f"a {mask}", f"a{mask}"], add_special_tokens=False)
        self.mask_takes_space = spaced.ids == joined.ids
        self._whole = {str(token.content) for token in tokenizer.get_added_tokens_decoder().values()}
        self._texts: dict[int, str] = {}

    def text(self, token_id: int) -> str:
        """A token by its number."""
        if token_id not in self._texts:
            self._texts[token_id] = self._text(token_id)
        return self._texts[token_id]

    def _text(self, token_id: int) -> str:
        piece = str(self.tokenizer.id_to_token(token_id))
        if piece in self._whole:
            return piece
        if self.of_sentence_pieces:
            return piece.replace(SPACE_PIECE, " ")
        if self.end_of_word:
            return piece.removesuffix(self.end_of_word) + " " * piece.endswith(self.end_of_word)
        text = str(self.tokenizer.decode([token_id], skip_special_tokens=False))
        # Several pieces are parts of a character's bytes, and would all look the same.
        return piece if not text or "\ufffd" in text else text

    def fill(self, before: str, token: str, after: str) -> str:
        """A text with `token`, as `text` spells it, between what stands before and after its mask."""
        if self.of_sentence_pieces or self.of_bytes:
            begins, word = token.startswith(" "), token.removeprefix(" ")
            if not before.strip():
                return before + word + after
            if begins:
                return before + " " * (not before[-1].isspace()) + word + after
            return (before.rstrip() if self.mask_takes_space else before) + word + after
        if self.end_of_word:
            if token.endswith(" "):
                return before + token.rstrip(" ") + " " * after[:1].isalnum() + after
            return before + token + after.lstrip(" ")
        continues = token.startswith(CONTINUING) and len(token) > len(CONTINUING)
        if continues and before.strip():
            before = before.rstrip()
        return before + (token.removeprefix(CONTINUING) if continues else token) + after
