"""Which weight version counts for admission when several engines serve, one of them slower than the rest.

Pure: events and times in (monotonic seconds), a version out. It is the newest version that every engine serves, save
the laggards: an engine no longer counts once a newer version than its own has been served elsewhere for longer than
max(`floor_s`, `patience` * median of the others' last sync times). It counts again when it serves the version that
counts. So a slow engine holds the others up for a bounded time, and then only itself.

Invariants: `version` never falls while an engine remains; it never exceeds the newest version served. What it says is a
promise about new answers only together with `Router`, which gives an engine nothing newer than its weights.
"""

import statistics
from dataclasses import dataclass


@dataclass(slots=True)
class _Engine:
    version: int
    sync_s: float | None = None
    """Its last sync, seconds."""


class VersionQuorum:
    """Args:
    patience: multiple of the others' sync time that a laggard is waited for.
    floor_s: seconds that it is waited for at least.
    """

    def __init__(self, patience: float = 3.0, floor_s: float = 5.0) -> None:
        if patience < 0 or floor_s < 0:
            raise ValueError(f"patience and floor_s must be at least 0, not {patience:g} and {floor_s:g}")
        self._patience, self._floor_s = patience, floor_s
        self._engines: dict[str, _Engine] = {}
        self._served_since: dict[int, float] = {}
        """When a version was first served; older ones than every engine has are left out."""
        self._version = 0

    def joined(self, name: str, version: int, now: float) -> None:
        """This engine serves, with these weights. The first sets what counts."""
        if not self._engines:
            self._version = version
            self._served_since.clear()
        self._engines[name] = _Engine(version)
        self._reached(version, now)

    def left(self, name: str) -> None:
        """This engine does not serve any more. Unknown names are ignored."""
        self._engines.pop(name, None)

    def synced(self, name: str, version: int, seconds: float, now: float) -> None:
        """This engine serves this version from now on; the sync took so many seconds. Unknown names are ignored.

        Raises:
            ValueError: it serves a newer one already.
        """
        engine = self._engines.get(name)
        if engine is None:
            return
        if version < engine.version:
            raise ValueError(f"engine {name} serves version {engine.version} and cannot go back to {version}")
        engine.version, engine.sync_s = version, seconds
        self._reached(version, now)

    def version(self, now: float) -> int:
        """The version that counts; with no engine left, the last that did."""
        late = set(self.laggards(now))
        counting = [engine.version for name, engine in self._engines.items() if name not in late]
        self._version = min(counting, default=self._version)  # laggards are below it, nobody else is
        return self._version

    def laggards(self, now: float) -> tuple[str, ...]:
        """The engines that do not count now, by name."""
        return tuple(
            sorted(
                name
                for name, engine in self._engines.items()
                if engine.version < self._version or self._is_late(name, engine, now)
            )
        )

    def _is_late(self, name: str, engine: _Engine, now: float) -> bool:
        others = [other for key, other in self._engines.items() if key != name]
        if not any(other.version > engine.version for other in others):
            return False
        syncs = [other.sync_s for other in others if other.sync_s is not None]
        bound = max(self._floor_s, self._patience * statistics.median(syncs)) if syncs else self._floor_s
        behind_since = min(since for version, since in self._served_since.items() if version > engine.version)
        return now - behind_since > bound

    def _reached(self, version: int, now: float) -> None:
        self._served_since.setdefault(version, now)
        oldest = min(engine.version for engine in self._engines.values())
        self._served_since = {served: since for served, since in self._served_since.items() if served >= oldest}
