"""How many answers one engine may hold at a time, steered by the pressure on its KV cache.

Pure: loads and times in, one number out. Additive increase, multiplicative decrease, as TCP does for its window
(Chiu and Jain, 1989, doi:10.1016/0169-7552(89)90019-6) and prime-rl for rollouts: an engine that runs out of KV
preempts answers and computes them anew later, which costs more than a few answers that start later.

Invariants:
- 1 <= `limit` <= `most`, always;
- two changes are at least `settle_s` apart, so that each is judged by its effect, not by the load before it;
- it is lowered only while the engine keeps to it. Answers that run are never taken away, so a lowered limit takes
  effect when some of them have ended; to lower it again before would only be guessing, minutes long in the tail.
"""

import math


class Concurrency:
    """The limit begins at `most`.

    Args:
        most: the recipe's bound (`rollout.max_running`).
        low: below this use of the KV cache the limit may rise.
        high: above this use it falls; between the two it holds.
        step: answers by which it rises.
        decrease: factor by which it falls, in (0, 1).
        settle_s: seconds between two changes.
    """

    def __init__(
        self, most: int, low: float, high: float, step: int = 8, decrease: float = 0.75, settle_s: float = 2.0
    ) -> None:
        if most < 1 or step < 1:
            raise ValueError(f"most and step must be at least 1, not {most} and {step}")
        if not 0 < low < high <= 1:
            raise ValueError(f"0 < low < high <= 1 must hold, not low {low:g} and high {high:g}")
        if not 0 < decrease < 1 or settle_s < 0:
            raise ValueError(f"decrease must lie in (0, 1), settle_s be at least 0, not {decrease:g} and {settle_s:g}")
        self._most, self._low, self._high = most, low, high
        self._step, self._decrease, self._settle_s = step, decrease, settle_s
        self._limit = most
        self._changed_at = -math.inf

    @property
    def limit(self) -> int:
        """Answers that the engine may hold at a time."""
        return self._limit

    def observe(self, running: int, waiting: int, kv_use: float, now: float) -> None:
        """Take a moment's load into account.

        Args:
            running: answers that the engine holds.
            waiting: answers that wait for a place. Without any there is no need for a higher limit, and none is tried.
            kv_use: used share of its KV cache, in [0, 1].
            now: monotonic seconds.
        """
        if now - self._changed_at < self._settle_s:
            return
        limit = self._limit
        if kv_use > self._high and running <= limit:
            limit = max(1, math.floor(self._decrease * running))
        elif kv_use < self._low and running >= limit and waiting > 0:
            limit = min(self._most, limit + self._step)
        if limit != self._limit:
            self._limit, self._changed_at = limit, now
