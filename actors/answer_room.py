"""How many tokens an answer may have: what the request allows, within what the context leaves."""

from actors.engine import GenerationRequest


def answer_room(request: GenerationRequest, context_length: int) -> int:
    """Tokens that this request may sample.

    Raises:
        ValueError: the prompt is empty, or leaves no room for an answer.
    """
    room = context_length - len(request.prompt_ids)
    if not request.prompt_ids or room < 1:
        raise ValueError(
            f"request {request.request_id} has {len(request.prompt_ids)} prompt tokens: "
            f"between 1 and context_length - 1 = {context_length - 1} are possible"
        )
    return min(request.sampling.max_tokens, room)
