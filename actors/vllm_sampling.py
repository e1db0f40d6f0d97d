"""A request in vLLM's words: what is sampled, and how it is reported."""

from typing import TYPE_CHECKING

from actors.answer_room import answer_room
from actors.continuation import drawing_seed
from actors.engine import GenerationRequest

if TYPE_CHECKING:
    from vllm import SamplingParams

_STREAM_INTERVAL = 64
"""Tokens between two partial outputs. The first token is reported at once, the rest in few large pieces."""


def sampling_params(request: GenerationRequest, context_length: int) -> "SamplingParams":
    """vLLM's parameters for this request.

    Raises:
        ValueError: see `answer_room`.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        max_tokens=answer_room(request, context_length),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_token_ids=list(sampling.stop_token_ids),
        # Only the request says what ends an answer, not the checkpoint.
        ignore_eos=True,
        seed=drawing_seed(request),
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        stream_interval=_STREAM_INTERVAL,
    )
