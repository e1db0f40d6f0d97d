"""Whether a newly trained drafter may serve: only if it is better on recent text that it was not trained on.

Pure. Both drafters are evaluated on the same held-out windows by their expected acceptance, the sum over tokens of
min(p, q) (Leviathan et al., arXiv 2211.17192, section 3.2). Windows differ far more than drafters do, so the difference
is taken window by window, and must exceed its own standard error `z` times.

Invariant: a drafter that is no better passes with a probability of about 2 % (z = 2), and one that is worse with less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True, slots=True)
class Window:
    """Expected acceptance of the same tokens, in [0, 1]."""

    candidate: float
    serving: float


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Attributes:
    difference: mean of candidate - serving; NaN without windows.
    standard_error: of `difference`; NaN with fewer than two windows.
    reason: one line, with the numbers.
    """

    publish: bool
    difference: float
    standard_error: float
    reason: str


def judge(windows: Sequence[Window], *, least_windows: int = 8, z: float = 2.0, least_gain: float = 0.0) -> GateVerdict:
    """The verdict on a candidate.

    Args:
        windows: held out from the candidate's training.
        z: standard errors that the difference must exceed.
        least_gain: difference that is worth a publication at all; the larger of the two bounds counts.
    """
    if least_windows < 2 or z < 0 or least_gain < 0:
        raise ValueError("least_windows must be at least 2, z and least_gain at least 0")
    differences = [window.candidate - window.serving for window in windows]
    difference = fmean(differences) if differences else math.nan
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    if len(windows) < least_windows:
        return GateVerdict(False, difference, error, f"{len(windows)} windows, and {least_windows} are needed: keep")
    needed = max(z * error, least_gain)
    candidate, serving = fmean(window.candidate for window in windows), fmean(window.serving for window in windows)
    levels = (
        f"expected acceptance {candidate:.3f} against {serving:.3f} on {len(windows)} windows, "
        f"difference {difference:+.4f} ± {error:.4f}"
    )
    if difference > needed:
        return GateVerdict(True, difference, error, f"{levels}: publish")
    return GateVerdict(False, difference, error, f"{levels}, not above {needed:.4f}: keep")
