"""How much memory operators hold, without computing anything: the real code run on tensors that have no data.

`torch.distributed._tools.MemTracker` does the same for whole models and says what a tensor is for; here one number is
wanted, of code that is no module, so this is all of it.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True)
class PassMemory:
    """Bytes that a forward and a backward pass make, beside their inputs.

    Attributes:
        forward: the most during the forward pass.
        saved: left when it is done, its output included: what the backward pass will read.
        backward: the most during the backward pass, the gradient of the output and what is still saved included.
        left: at the end: gradients of parameters and of the input.
    """

    forward: int
    saved: int
    backward: int
    left: int


class LiveMemory(TorchDispatchMode):
    """Inside, `bytes` are those of all living storages that operators have made here, `peak` the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def forget_peak(self) -> None:
        self.peak = self.bytes

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        for tensor in tree_leaves((args, given)):
            if isinstance(tensor, Tensor):
                self._note(tensor, counts=False)
        result = func(*args, **given)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor, counts=True)
        return result

    def _note(self, tensor: Tensor, *, counts: bool) -> None:
        """Know a storage from now on; one that is first seen as an input was there before and does not count."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counts else 0
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def memory_of(run: Callable[[], Tensor]) -> PassMemory:
    """Of a forward pass and its backward pass, whose upstream gradient counts."""
    live = LiveMemory()
    with live:
        output = run()
        forward, saved = live.peak, live.bytes
        live.forget_peak()
        output.backward(torch.ones_like(output))
        del output
    return PassMemory(forward, saved, live.peak, live.bytes)
