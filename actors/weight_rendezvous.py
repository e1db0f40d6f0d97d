"""Where a sender and an engine's workers meet: a small key-value store that the sender serves.

The store carries no weights. It introduces the members of a channel to each other and announces each transfer. No
bytes move before every worker has agreed to the announcement: a disagreement is an error on both sides at once, and
never a collective that waits for ever.

Invariants:
- the sender serves the store before anyone is told its port, so the port cannot be taken by another process;
- transfers are numbered from 0 on both sides; a channel on which one failed is not used again;
- every wait ends within the channel's timeout.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeVar

from torch.distributed import DistError, Store, TCPStore

from actors.engine import ChannelAddress
from actors.weight_wire import describe
from learners.errors import first_line
from learners.weights import WeightManifest

_READY = "ready"
_RECEIVED = "received"
_YES = "yes"
_Value = TypeVar("_Value")


class WeightTransferError(RuntimeError):
    """Weights did not arrive. The engine still holds what it held; the channel must be opened anew."""


class Rendezvous:
    """One side's handle on the store of a channel."""

    def __init__(self, store: Store, address: ChannelAddress) -> None:
        self.store = store
        self.address = address
        self._transfers = 0

    @classmethod
    def serve(cls, backend: str, host: str, workers: int, timeout_s: float) -> "Rendezvous":
        """The sender's side: listen at `host` on a port that the operating system picks."""
        if backend not in ("gloo", "nccl"):
            raise ValueError(f"weights travel over gloo or nccl, not {backend!r}: set rollout.transfer to one of them")
        timeout = timedelta(seconds=timeout_s)
        store = TCPStore(host, 0, is_master=True, timeout=timeout, wait_for_workers=False)
        kind: Literal["gloo", "nccl"] = "nccl" if backend == "nccl" else "gloo"
        return cls(store, ChannelAddress(kind, host, store.port, workers + 1, timeout_s))

    @classmethod
    def join(cls, address: ChannelAddress) -> "Rendezvous":
        """A worker's side: connect to the sender's store."""

        def connect() -> TCPStore:
            timeout = timedelta(seconds=address.timeout_s)
            return TCPStore(address.host, address.port, is_master=False, timeout=timeout)

        return cls(_reaching(f"no sender at {address.host}:{address.port}", connect), address)

    def announce(self, manifest: WeightManifest) -> None:
        """Sender: say what comes next, and wait until every worker is ready for just that."""
        self._set("manifest", describe(manifest))
        self._await_all(_READY)

    def expect(self, manifest: WeightManifest, rank: int) -> None:
        """Worker: wait for the announcement, and answer whether it is this manifest."""
        announced = self._get("manifest")
        if announced != describe(manifest):
            refusal = f"expected {describe(manifest)}, but the sender announced {announced}"
            self._set(f"{_READY}/{rank}", refusal)
            raise WeightTransferError(refusal)
        self._set(f"{_READY}/{rank}", _YES)

    def confirm(self, rank: int) -> None:
        """Worker: all bytes are here."""
        self._set(f"{_RECEIVED}/{rank}", _YES)
        self._transfers += 1

    def await_confirmations(self) -> None:
        """Sender: wait until every worker holds all bytes."""
        self._await_all(_RECEIVED)
        self._transfers += 1

    def _await_all(self, stage: str) -> None:
        for rank in range(1, self.address.world_size):
            word = self._get(f"{stage}/{rank}")
            if word != _YES:
                raise WeightTransferError(f"worker {rank} refused the weights: {word}")

    def _set(self, name: str, value: str) -> None:
        key = f"transfer{self._transfers}/{name}"
        _reaching(f"weight channel {self._place}: could not tell {key}", lambda: self.store.set(key, value))

    def _get(self, name: str) -> str:
        key = f"transfer{self._transfers}/{name}"
        return _reaching(f"weight channel {self._place}: nobody told {key}", lambda: self.store.get(key)).decode()

    @property
    def _place(self) -> str:
        return f"{self.address.host}:{self.address.port}"


def _reaching(trouble: str, action: Callable[[], _Value]) -> _Value:
    try:
        return action()
    except DistError as error:
        raise WeightTransferError(f"{trouble} ({first_line(error)})") from error
