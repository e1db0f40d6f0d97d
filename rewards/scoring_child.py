"""A pool's handle on one child process: started, asked, killed and born again.

The process that is started loads the terms and has its forks answer (`rewards.lives`): what is killed and born again is
such a life, within milliseconds. Where it does not fork, the whole process is.

Invariants: `score` and `score_group` always return, within the deadlines of the settings; a life that did not answer in
time is dead before they do, and its successor is on its way. One thread at a time asks; any thread may `retire`.
"""

import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rewards.child_process import cpu_clock, end, launched, signal_group
from rewards.entries import RewardSetupError, given_up
from rewards.lives import PID
from rewards.priority import come_back, step_back
from rewards.response import Failure, FailureKind, Response, Score
from rewards.settings import RewardSettings
from rewards.term_mark import AtWork, clear_mark, new_mark, read_mark
from rewards.wire import Channel, ChannelClosedError, GroupRequest, Reply, ScoreRequest, packed

_SOON_S = 0.25
"""Of a core: an answer is scored with so much, or its life steps back behind the others; those that hang burn a core
each. Time spent in waiting for a core does not count, so that a busy machine makes nobody step back."""
_FIRST_S = 0.5
"""The same for a life's first answer: what it touches of the libraries is copied to it page by page."""
_LOOK_EVERY_S = 0.05
_LAST_WORDS_S = 1.0
"""A process that closed its socket is on its way out, or on the way to end its life: waiting for it tells its exit code
from our kill, and leaves no grandchild behind."""
_TOGETHER = 64
"""Responses of one message: many, so that handing them over costs little beside scoring them."""
_AHEAD_BYTES = 1 << 16
"""A message up to this size fits into the socket: it is sent while the child still scores what came before."""
_LATE_S = 10.0
"""For a loaded process to fork, or to kill and reap a fork, on a busy machine."""


class RetiredError(Exception):
    """The child was retired: its pool is closed."""


