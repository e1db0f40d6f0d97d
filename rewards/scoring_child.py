"""A pool's handle on one child process: started, asked, killed and started again.

Invariants: `score` always returns, within the deadlines of the settings; a child that did not answer in time is dead
before it does; a dead child's successor is loading by then. One thread at a time asks; any thread may `retire`.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

from rewards.compose import RewardSetupError
from rewards.response import Response, Score
from rewards.settings import RewardSettings
from rewards.wire import Channel, ChannelClosedError

_REAP_TIMEOUT_S = 10.0
"""A killed process is gone in milliseconds, unless the machine swaps."""
_LAST_WORDS_S = 1.0
"""A process that closed its channel is on its way out; waiting for it tells its exit code from our kill."""


class RetiredError(Exception):
    """The child was retired: its pool is closed."""


class ScoringChild:
    """One scoring process and its successors. Nothing is started before `start` or the first use."""

    def __init__(self, settings: RewardSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._ready = False
        self._retired = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id, None between two lives."""
        return self._process.pid if self._process else None

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
        """Start where needed, and wait until the terms are loaded.

        Raises: RewardSetupError where the child refuses, dies or takes longer than `start_timeout_s`.
        """
        if self._ready and self._process is not None and not _has_ended(self._process):
            return
        if self._ready:
            self.kill()  # it died between two samples, which is not the next one's fault
        try:
            self.start()
            assert self._channel is not None
            reply = self._channel.receive_reply(self._settings.start_timeout_s)
        except TimeoutError:
            self.kill()
            allowed = f"{self._settings.start_timeout_s:g} s"
            raise RewardSetupError(f"reward.start_timeout_s: terms not loaded after {allowed}; raise it") from None
        except ChannelClosedError:
            end = self.kill(_LAST_WORDS_S)
            raise RewardSetupError(f"reward: the scoring process {end} while it loaded its terms") from None
        except OSError as error:
            raise RewardSetupError(f"reward: cannot start a scoring process: {error}") from error
        if reply.kind != "ready":
            self.kill()
            raise RewardSetupError(reply.reason or f"reward: unexpected {reply.kind}")
        self._ready = True

    def score(self, response: Response) -> Score:
        """The child's verdict, or the fallback with the reason where it has none."""
        started = time.perf_counter()
        verdict: Score | str
        try:
            self.wait_ready()
            started = time.perf_counter()
            verdict = self._ask(response)
        except (RewardSetupError, RetiredError) as error:
            verdict = str(error)
        if isinstance(verdict, Score):
            return verdict
        seconds = time.perf_counter() - started
        self._replace()
        return Score(self._settings.fallback, {}, verdict, seconds)

    def kill(self, grace_s: float = 0.0) -> str:
        """End the process and whatever it started, after a time in which it may end by itself.

        Returns: how it ended, in words.
        """
        with self._lock:
            process, channel = self._process, self._channel
            self._process = self._channel = None
            self._ready = False
        if process is None or channel is None:
            return "was stopped"
        channel.close()
        return _end(process, grace_s)

    def retire(self) -> None:
        """Kill, for good; a `score` in progress in another thread gets its fallback."""
        with self._lock:
            self._retired = True
            if self._process is not None:
                _signal_group(self._process)  # under the lock, so that nobody has reaped it

    def _ask(self, response: Response) -> Score | str:
        assert self._channel is not None
        deadline_s = self._settings.deadline_s
        until = time.monotonic() + deadline_s
        try:
            self._channel.send_response(response, deadline_s)
            reply = self._channel.receive_reply(max(until - time.monotonic(), 0.0))
        except TimeoutError:
            return f"no verdict within reward.deadline_s={deadline_s:g}"
        except ChannelClosedError:
            return f"the scoring process {self.kill(_LAST_WORDS_S)}"
        if reply.kind == "score" and reply.score is not None:
            return reply.score
        return f"out of memory at reward.memory_mb={self._settings.memory_mb}"

    def _replace(self) -> None:
        self.kill()
        try:
            self.start()
        except (OSError, RetiredError):
            return  # the next sample tries again, and reports it

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rewards.child", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                # A group of its own: Ctrl-C in the terminal is the parent's affair, and a kill takes grandchildren.
                start_new_session=True,
            )
        self._channel.send(self._settings.model_dump_json().encode(), self._settings.start_timeout_s)


def _environment() -> dict[str, str]:
    """The parent's, with its import path: the child finds the packages and the user's modules that the parent does."""
    path = [entry or os.getcwd() for entry in sys.path]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1")
    return {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join([*path, os.getcwd()]), "PYTHONHASHSEED": "0"}


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Looks without reaping: until it is reaped, the process keeps its pid, and that names its group."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True  # a parent that ignores SIGCHLD has its children reaped by the kernel


def _end(process: subprocess.Popen[bytes], grace_s: float) -> str:
    until = time.monotonic() + grace_s
    while not _has_ended(process) and time.monotonic() < until:
        time.sleep(0.002)
    _signal_group(process)
    try:
        code = process.wait(_REAP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "does not die"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _signal_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the child and whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
