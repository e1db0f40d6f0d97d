"""Which weights adapters stand on: checkpoints hold the adapters alone, and mean nothing over another base.

The base's fingerprint lies in a checkpoint as one more tensor, so that it comes back with the rest.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from learners.errors import CheckpointError
from learners.weights import checksum


class BaseWeights:
    """Args:
    base: the weights below the adapters, in full: the same on all ranks.
    """

    def __init__(self, base: Mapping[str, Tensor]) -> None:
        self._own = _fingerprint(base)
        self._held = torch.tensor(self._own, dtype=torch.int64)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: a live tensor, to be saved or filled in place."""
        return {"base.fingerprint": self._held}

    def check(self, source: object) -> None:
        """What was filled in is this base's fingerprint.

        Args:
            source: the checkpoint it came from.

        Raises:
            CheckpointError: the adapters were trained over another model.
        """
        found = int(self._held)
        self._held.fill_(self._own)
        if found != self._own:
            raise CheckpointError(
                f"the adapters in {source} were trained over another base (fingerprint {_hex(found)}) than model is "
                f"now ({_hex(self._own)}): give the model that the run began with"
            )


def _fingerprint(base: Mapping[str, Tensor]) -> int:
    """63 bits of names, shapes and bytes."""
    parts = sorted(f"{name} {tuple(tensor.shape)} {checksum(tensor)}" for name, tensor in base.items())
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:8], "big") >> 1


def _hex(fingerprint: int) -> str:
    return f"{fingerprint:016x}"
