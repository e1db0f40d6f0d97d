"""The reference in the place of an answer, so that an engine can say how likely it is there (RLPR, arXiv 2506.18254).

Pure functions on token ids. Invariant: the ids of the reasoning stay as they were sampled; what is encoded anew is the
reference, with the piece of text before it that shares a token with the answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.settings import LikelihoodSettings
from orchestrator.token_bytes import BytesOf
from rewards.spans import token_offsets

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Placed:
    """A sequence to be scored.

    Attributes:
        token_ids: prompt, reasoning and reference.
        first: number of the reference's first token; it ends the sequence.
    """

    token_ids: tuple[int, ...]
    first: int

    def of_reference(self, logprobs: Sequence[float]) -> tuple[float, ...]:
        """Args: logprobs: of every token after the first."""
        return tuple(logprobs[self.first - 1 :])


class ReferencePlacer:
    """Args:
    bytes_of: what each token says.
    encode: a text to token ids, without special tokens.
    most_tokens: that an engine can score at once.
    """

    def __init__(self, settings: LikelihoodSettings, bytes_of: BytesOf, encode: Encode, *, most_tokens: int) -> None:
        self._settings, self._bytes_of, self._encode, self._most = settings, bytes_of, encode, most_tokens

    def behind_reasoning(
        self, prompt_ids: tuple[int, ...], answer_ids: tuple[int, ...], reference: str
    ) -> Placed | None:
        """None where the answer names no place for it, or there is no room for the reference in it."""
        pieces = self._bytes_of(answer_ids)
        text, offsets = b"".join(pieces).decode("utf-8", "replace"), token_offsets(pieces)
        at = text.rfind(self._settings.opening)
        if at < 0:
            return None
        place = at + len(self._settings.opening)
        kept = next((number for number, (_, stop) in enumerate(offsets) if stop > place), len(offsets))
        shared = text[offsets[kept][0] : place] if kept < len(offsets) else ""
        return self._placed(prompt_ids + answer_ids[:kept], shared, reference)

    def without_reasoning(self, prompt_ids: tuple[int, ...], reference: str) -> Placed | None:
        """None where there is no room."""
        direct = self._settings.opening if self._settings.direct is None else self._settings.direct
        return self._placed(prompt_ids, direct, reference)

    def _placed(self, before: tuple[int, ...], shared: str, reference: str) -> Placed | None:
        added = tuple(self._encode(shared + reference))
        # A space that sentencepiece puts before every text, and takes away again when it begins one: here it does not.
        added = added[1:] if added and not self._bytes_of(added)[0] else added
        offsets = token_offsets(self._bytes_of(added))
        own = next((number for number, (_, stop) in enumerate(offsets) if stop > len(shared)), len(added))
        if own == len(added) or len(before) + len(added) > self._most:
            return None
        return Placed(before + added, len(before) + own)
