"""From rewards of parts of an answer's text to rewards of its tokens."""

from collections.abc import Sequence

from orchestrator.token_bytes import BytesOf
from rewards.response import SpanReward
from rewards.spans import on_tokens, token_offsets


class TokenRewards:
    """Args: bytes_of: what each token adds to the text that the reward terms saw."""

    def __init__(self, bytes_of: BytesOf) -> None:
        self._bytes_of = bytes_of

    def __call__(self, token_ids: Sequence[int], spans: Sequence[SpanReward]) -> tuple[float, ...]:
        """A reward for each token, the sum over the parts that it has a character of; empty where there is no part."""
        return tuple(on_tokens(spans, token_offsets(self._bytes_of(token_ids)))) if spans else ()
