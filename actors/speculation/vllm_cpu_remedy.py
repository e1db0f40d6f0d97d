"""Makes vLLM 0.32 verify drafts at a temperature, with top-k or top-p, on the CPU.

There, what says the temperature, top-k and top-p of each drafted token is filled in by a kernel that writes to a copy
of its output (`_expand_kernel_impl` casts a float or int32 output to int64 and drops the result), so verification
divides by uninitialised memory: tokens of another law, and logprobs that are wrong or not finite. Greedy requests among
themselves are not touched by it. vLLM's pull request 42638 describes the same symptom and was not merged.
"""

import torch
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler


def expand_batch_to_tokens(
    x: torch.Tensor, cu_num_tokens: torch.Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    """Each request's value once for each of its drafted tokens: what vLLM's function of this name shall give.

    Args:
        x: [requests] any type.
        cu_num_tokens: [requests] drafted tokens up to and with each request.
        num_tokens: their sum.
        replace_from, replace_to: one value that is given as another.
    """
    counts = torch.diff(cu_num_tokens.long(), prepend=cu_num_tokens.new_zeros(1).long())
    return torch.where(x == replace_from, replace_to, x).to(x.dtype).repeat_interleave(counts, output_size=num_tokens)


def repair_verification() -> None:
    """To be called in every worker process before it verifies; once or more, it makes no difference."""
    if current_platform.is_cpu():
        rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
