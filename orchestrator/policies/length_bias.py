"""Length bias, measured always: were the answers that were trained on shorter than the answers that were asked for?

Whoever starts more answers than a batch needs and keeps the first to finish trains on short answers. The metric
compares the distribution of lengths submitted with that of lengths trained. An answer that was cut has a censored
length, at least what was sampled of it; leaving such answers out, or counting them as they are, would hide the very
bias. The submitted distribution is therefore estimated by the product-limit estimator (Kaplan and Meier, JASA 53,
1958, 457-481), S(t) = product over lengths u <= t of (1 - finished at u / at risk at u), where an answer cut after u
tokens is at risk up to u and not beyond. Means are restricted to the greatest length seen (Irwin, J. Hygiene 47, 1949,
188-189): beyond it the curve is unknown.

The estimate is fair where the cut falls independently of the length still to come, as a cut by the clock does among
answers that started together; the rest of a long answer is not seen, so it is a bound from below of the bias.

Pure. Invariants: memory is bounded by the number of distinct lengths, so by `max_response_tokens`; `row` takes
O(n log n) in it. Without cuts, and with everything trained on, `mean_ratio` is exactly 1 and `distance` exactly 0.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

ROUNDING = 1e-12
"""A quantile is a comparison of quotients such as 1 - 1/10 and 0.9, which differ in their last bit."""


@dataclass(frozen=True, slots=True)
class Survival:
    """A step function S: the share of answers that are longer than t tokens.

    Attributes:
        lengths: where S steps down or an answer was cut, ascending.
        after: S from each of these lengths (inclusive) to the next; before the first it is 1.
    """

    lengths: tuple[int, ...]
    after: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean restricted to the greatest length seen, tokens: the area under S up to there."""
        if not self.lengths:
            return 0.0
        area = float(self.lengths[0])
        for length, following, share in zip(self.lengths, self.lengths[1:], self.after, strict=False):
            area += (following - length) * share
        return area

    def quantile(self, q: float) -> int:
        """The least length t with S(t) <= 1 - q; the greatest length seen where S stays above: it is at least that."""
        for length, share in zip(self.lengths, self.after, strict=True):
            if 1 - share >= q - ROUNDING:
                return length
        return self.lengths[-1] if self.lengths else 0

    def distance(self, other: "Survival") -> float:
        """Greatest |S - other| over all lengths (Kolmogorov-Smirnov), 0 to 1."""
        greatest = 0.0
        mine, others = (
            dict(zip(self.lengths, self.after, strict=True)),
            dict(zip(other.lengths, other.after, strict=True)),
        )
        here = there = 1.0
        for length in sorted(mine.keys() | others.keys()):
            here, there = mine.get(length, here), others.get(length, there)
            greatest = max(greatest, abs(here - there))
        return greatest


def product_limit(finished: Mapping[int, int], cut: Mapping[int, int]) -> Survival:
    """The Kaplan-Meier estimate from counts by length; `cut` answers are at least that long.

    Between two cuts the product telescopes to a quotient of counts; computed so, the estimate without cuts is the
    empirical distribution to the last bit.
    """
    lengths = sorted(finished.keys() | cut.keys())
    at_risk = reference = sum(finished.values()) + sum(cut.values())
    base = 1.0
    after: list[float] = []
    for length in lengths:
        at_risk -= finished.get(length, 0)
        share = base * (at_risk / reference)  # in this order, so that it stays where nothing ended
        after.append(share)
        if cut.get(length, 0):
            at_risk -= cut[length]
            base, reference = share, max(at_risk, 1)
    return Survival(tuple(lengths), tuple(after))


@dataclass(slots=True)
class LengthBias:
    """Counts lengths, tokens, as answers end and are trained on; one for a whole run, or one for each step.

    Attributes: how many answers had each length: complete, cut, and trained on.
    """

    finished: Counter[int] = field(default_factory=Counter)
    cut: Counter[int] = field(default_factory=Counter)
    of_trained: Counter[int] = field(default_factory=Counter)

    def submitted(self, length: int, *, cut: bool) -> None:
        """An answer came off the engines for good: complete, or cut when it had this length.

        One that is suspended to be continued is not submitted yet: it will be, once, when it ends.
        """
        (self.cut if cut else self.finished)[length] += 1

    def trained(self, length: int) -> None:
        """An answer took gradient."""
        self.of_trained[length] += 1

    def row(self) -> dict[str, float]:
        """The metrics; empty until an answer has been trained on. Lengths in tokens, the ratio trained / submitted."""
        if not self.of_trained or not (self.finished or self.cut):
            return {}
        submitted, trained = product_limit(self.finished, self.cut), product_limit(self.of_trained, {})
        return {
            "length_bias/mean_submitted": submitted.mean,
            "length_bias/mean_trained": trained.mean,
            "length_bias/mean_ratio": trained.mean / submitted.mean if submitted.mean else 1.0,
            "length_bias/p50_submitted": float(submitted.quantile(0.5)),
            "length_bias/p50_trained": float(trained.quantile(0.5)),
            "length_bias/p90_submitted": float(submitted.quantile(0.9)),
            "length_bias/p90_trained": float(trained.quantile(0.9)),
            "length_bias/distance": submitted.distance(trained),
            "length_bias/cut_share": self.cut.total() / (self.cut.total() + self.finished.total()),
        }
