"""The sending side of a weight channel: one channel per engine, so that a slow engine never stalls another.

The life of a channel: `listen` serves a store and yields the address; the engine's workers join it while the sender
runs `connect`; then each `send` matches one `receive` on every worker.

Invariants:
- `send` returns once every worker holds all bytes, and raises when one did not: each of its three waits (for the
  workers to be ready, for the bytes to leave, for the workers to confirm) ends within the channel's timeout;
- the tensors are read only; the caller keeps them unchanged while `send` runs;
- a channel whose `send` or `connect` raised is dead: close it and listen anew.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch.distributed import ProcessGroupGloo

from actors.engine import ChannelAddress
from actors.gloo_group import join_gloo_group
from actors.weight_broadcast import broadcast
from actors.weight_rendezvous import Rendezvous, WeightTransferError
from actors.weight_wire import check_tensor, pack, plan_buffers
from learners.errors import first_line
from learners.weights import WeightManifest

NCCL_ID_KEY = "nccl_unique_id"
"""Where the sender leaves NCCL's rendezvous token in the channel's store, in hexadecimal."""


class WeightSender(Protocol):
    """The sender's end of one channel."""

    @property
    def address(self) -> ChannelAddress:
        """Where the engine's workers join."""

    def connect(self) -> None:
        """Wait until all workers have joined.

        Raises:
            WeightTransferError: they did not within the channel's timeout.
        """

    def send(self, manifest: WeightManifest, tensors: Mapping[str, torch.Tensor]) -> None:
        """Send the manifest's tensors; returns when every worker holds them.

        Raises:
            ValueError: the tensors are not what the manifest says; nothing was sent.
            WeightTransferError: a worker died, expected other weights, or the timeout passed.
        """

    def close(self) -> None:
        """Leave the channel; idempotent."""


def listen(backend: str, *, workers: int, timeout_s: float, host: str = "127.0.0.1") -> WeightSender:
    """Open a channel that `workers` workers of one engine may join.

    Args:
        host: this machine's address as the engine's machine sees it.
        timeout_s: bound of every wait on this channel, seconds.
    """
    rendezvous = Rendezvous.serve(backend, host, workers, timeout_s)
    return GlooSender(rendezvous) if backend == "gloo" else NcclSender(rendezvous)


class GlooSender:
    """Sends from CPU memory over TCP, in a few packed buffers."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self._rendezvous: Rendezvous | None = rendezvous
        self._group: ProcessGroupGloo | None = None
        self.address = rendezvous.address

    def connect(self) -> None:
        self._group = join_gloo_group(_open(self._rendezvous), rank=0)

    def send(self, manifest: WeightManifest, tensors: Mapping[str, torch.Tensor]) -> None:
        rendezvous, group = _open(self._rendezvous), _open(self._group)
        for spec in manifest.tensors:
            check_tensor(spec, tensors.get(spec.name))
        rendezvous.announce(manifest)
        deadline = time.monotonic() + self.address.timeout_s
        try:
            for buffer in plan_buffers(manifest):
                broadcast(group, pack(buffer, tensors), deadline)
        except RuntimeError as error:
            raise WeightTransferError(f"gloo: a worker stopped ({first_line(error)})") from error
        rendezvous.await_confirmations()

    def close(self) -> None:
        self._group = None
        self._rendezvous = None


class NcclSender:
    """Sends from this process's current GPU through vLLM's packed broadcast; workers decode with its counterpart."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        self._rendezvous: Rendezvous | None = rendezvous
        self._group: _NcclGroup | None = None
        self.address = rendezvous.address

    def connect(self) -> None:
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        token = bytes(NCCLLibrary().ncclGetUniqueId().internal)
        _open(self._rendezvous).store.set(NCCL_ID_KEY, token.hex())
        device = torch.accelerator.current_device_index()

        def join() -> None:
            self._group = uid_init_process_group(token, 0, self.address.world_size, device)

        self._within_timeout("the engine's workers did not join", join, device)

    def send(self, manifest: WeightManifest, tensors: Mapping[str, torch.Tensor]) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        rendezvous, group = _open(self._rendezvous), _open(self._group)
        for spec in manifest.tensors:
            check_tensor(spec, tensors.get(spec.name))
        rendezvous.announce(manifest)

        def named() -> Iterator[tuple[str, torch.Tensor]]:
            for spec in manifest.tensors:
                yield spec.name, tensors[spec.name].detach()

        def broadcast() -> None:
            packed_nccl_broadcast_producer(named(), group, src=0, post_iter_func=lambda item: item[1].cuda())

        self._within_timeout("a worker stopped receiving", broadcast, torch.accelerator.current_device_index())
        rendezvous.await_confirmations()

    def close(self) -> None:
        group, self._group, self._rendezvous = self._group, None, None
        if group is not None:
            group.destroy()

    def _within_timeout(self, trouble: str, action: Callable[[], None], device: int) -> None:
        """Run what NCCL may block in for ever on a thread that is given up, with the channel, after the timeout."""
        failures: list[BaseException] = []

        def run() -> None:
            torch.accelerator.set_device_index(device)
            try:
                action()
            except (RuntimeError, ValueError) as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="nccl-sender", daemon=True)
        thread.start()
        thread.join(self.address.timeout_s)
        if thread.is_alive():
            self._group = None
            raise WeightTransferError(f"nccl: {trouble} within {self.address.timeout_s:g} s")
        if failures:
            raise WeightTransferError(f"nccl: {trouble} ({first_line(failures[0])})") from failures[0]


class _NcclGroup(Protocol):
    """What is used of vLLM's communicator."""

    def broadcast(self, tensor: torch.Tensor, src: int) -> None: ...

    def destroy(self) -> None: ...


_Part = TypeVar("_Part")


def _open(part: _Part | None) -> _Part:
    if part is None:
        raise WeightTransferError("this weight channel is closed or was never connected: listen and connect first")
    return part
