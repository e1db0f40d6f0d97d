"""What each token adds to the text of an answer, in bytes.

A tokenizer's decoder turns token ids into a text and forgets which token said what. Here its steps are followed token
by token: byte-level BPE, and sentencepiece (BPE or unigram, with or without byte fallback), which between them are the
language models' tokenizers. Invariant: the bytes of an answer's tokens together are the text that
`Prepared.decode` gives, where what is no UTF-8 reads as U+FFFD.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from orchestrator.errors import SettingError

BytesOf = Callable[[Sequence[int]], list[bytes]]
Step = Callable[[list[bytes]], list[bytes]]
_UNREADABLE = "\ufffd".encode()


def bytes_of_tokens(tokenizer: PreTrainedTokenizerBase) -> BytesOf:
    """The function from token ids to the bytes of each; special tokens have none, as in an answer's text.

    Raises:
        SettingError: the tokenizer's decoder does something that is not known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unknown("is not of the tokenizers library")
    # The decoder alone: written down as a whole, a tokenizer is many megabytes.
    steps = _steps(None if backend.decoder is None else json.loads(backend.decoder.__getstate__()))
    silent = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}

    def bytes_of(token_ids: Sequence[int]) -> list[bytes]:
        names = tokenizer.convert_ids_to_tokens(list(token_ids))
        says = [name is not None and number not in silent for number, name in zip(token_ids, names, strict=True)]
        pieces = [name.encode() for name, heard in zip(names, says, strict=True) if heard]
        for step in steps:
            pieces = step(pieces)
        heard = iter(pieces)
        return [next(heard) if has_text else b"" for has_text in says]

    return bytes_of


def _steps(decoder: Mapping[str, object] | None) -> list[Step]:
    """A decoder, as the tokenizers library writes it down, as steps on the pieces of a text."""
    if decoder is None:
        raise _unknown("has no decoder, so its tokens are words")
    kind = decoder["type"]
    if kind == "Sequence":
        inner = decoder["decoders"]
        assert isinstance(inner, list), "the library writes a list"
        return _in_order(inner)
    if kind == "ByteLevel":
        return [_byte_level]
    if kind == "Metaspace":
        return [_metaspace(str(decoder["replacement"]), strips=decoder["prepend_scheme"] != "never")]
    if kind == "Replace":
        return [_replace(decoder)]
    if kind == "ByteFallback":
        return [_byte_fallback]
    if kind == "Fuse":
        return []  # pieces become one: what follows acts on the whole text
    raise _unknown(f"has a decoder of the kind {kind}")


def _in_order(decoders: Sequence[Mapping[str, object]]) -> list[Step]:
    steps: list[Step] = []
    fused = False
    for decoder in decoders:
        fused = fused or decoder["type"] == "Fuse"
        if decoder["type"] == "Strip":
            steps.append(_strip(decoder, whole=fused))
        else:
            steps += _steps(decoder)
    return steps


def _alphabet() -> dict[str, int]:
    """The signs that stand for bytes in a byte-level vocabulary: printable ones for themselves, others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _alphabet()


def _byte_level(pieces: list[bytes]) -> list[bytes]:
    return [_from_alphabet(piece) for piece in pieces]


def _from_alphabet(piece: bytes) -> bytes:
    signs = [_BYTES.get(sign) for sign in piece.decode()]
    # A token that was added to the vocabulary may have other signs: it says what it is called.
    return piece if None in signs else bytes(sign for sign in signs if sign is not None)


def _metaspace(mark: str, *, strips: bool) -> Step:
    sign = mark.encode()

    def step(pieces: list[bytes]) -> list[bytes]:
        first = b"" if strips else b" "
        return [piece.replace(sign, b" " if place else first) for place, piece in enumerate(pieces)]

    return step


def _replace(decoder: Mapping[str, object]) -> Step:
    pattern, content = decoder["pattern"], str(decoder["content"]).encode()
    if not isinstance(pattern, dict) or "String" not in pattern:
        raise _unknown("has a decoder that replaces by a regular expression")
    sought = str(pattern["String"]).encode()
    return lambda pieces: [piece.replace(sought, content) for piece in pieces]


def _byte_fallback(pieces: list[bytes]) -> list[bytes]:
    """`<0xE2>` is a byte; neighbours that together are no UTF-8 show as one U+FFFD each."""
    found: list[bytes] = []
    run: list[bytes] = []

    def end_run() -> None:
        try:
            b"".join(run).decode()
        except UnicodeDecodeError:
            found.extend([_UNREADABLE] * len(run))
        else:
            found.extend(run)
        run.clear()

    for piece in pieces:
        byte = _fallback_byte(piece)
        if byte is None:
            end_run()
            found.append(piece)
        else:
            run.append(byte)
    end_run()
    return found


def _fallback_byte(piece: bytes) -> bytes | None:
    if len(piece) != 6 or not (piece.startswith(b"<0x") and piece.endswith(b">")):
        return None
    try:
        return bytes([int(piece[3:5], 16)])
    except ValueError:
        return None


def _strip(decoder: Mapping[str, object], *, whole: bool) -> Step:
    sign, start, stop = str(decoder["content"]).encode(), decoder["start"], decoder["stop"]
    assert isinstance(start, int), "the library writes a number"
    if stop != 0:
        raise _unknown("has a decoder that strips the end of a text")

    def without(piece: bytes, most: int) -> bytes:
        while most and piece.startswith(sign):
            piece, most = piece[len(sign) :], most - 1
        return piece

    def step(pieces: list[bytes]) -> list[bytes]:
        if not whole:
            return [without(piece, start) for piece in pieces]
        left, found = start, []
        for piece in pieces:
            kept = without(piece, left)
            left = left - (len(piece) - len(kept)) // len(sign) if not kept else 0
            found.append(kept)
        return found

    return step


def _unknown(what: str) -> SettingError:
    return SettingError(
        "model",
        f"its tokenizer {what}, so that nobody can tell which token said what",
        "take a byte-level or sentencepiece tokenizer, or an algorithm.advantage that asks for less",
    )
