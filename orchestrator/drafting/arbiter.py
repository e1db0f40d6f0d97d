"""Lends idle accelerators to jobs that can be interrupted, such as training the drafter.

Pure: predictions, messages and times in, leases and verdicts out. A lease is for one accelerator, has an epoch, and
ends by itself after `ttl_s`; the holder renews it at every micro-step. To take an accelerator back is to refuse the
next renewal. No message has to arrive for that: one that is lost costs at most a ttl, never a hang.

Invariants:
- an accelerator has at most one lease at a time, and a new one only after the old one ended, was given back, or ran
  out. A holder that counts its ttl from when it *asked* for the renewal stops no later than the arbiter counts;
- `reclaim` always succeeds: the accelerator is free at the time that it names, at most `ttl_s` from then;
- epochs of an accelerator grow: a late message of an earlier holder is told from the present one's.

A lease is granted only where the accelerator is predicted to be idle for longer than the change costs (mean of the last
times, as verl's dynamic schedule reckons, `verl/experimental/fully_async_policy/dynamic_schedule`) plus `least_work_s`.
Where nothing idles for so long, as in a fully asynchronous run, the verdict is to train beside the learner, and why.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

SWITCHES_KEPT = 3


@dataclass(frozen=True, slots=True)
class Lease:
    """`accelerator` is the job's until `expires_at` (monotonic seconds) unless renewed; `epoch` numbers its leases."""

    accelerator: str
    job: str
    epoch: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a job that asked for an accelerator should do.

    Attributes:
        action: `use` the lease; `wait` and ask again; or go on `beside_learner`, as nothing idles for long enough.
        reason: in one line, with the numbers.
    """

    action: Literal["use", "wait", "beside_learner"]
    reason: str
    lease: Lease | None = None


@dataclass(slots=True)
class _Holding:
    lease: Lease
    revoked: bool = False


class Arbiter:
    """Args:
    ttl_s: seconds that a lease lasts without being renewed; several micro-steps.
    least_work_s: seconds of work for which a change is worth the trouble.
    switch_prior_s: what a change costs before any was measured.
    """

    def __init__(self, *, ttl_s: float, least_work_s: float, switch_prior_s: float = 10.0) -> None:
        if ttl_s <= 0 or least_work_s < 0 or switch_prior_s < 0:
            raise ValueError("ttl_s must be above 0, least_work_s and switch_prior_s at least 0")
        self._ttl_s, self._least_work_s = ttl_s, least_work_s
        self._switch_prior_s = switch_prior_s
        self._switches: deque[float] = deque(maxlen=SWITCHES_KEPT)
        self._holdings: dict[str, _Holding] = {}
        self._reclaimed: set[str] = set()
        self._epochs: dict[str, int] = {}

    @property
    def switch_s(self) -> float:
        """What it costs to take an accelerator into use for a job, and to give it back."""
        return sum(self._switches) / len(self._switches) if self._switches else self._switch_prior_s

    def switched(self, seconds: float) -> None:
        """A change was measured: what passed from the grant of a lease to the job's first useful work on it."""
        self._switches.append(seconds)

    def request(self, job: str, idle: Mapping[str, float], now: float) -> Verdict:
        """A job asks for an accelerator.

        Args:
            idle: predicted idle seconds of every accelerator that no engine uses now, the lent ones included.
            now: monotonic seconds.
        """
        needed = self.switch_s + self._least_work_s
        gate = f"switch {self.switch_s:.1f} s + useful work {self._least_work_s:.1f} s"
        if not idle:
            return Verdict("beside_learner", "no accelerator is idle: train beside the learner")
        longest = max(idle.values())
        if longest <= needed:
            return Verdict(
                "beside_learner",
                f"the longest idle time ahead is {longest:.1f} s, not above {gate}: beside the learner",
            )
        free = [name for name, seconds in idle.items() if seconds > needed and self.is_free(name, now)]
        free = [name for name in free if name not in self._reclaimed]
        if not free:
            return Verdict("wait", f"every accelerator that idles for more than {gate} is lent or taken back")
        name = max(free, key=lambda name: (idle[name], name))
        epoch = self._epochs.get(name, 0) + 1
        self._epochs[name] = epoch
        lease = Lease(name, job, epoch, now + self._ttl_s)
        self._holdings[name] = _Holding(lease)
        return Verdict("use", f"{name} idles for {idle[name]:.1f} s, above {gate}", lease)

    def renew(self, lease: Lease, now: float) -> Lease | None:
        """The holder is still at work, and asks to go on.

        Returns:
            The lease, `ttl_s` longer. None: it has ended; the holder parks its state and stops at once.
        """
        holding = self._current(lease)
        if holding is None or holding.revoked or now >= holding.lease.expires_at:
            return None
        holding.lease = Lease(lease.accelerator, lease.job, lease.epoch, now + self._ttl_s)
        return holding.lease

    def release(self, lease: Lease) -> None:
        """The holder has stopped, by itself or as it was told; what has ended already is ignored."""
        if self._current(lease) is not None:
            del self._holdings[lease.accelerator]

    def reclaim(self, accelerator: str, now: float) -> float:
        """An engine wants its accelerator back, until `returned`.

        Returns:
            When it is free at the latest, monotonic seconds: now, or when the lease runs out, which is not renewed.
            It may be free before (`is_free`), if the holder gives it back.
        """
        self._reclaimed.add(accelerator)
        holding = self._holdings.get(accelerator)
        if holding is None or self.is_free(accelerator, now):
            return now
        holding.revoked = True
        return holding.lease.expires_at

    def returned(self, accelerator: str) -> None:
        """The engine has no more use for it: it may be lent again."""
        self._reclaimed.discard(accelerator)

    def is_free(self, accelerator: str, now: float) -> bool:
        """Whether no job can be at work on it."""
        holding = self._holdings.get(accelerator)
        return holding is None or now >= holding.lease.expires_at

    def _current(self, lease: Lease) -> _Holding | None:
        holding = self._holdings.get(lease.accelerator)
        same = holding is not None and (holding.lease.epoch, holding.lease.job) == (lease.epoch, lease.job)
        return holding if same else None


def predicted_idle(remaining: Mapping[str, Sequence[float]], tokens_per_s: Mapping[str, float]) -> dict[str, float]:
    """Seconds for which engines will have nothing to do until the last one has finished, if nothing new starts.

    Args:
        remaining: for each engine, the tokens that each of its answers is still expected to sample.
        tokens_per_s: at which each engine samples one answer; above 0.
    """
    ends = {name: max(tokens, default=0.0) / tokens_per_s[name] for name, tokens in remaining.items()}
    last = max(ends.values(), default=0.0)
    return {name: last - end for name, end in ends.items()}
