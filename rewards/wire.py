"""What a pool and its children say to each other, over a stream socket in length-prefixed messages.

A response goes down pickled: its maker is this program, and a task's item may hold tuples that JSON would lose. A
reply comes up as JSON, validated: the child has read what a model wrote, so nothing of its making is unpickled.
"""

import pickle
import socket
import struct
import time
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from rewards.response import Response, Score

_LENGTH = struct.Struct("!I")
_LONGEST_REPLY = 1 << 20
_LONGEST_REQUEST = 1 << 30


class ChannelClosedError(ConnectionError):
    """The other side is gone, or what it sent is no message."""


@dataclass(frozen=True, slots=True)
class Reply:
    """From child to pool.

    Attributes:
        kind: `ready` once after the start, or `refused` with a reason; then for each response `score`, or
            `out_of_memory`, after which the child leaves.
    """

    kind: Literal["ready", "refused", "score", "out_of_memory"]
    score: Score | None = None
    reason: str = ""


_REPLY = TypeAdapter(Reply)


class Channel:
    """One end of the socket. A timeout of None waits for as long as the other side lives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, payload: bytes, timeout_s: float | None = None) -> None:
        """Raises: TimeoutError; ChannelClosedError."""
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(_LENGTH.pack(len(payload)) + payload)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError(str(error)) from error

    def receive(self, timeout_s: float | None = None, longest: int = _LONGEST_REQUEST) -> bytes:
        """One message. Raises: TimeoutError; ChannelClosedError, also for one of more than `longest` bytes."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, until))
        if length > longest:
            raise ChannelClosedError(f"a message of {length} bytes")
        return self._exactly(length, until)

    def send_response(self, response: Response, timeout_s: float) -> None:
        self.send(pickle.dumps(response, protocol=pickle.HIGHEST_PROTOCOL), timeout_s)

    def receive_response(self) -> Response:
        response: Response = pickle.loads(self.receive())
        return response

    def send_reply(self, reply: Reply) -> None:
        self.send(_REPLY.dump_json(reply))

    def receive_reply(self, timeout_s: float) -> Reply:
        """Raises: TimeoutError; ChannelClosedError."""
        payload = self.receive(timeout_s, _LONGEST_REPLY)
        try:
            return _REPLY.validate_json(payload)
        except ValueError as error:
            raise ChannelClosedError("a reply that is none") from error

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
