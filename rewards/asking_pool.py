"""A pool's handle on the process that asks models: many prompts in at a time, their scores out as they come.

One process suffices, because asking is waiting. Invariants: every call gets its scores, or the fallback with the
reason; a process that dies, or falls silent because something in it computes without end, is replaced, and what it was
asked is asked once more; no process outlives the pool. Any thread may call.

The process is started and listened to on a thread of its own: the kernel ties a child's life to the thread that
started it.
"""

import subprocess
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from rewards.child_process import end, launched, signal_group
from rewards.entries import RewardSetupError, given_up
from rewards.models.address import Address, Addresses
from rewards.response import Failure, FailureKind, Score
from rewards.settings import RewardSettings
from rewards.wire import AskRequest, Channel, ChannelClosedError, GroupRequest, packed

TRIES = 2
SILENT_S = 10.0
"""Without a sign of life for so long, on a machine under load, the process computes without end."""
_SEND_S = 10.0
_LOOK_S = 0.5
_LAST_WORDS_S = 1.0
_JOIN_S = 15.0


@dataclass(slots=True)
class _Open:
    """A call without scores as yet."""

    request: AskRequest
    scores: "Future[tuple[Score, ...]]" = field(default_factory=Future)
    tries: int = 0


class AskingPool:
    """Starts the process at once; it loads in the background until `warm_up` or the first call."""

    def __init__(self, settings: RewardSettings, addresses: Addresses) -> None:
        self._settings = settings
        self._addresses: dict[str, Address] = dict(addresses)
        self._open: dict[int, _Open] = {}
        self._tickets = count(1)
        self._out: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._started, self._wanted, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._refusal: str | None = None
        self.sees_groups = False
        """Whether a term that asks sees all answers to a prompt together; known after `warm_up`."""
        self.pid: int | None = None
        self._wanted.set()
        self._thread = threading.Thread(target=self._keep, name="ask", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Wait until the process has loaded its terms. Raises: RewardSetupError."""
        if not self._started.wait(self._settings.start_timeout_s + _LAST_WORDS_S):
            allowed = f"{self._settings.start_timeout_s:g} s"
            raise RewardSetupError(f"reward.start_timeout_s: terms not loaded after {allowed}; raise it")
        if self._refusal is not None:
            raise RewardSetupError(self._refusal)

    def score(self, sees: Literal["response", "group"], given: GroupRequest, patience_s: float) -> list[Score]:
        """The scores with the terms that ask in them.

        Args:
            patience_s: when to give up, though everything within has a deadline.
        """
        call = _Open(AskRequest(next(self._tickets), sees, given))
        with self._lock:
            self._open[call.request.ticket] = call
            self._send(packed(call.request))
        self._wanted.set()
        try:
            if self._closed.is_set():  # nobody may be left to answer
                return self._without(given, "closed", "the reward pool was closed")
            return list(call.scores.result(patience_s))
        except TimeoutError:
            return self._without(given, "timeout", f"no verdicts within {patience_s:g} s")
        finally:
            with self._lock:
                self._open.pop(call.request.ticket, None)

    def readdress(self, addresses: Addresses) -> None:
        """These models are to be found there from now on."""
        with self._lock:
            self._addresses.update(addresses)
            self._send(packed(dict(addresses)))

    def close(self) -> None:
        """Kill the process. Calls under way get the fallback. Safe to call twice."""
        self._closed.set()
        self._wanted.set()
        self._kill()
        self._thread.join(_JOIN_S)

    def _send(self, message: bytes) -> None:
        """To the process, if one is there: whoever starts the next one sends it everything that is open."""
        if self._out is not None:
            try:
                self._out.send(message, _SEND_S)
            except ChannelClosedError:
                return  # the thread that listens finds out, and starts another
            except TimeoutError:
                self._signal()  # half a message is there, so that no other can follow

    def _kill(self) -> None:
        with self._lock:
            self._signal()

    def _signal(self) -> None:
        """Under the lock, so that nobody has reaped it."""
        if self._process is not None:
            signal_group(self._process)

    def _keep(self) -> None:
        """One process after another, as long as anybody asks."""
        while not self._closed.is_set():
            if not self._wanted.wait(_LOOK_S):
                continue
            self._wanted.clear()
            kind, reason = self._one_life()
            again = self._given_up(kind, reason)
            if again:
                self._wanted.set()
        self._given_up("closed", "the reward pool was closed", at_once=True)

    def _one_life(self) -> tuple[FailureKind, str]:
        """Start a process and listen to it to its end. Returns: how it ended."""
        try:
            process, control = launched("rewards.asking_child")
        except OSError as error:
            return "start", self._refused(f"reward: cannot start the process that asks models: {error}")
        with self._lock:
            self._process = process
        channel = Channel(control)
        failure: tuple[FailureKind, str] = ("died", "")
        try:
            channel.send(self._settings.model_dump_json().encode(), self._settings.start_timeout_s)
            reply = channel.receive_reply(self._settings.start_timeout_s)
            if reply.kind != "ready":
                return "start", self._refused(reply.reason or f"reward: unexpected {reply.kind}")
            with self._lock:
                self.pid, self.sees_groups = process.pid, reply.groups
                self._out = Channel(control.dup())
                self._send(packed(self._addresses))
                for call in self._open.values():
                    self._send(packed(call.request))
            self._started.set()
            self._listen(channel)
        except TimeoutError:
            failure = "timeout", f"the process that asks models was silent for {SILENT_S:g} s"
            if not self._started.is_set():
                return "start", self._refused("reward.start_timeout_s: terms not loaded in time; raise it")
        except ChannelClosedError:
            pass  # it is gone: how, its exit code says
        finally:
            with self._lock:
                out, self._out, self.pid, self._process = self._out, None, None, None
            if out is not None:
                out.close()
            ended = end(process, 0.0 if self._closed.is_set() or failure[0] == "timeout" else _LAST_WORDS_S)
            channel.close()
        if not self._started.is_set():
            return "start", self._refused(f"reward: the process that asks models {ended} while it loaded its terms")
        return failure if failure[1] else ("died", f"the process that asks models {ended}")

    def _listen(self, channel: Channel) -> None:
        """Raises: TimeoutError after a silence; ChannelClosedError."""
        while not self._closed.is_set():
            reply = channel.receive_reply(SILENT_S)
            with self._lock:
                call = self._open.pop(reply.ticket, None)
            if call is not None and reply.kind == "scores":
                call.scores.set_result(reply.scores)

    def _given_up(self, kind: FailureKind, reason: str, *, at_once: bool = False) -> bool:
        """Calls that were under way too often get the fallback. Returns: whether any are left."""
        with self._lock:
            for call in self._open.values():
                call.tries += 1
            over = [call for call in self._open.values() if at_once or kind == "start" or call.tries >= TRIES]
            for call in over:
                del self._open[call.request.ticket]
        for call in over:
            call.scores.set_result(tuple(self._without(call.request.given, kind, reason)))
        with self._lock:
            return bool(self._open)

    def _refused(self, reason: str) -> str:
        self._refusal = self._refusal or reason
        self._started.set()
        return reason

    def _without(self, given: GroupRequest, kind: FailureKind, reason: str) -> list[Score]:
        return given_up(given.scores, self._settings.fallback, reason, Failure(kind))
