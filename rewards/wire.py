"""What a pool and its children say to each other, over a stream socket in length-prefixed messages.

A request is answered by one reply or, where it is for several responses, by several, each with the scores of the next
ones: what is quickly scored travels together, and nothing waits for what is not. The next request may lie in the socket
already, so that the child does not wait for its pool. A request goes down pickled: its maker
is this program, and a task's item may hold tuples that JSON would lose. A reply comes up as JSON, validated: the child
has read what a model wrote, so nothing of its making is unpickled.
"""

import pickle
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from rewards.models.address import Addresses
from rewards.response import Response, Score

LENGTH = struct.Struct("!I")
"""What stands before each message."""
_LONGEST_REPLY = 1 << 24
_LONGEST_REQUEST = 1 << 30


class ChannelClosedError(ConnectionError):
    """The other side is gone, or what it sent is no message."""


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """The second pass over one prompt's answers: see `rewards.compose.Reward.score_group`."""

    responses: tuple[Response, ...]
    scores: tuple[Score, ...]
    history: Mapping[str, float]
    shared: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Responses that know nothing of each other.

    Attributes:
        first: place of the first of them among all that the pool hands to the child in one go.
    """

    first: int
    responses: tuple[Response, ...]


Request = ScoreRequest | GroupRequest


@dataclass(frozen=True, slots=True)
class AskRequest:
    """The terms that ask models, of one prompt's answers; any number are under way at a time.

    Attributes:
        ticket: comes back with the scores.
        sees: whether those terms that see one response are wanted, or those that see the group.
    """

    ticket: int
    sees: Literal["response", "group"]
    given: GroupRequest


@dataclass(frozen=True, slots=True)
class Reply:
    """From child to pool.

    Attributes:
        kind: on the control socket `ready` once after the start, or `refused` with a reason, and `ended` with how at
            the end of each life (`rewards.lives`); on a life's own socket `scores` for each request, or
            `out_of_memory`, after which it leaves.
        scores: of the next ones of the responses, one or several, or of all of a group's.
        groups: with `ready`: a term sees all answers to a prompt together, so there is a second pass.
        ticket: of the `AskRequest` that this answers. Who asks models sends `alive` in between.
    """

    kind: Literal["ready", "refused", "ended", "scores", "out_of_memory", "alive"]
    scores: tuple[Score, ...] = ()
    reason: str = ""
    groups: bool = False
    ticket: int = 0


_REPLY = TypeAdapter(Reply)


def packed(request: Request | AskRequest | Addresses) -> bytes:
    """For `Channel.send`."""
    return pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)


def as_bytes(reply: Reply) -> bytes:
    return _REPLY.dump_json(reply)


class Channel:
    """One end of the socket. A timeout of None waits for as long as the other side lives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, payload: bytes, timeout_s: float | None = None) -> None:
        """Raises: TimeoutError; ChannelClosedError."""
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(LENGTH.pack(len(payload)) + payload)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError(str(error)) from error

    def receive(self, timeout_s: float | None = None, longest: int = _LONGEST_REQUEST) -> bytes:
        """One message. Raises: TimeoutError; ChannelClosedError, also for one of more than `longest` bytes."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size, until))
        if length > longest:
            raise ChannelClosedError(f"a message of {length} bytes")
        return self._exactly(length, until)

    def receive_request(self) -> Request:
        request: Request = pickle.loads(self.receive())
        return request

    def send_reply(self, reply: Reply) -> None:
        self.send(as_bytes(reply))

    def receive_reply(self, timeout_s: float) -> Reply:
        """Raises: TimeoutError; ChannelClosedError."""
        payload = self.receive(timeout_s, _LONGEST_REPLY)
        try:
            return _REPLY.validate_json(payload)
        except ValueError as error:
            raise ChannelClosedError("a reply that is none") from error

    @property
    def other_side_is_gone(self) -> bool:
        """Whether there is nothing left to read and never will be."""
        self._socket.settimeout(0)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int, until: float | None) -> bytes:
        received = bytearray()
        while len(received) < size:
            # A timeout of zero would mean "do not wait" and raise another error than TimeoutError.
            self._socket.settimeout(None if until is None else max(until - time.monotonic(), 1e-6))
            try:
                part = self._socket.recv(min(size - len(received), 1 << 20))
            except ConnectionResetError as error:
                raise ChannelClosedError(str(error)) from error
            if not part:
                raise ChannelClosedError("end of stream")
            received += part
        return bytes(received)
