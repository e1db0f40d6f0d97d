"""What a critic is trained by."""

from torch import Tensor


def value_loss(values: Tensor, start: Tensor, returns: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """(V - R)^2 / 2, and with a clip max((V - R)^2, (V' - R)^2) / 2, V' = clip(V, V_start - c, V_start + c).

    The clip keeps a value from moving further than c in one batch: beyond it, towards its target, it has no gradient
    (the value clipping of PPO's published code; ReFT, arXiv 2401.08967).

    Args:
        values: [N], with gradient; start: [N] under the weights at the start of the batch; returns: [N] targets.
        clip: c, above 0; None clips nothing.

    Returns: loss [N], and [N] bool, where the clip took the gradient away.
    """
    free = (values - returns).square() / 2
    if clip is None:
        return free, free.new_zeros(free.shape).bool()
    bounded = (values.clamp(start - clip, start + clip) - returns).square() / 2
    return free.maximum(bounded), bounded.detach() > free.detach()
