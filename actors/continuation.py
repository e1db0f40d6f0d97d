"""An answer that goes on where it was interrupted: what it is read from, drawn with and joined to.

The same on every engine, so that an answer may go on anywhere.
"""

import hashlib
from collections.abc import Iterable

from actors.engine import GenerationRequest, Segment


def sequence_so_far(request: GenerationRequest) -> tuple[int, ...]:
    """Prompt and prefix: what an engine reads before it samples the next token."""
    return request.prompt_ids + tuple(token for segment in request.prefix for token in segment.token_ids)


def drawing_seed(request: GenerationRequest) -> int:
    """Seed of the draws that follow the prefix, in [0, 2**63); the request's own where there is no prefix.

    The seed's first draws made the prefix. Used again behind it, they would tie its later tokens to its first ones.
    """
    sampled = len(sequence_so_far(request)) - len(request.prompt_ids)
    if not sampled:
        return request.sampling.seed
    digest = hashlib.blake2b(f"{request.sampling.seed} after {sampled}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def joined(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """These segments in their order, neighbours of one version made one, empty ones left out."""
    result: list[Segment] = []
    for segment in segments:
        if not segment.token_ids:
            continue
        if result and result[-1].version == segment.version:
            before = result.pop()
            segment = Segment(segment.version, before.token_ids + segment.token_ids, before.logprobs + segment.logprobs)
        result.append(segment)
    return tuple(result)