class _OutOfMemoryError(Exception):
    """The child said so, and left."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """The response of a request whose scoring failed, and why; `seconds` were spent on it."""

    place: int
    failure: Failure
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Message:
    """A request as it is sent, and how many scores answer it."""

    payload: bytes
    scores: int


class ScoringChild:
    """One scoring process and its lives. Nothing is started before `start` or the first use."""

    def __init__(self, settings: RewardSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._life: tuple[int, Channel] | None = None
        """Pid of the life that answers, and the channel to it."""
        self._mark = new_mark()
        self._loaded = False
        self._has_answered = False
        self._stepped_back = False
        self._retired = False
        self._lock = threading.Lock()
        self.sees_groups = False
        """Whether a term sees all answers to a prompt together; known once the child is ready."""

    @property
    def pid(self) -> int | None:
        """Process id of the life that answers, None between two."""
        return self._life[0] if self._life else None

    def start(self) -> None:
        """Launch the process where none runs; it loads in the background.

        Its parent, as far as the kernel is concerned, is the calling thread: it dies when that thread ends.

        Raises: OSError where the system starts no process; RetiredError after `retire`.
        """
        with self._lock:
            if self._retired:
                raise RetiredError("the reward pool is closed")
            if self._process is None:
                self._launch()

    def wait_ready(self) -> None:
        """Start where needed, and wait until a life that has loaded the terms answers.

        Raises: RewardSetupError where the child refuses, dies or takes longer than `start_timeout_s`.
        """
        if self._life is not None and not self._stepped_back and not self._life[1].other_side_is_gone:
            return
        if self._life is not None:
            self._end_life()  # it died between two samples, which is not the next one's fault, or has become slow
        try:
            self.start()
            self._wait_loaded()
            self._wait_born()
        except TimeoutError:
            self.kill()
            allowed = f"{self._settings.start_timeout_s:g} s"
            raise RewardSetupError(f"reward.start_timeout_s: terms not loaded after {allowed}; raise it") from None
        except ChannelClosedError:
            end = self.kill(_LAST_WORDS_S)
            raise RewardSetupError(f"reward: the scoring process {end} while it loaded its terms") from None
        except OSError as error:
            self.kill()
            raise RewardSetupError(f"reward: cannot start a scoring process: {error}") from error

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """The child's verdicts, or the fallback with the reason where it has none; each within its own deadline."""
        scores: dict[int, Score] = {}
        while open_places := [place for place in range(len(responses)) if place not in scores]:
            found, failed = self._asked(_messages([responses[place] for place in open_places]))
            scores.update(zip(open_places, found, strict=False))
            if failed is not None:
                # Others of the request may be scored and not sent: they are asked for again.
                culprit = max(len(found), min(failed.place, len(open_places) - 1))
                scores[open_places[culprit]] = Score(
                    self._settings.fallback, {}, failed.reason, failed.seconds, failure=failed.failure
                )
        return [scores[place] for place in range(len(responses))]

    def score_group(self, request: GroupRequest) -> list[Score]:
        """The second pass. Where it fails, each answer that had a verdict gets the fallback and keeps its terms."""
        found, failed = self._asked(iter([_Message(packed(request), len(request.responses))]))
        if failed is None:
            return found
        return given_up(request.scores, self._settings.fallback, failed.reason, failed.failure)

    def _asked(self, messages: Iterator[_Message]) -> tuple[list[Score], _Failed | None]:
        """The scores that came, in order, and what failed. Where nothing did, the rest was left to another life: this
        one was too slow to be kept."""
        started = time.perf_counter()
        scores: list[Score] = []
        failure: tuple[FailureKind, str]
        try:
            self.wait_ready()
            started = time.perf_counter()
            for some in self._replies(messages):
                scores += some
                started = time.perf_counter()
            return scores, None
        except RewardSetupError as error:
            failure = "start", str(error)
        except RetiredError as error:
            failure = "closed", str(error)
        except TimeoutError:
            failure = "timeout", f"no verdict within reward.deadline_s={self._settings.deadline_s:g}"
        except ChannelClosedError:
            ended = self._end_life()
            failure = ("closed" if self._retired else "died"), f"the scoring process {ended}"
        except _OutOfMemoryError:
            failure = "memory", f"out of memory at reward.memory_mb={self._settings.memory_mb}"
        kind, reason = failure
        seconds = time.perf_counter() - started
        at_work = AtWork(0, None) if kind in ("start", "closed") else read_mark(self._mark)
        term = "" if at_work.term is None else self._settings.terms[at_work.term].logged_as
        self._replace()
        reason = f"{term}: {reason}" if term else reason
        return scores, _Failed(at_work.response, Failure(kind, term), reason, seconds)

    def kill(self, grace_s: float = 0.0) -> str:
        """End the process, its life and whatever that started, after a time in which it may end by itself.

        Returns: how it ended, in words.
        """
        with self._lock:
            process, control, life = self._process, self._control, self._life
            self._process = self._control = self._life = None
            self._loaded = False
        if process is None or control is None:
            return "was stopped"
        if life is not None:
            life[1].close()
        control.close()  # for which it kills its life, and leaves
        return end(process, grace_s if life is None else max(grace_s, _LAST_WORDS_S))

    def retire(self) -> None:
        """Kill, for good; a `score` in progress in another thread gets its fallback."""
        with self._lock:
            self._retired = True
            if self._control is not None:
                with suppress(OSError):  # it is gone already
                    self._control.shutdown(socket.SHUT_RDWR)
            lives_itself = self._life is not None and self._process is not None and self._life[0] == self._process.pid
            if self._process is not None and (lives_itself or not self._loaded):
                signal_group(self._process)  # under the lock, so that nobody has reaped it

    def _replies(self, messages: Iterator[_Message]) -> Iterator[tuple[Score, ...]]:
        """The child's verdicts in order: all, or up to one that came so late that the life is not kept.

        A reply says that the next response has only just begun: its deadline counts from there.

        Raises: TimeoutError, ChannelClosedError, _OutOfMemoryError.
        """
        assert self._life is not None
        channel, deadline_s = self._life[1], self._settings.deadline_s
        clear_mark(self._mark)
        unsent, owed = next(messages, None), deque[int]()
        while unsent is not None or owed:
            while unsent is not None and (not owed or (len(owed) == 1 and len(unsent.payload) <= _AHEAD_BYTES)):
                channel.send(unsent.payload, deadline_s)
                owed.append(unsent.scores)
                unsent = next(messages, None)
            reply = self._awaited(channel, deadline_s)
            if reply.kind == "out_of_memory":
                raise _OutOfMemoryError
            if not reply.scores:
                raise ChannelClosedError("a reply that is none")
            yield reply.scores
            owed[0] -= len(reply.scores)
            if owed[0] <= 0:
                owed.popleft()
            if self._stepped_back:
                return

    def _awaited(self, channel: Channel, deadline_s: float) -> Reply:
        """The next reply; a life that needs much of a core for it steps back until then.

        Raises: TimeoutError, ChannelClosedError.
        """
        until, burnt = time.monotonic() + deadline_s, self._core_seconds()
        soon = _SOON_S if self._has_answered else _FIRST_S
        while True:
            try:
                reply = channel.receive_reply(min(_LOOK_EVERY_S, max(until - time.monotonic(), 0.0)))
            except TimeoutError:
                if time.monotonic() >= until:
                    raise
                if not self._stepped_back and self._core_seconds() - burnt >= soon:
                    self._step_back()
            else:
                self._has_answered = True
                if self._stepped_back and self._life is not None:
                    self._stepped_back = not come_back(self._life[0])
                return reply

    def _core_seconds(self) -> float:
        """Of the life that answers, since it was born; 0 where the system does not tell, or it has ended."""
        with suppress(OSError):
            return 0.0 if self._life is None else time.clock_gettime(cpu_clock(self._life[0]))
        return 0.0

    def _step_back(self) -> None:
        """The life that has not answered soon gets what the others leave of the cores: it may never answer."""
        if self._life is not None and self._process is not None and self._life[0] != self._process.pid:
            self._stepped_back = step_back(self._life[0])

    def _replace(self) -> None:
        """The life that failed is ended; the next one is on its way, or else the process is started anew."""
        self._end_life()
        try:
            self.start()
        except (OSError, RetiredError):
            return  # the next sample tries again, and reports it

    def _end_life(self) -> str:
        """End the life that answers, and whatever it started. Returns: how it ended, in words."""
        with self._lock:
            process, control, life = self._process, self._control, self._life
        if life is None or control is None or process is None:
            return "was stopped"
        pid, channel = life
        if pid == process.pid:
            return self.kill(_LAST_WORDS_S)
        channel.close()
        try:
            control.settimeout(_LATE_S)
            control.sendall(PID.pack(pid))
            reply = Channel(control).receive_reply(_LATE_S)
        except (OSError, ChannelClosedError):
            return self.kill(_LAST_WORDS_S)
        with self._lock:
            self._life = None
        return reply.reason

    def _wait_loaded(self) -> None:
        """Raises: RewardSetupError; TimeoutError; ChannelClosedError."""
        assert self._control is not None
        if self._loaded:
            return
        reply = Channel(self._control).receive_reply(self._settings.start_timeout_s)
        if reply.kind != "ready":
            self.kill()
            raise RewardSetupError(reply.reason or f"reward: unexpected {reply.kind}")
        self._loaded, self.sees_groups = True, reply.groups

    def _wait_born(self) -> None:
        """Raises: OSError, TimeoutError among them; ChannelClosedError."""
        assert self._control is not None
        self._control.settimeout(_LATE_S)
        named, sockets, _, _ = socket.recv_fds(self._control, PID.size, 1)
        if len(named) != PID.size or len(sockets) != 1:
            raise ChannelClosedError("end of stream")
        (pid,) = PID.unpack(named)
        with self._lock:
            self._life = pid, Channel(socket.socket(fileno=sockets[0]))
            self._has_answered = self._stepped_back = False

    def _launch(self) -> None:
        self._process, self._control = launched("rewards.child", self._mark.fileno())
        Channel(self._control).send(self._settings.model_dump_json().encode(), self._settings.start_timeout_s)


def _messages(responses: Sequence[Response]) -> Iterator[_Message]:
    """Packed as they are asked for: the child scores meanwhile."""
    for first in range(0, len(responses), _TOGETHER):
        part = tuple(responses[first : first + _TOGETHER])
        yield _Message(packed(ScoreRequest(first, part)), len(part))
