"""How many tokens an answer may have: what the request allows, within what the context leaves."""

from actors.engine import GenerationRequest


def answer_room(request: GenerationRequest, context_length: int) -> int:
    """Tokens that this request may still sample, beyond its prefix.

    Raises:
        ValueError: the prompt is empty or leaves no room for an answer, or the prefix is a whole answer already.
    """
    room = context_length - len(request.prompt_ids)
    if not request.prompt_ids or room < 1:
        raise ValueError(
            f"request {request.request_id} has {len(request.prompt_ids)} prompt tokens: "
            f"between 1 and context_length - 1 = {context_length - 1} are possible"
        )
    whole = min(request.sampling.max_tokens, room)
    prefix = [token for segment in request.prefix for token in segment.token_ids]
    if prefix and prefix[-1] in request.sampling.stop_token_ids:
        raise ValueError(f"request {request.request_id} has a prefix that ends in stop token {prefix[-1]}: it is whole")
    if prefix and len(prefix) >= whole:
        raise ValueError(
            f"request {request.request_id} has a prefix of {len(prefix)} tokens: its answer may have {whole} in all"
        )
    return whole - len(prefix)
