"""A gloo process group of its own, apart from `torch.distributed`'s global default group.

A process may be a rank of a learner group and the sender of several weight channels at once; only groups that
nobody else knows keep their collectives apart.
"""

from datetime import timedelta

from torch.distributed import PrefixStore, ProcessGroupGloo

from actors.weight_rendezvous import Rendezvous, WeightTransferError
from learners.errors import first_line
from learners.own_address import own_address


def join_gloo_group(rendezvous: Rendezvous, rank: int) -> ProcessGroupGloo:
    """Meet the other ranks of the channel; blocks until all are there.

    Raises:
        WeightTransferError: they were not within the channel's timeout.
    """
    address = rendezvous.address
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname=own_address(address.host, address.port))]
    options._timeout = timedelta(seconds=address.timeout_s)
    try:
        return ProcessGroupGloo(PrefixStore("gloo", rendezvous.store), rank, address.world_size, options)
    except RuntimeError as error:
        raise WeightTransferError(f"gloo: not all {address.world_size} ranks joined ({first_line(error)})") from error
