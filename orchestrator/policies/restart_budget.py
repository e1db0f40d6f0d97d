"""How often an actor may be restarted: at most so many times within a window of time.

Pure: times come in as arguments, monotonic seconds. Invariant: within any half-open window of `window_s` seconds,
`allow` says yes to one name at most `most` times. Memory: `most` times per name.
"""

from collections import deque


class RestartBudget:
    """Args:
    most: restarts of one actor within the window; 0 never allows one.
    window_s: a restart is forgotten after this many seconds.
    """

    def __init__(self, most: int, window_s: float) -> None:
        if most < 0 or window_s <= 0:
            raise ValueError(f"most must be at least 0 and window_s positive, not {most} and {window_s:g}")
        self._most, self._window_s = most, window_s
        self._restarts: dict[str, deque[float]] = {}

    def allow(self, name: str, now: float) -> bool:
        """Whether this actor may be restarted now; a yes is booked as a restart."""
        if self.spent(name, now) >= self._most:
            return False
        self._restarts.setdefault(name, deque()).append(now)
        return True

    def spent(self, name: str, now: float) -> int:
        """Restarts of this actor that the window still holds."""
        times = self._restarts.get(name)
        if times is None:
            return 0
        while times and now - times[0] >= self._window_s:
            times.popleft()
        return len(times)
