"""The receiving side of a gloo weight channel: used by the torch engine and inside vLLM's workers.

Invariants: `receive` gives all tensors or raises; nothing has been loaded when it raises, so the engine still serves
its old weights. It ends within the channel's timeout, whatever becomes of the sender.
"""

import time

import torch

from actors.engine import ChannelAddress
from actors.gloo_group import join_gloo_group
from actors.weight_broadcast import broadcast
from actors.weight_rendezvous import Rendezvous, WeightTransferError
from actors.weight_wire import plan_buffers, unpack
from learners.errors import first_line
from learners.weights import WeightManifest


class GlooReceiver:
    """One worker's end of the channel; blocks on construction until the sender is there. Ranks count from 1."""

    def __init__(self, address: ChannelAddress, rank: int = 1) -> None:
        self._rank = rank
        self._rendezvous = Rendezvous.join(address)
        self._group = join_gloo_group(self._rendezvous, rank)

    def receive(self, manifest: WeightManifest) -> list[tuple[str, torch.Tensor]]:
        """The tensors of this manifest, on the CPU, in its order.

        Raises:
            WeightTransferError: the sender announced another manifest, or died, or the channel's timeout passed.
        """
        deadline = time.monotonic() + self._rendezvous.address.timeout_s
        self._rendezvous.expect(manifest, self._rank)
        received: list[tuple[str, torch.Tensor]] = []
        for buffer in plan_buffers(manifest):
            packed = torch.empty(buffer.nbytes, dtype=torch.uint8)
            try:
                broadcast(self._group, packed, deadline)
            except RuntimeError as error:
                raise WeightTransferError(f"gloo: the sender stopped ({first_line(error)})") from error
            received += unpack(buffer, packed)
        self._rendezvous.confirm(self._rank)
        return received
