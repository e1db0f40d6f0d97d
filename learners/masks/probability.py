"""Masks by how sure the policy was of a token."""

from torch import Tensor

from learners.masks.mask import MASKS, MaskInput


@MASKS.register("unlikely_tokens")
def unlikely_tokens(given: MaskInput, *, below: float = 0.9) -> Tensor:
    """1 where the old policy gave the token a probability below `below`, else 0: SPO's mask (arXiv 2505.23564).

    A token that was nearly certain decided nothing, so it earns none of its segment's advantage.

    Args:
        below: in (0, 1]; at 1 only a certain token is masked.
    """
    if not 0 < below <= 1:
        raise ValueError(f"below={below} must be in (0, 1]")
    return (given.old_logprobs.exp() < below).to(given.logprobs.dtype)
