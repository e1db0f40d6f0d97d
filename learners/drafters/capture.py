"""Training windows from a forward pass that the learner makes anyway: nothing is computed for the drafter's sake.

Hooks on the target's modules copy the chosen rows of the chosen layers while the pass runs (`learners.policy.Policy`,
sharded by FSDP2 or not): detached, in the settings' dtype, on the CPU. Outside of `watch` no hook is there, so an
unwatched pass costs nothing.

Where several ranks share a row, each copies the chosen rows that it holds and all of them are gathered; the first rank
of the group alone keeps the windows.

Invariant, the caller's: within one `watch` the model makes one forward pass, over the row that was named. A second
one, as gradient checkpointing makes in the backward pass, is ignored.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from learners.drafters.errors import DrafterError
from learners.drafters.settings import CaptureSettings
from learners.drafters.target import FINAL
from learners.drafters.window_choice import Stretch, choose_stretches
from learners.drafters.windows import Window
from learners.packing import PackedSequences
from learners.sequence_parallel import SequenceGroup


class HiddenCapture:
    """Args:
        model: the target, inside its policy.
        layers: whose hidden states are wanted beside `FINAL`, which always comes: the target's distribution is
            computed from it.
        sequence_group: the ranks with which this one shares every row (`learners.sequence_parallel`).

    Raises:
        DrafterError: the model has no such layer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[int],
        settings: CaptureSettings,
        sequence_group: SequenceGroup | None = None,
    ) -> None:
        self._settings = settings
        self._sequence_group = sequence_group
        self._modules = {layer: _module(model, layer) for layer in sorted({*layers, FINAL})}
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        self._passes = 0

    @contextmanager
    def watch(self, packed: PackedSequences, sequence_ids: Sequence[str], version: int) -> Iterator[list[Window]]:
        """Run the target's forward pass over `packed` inside; the list is filled when the context ends without error,
        on the first of the ranks that share the row.

        Args:
            sequence_ids: of the row's sequences, in order.
            version: of the weights that the pass uses.

        Raises:
            ValueError: ids and sequences differ in number.
            RuntimeError: on leaving, where no forward pass was made.
        """
        lengths = packed.lengths
        if len(lengths) != len(sequence_ids):
            raise ValueError(f"{len(sequence_ids)} sequence ids for a row of {len(lengths)} sequences")
        rng = random.Random(f"{self._settings.seed}:{self._passes}")
        self._passes += 1
        stretches = choose_stretches(
            lengths,
            window_length=self._settings.window_length,
            token_budget=self._settings.tokens_per_pass,
            rng=rng,
        )
        windows: list[Window] = []
        if not stretches:
            yield windows
            return
        starts = packed.cu_seqlens[:-1].tolist()
        rows = torch.cat([torch.arange(part.length) + starts[part.sequence] + part.start for part in stretches])
        with self._hooks(self._reader(packed, rows)) as seen:
            yield windows
        if len(seen) < len(self._modules):
            raise RuntimeError("the capture saw no forward pass of the target: run it inside watch()")
        if self._sequence_group is None or self._sequence_group.rank == 0:
            windows.extend(_cut(packed, rows, seen, stretches, sequence_ids, version))

    def _reader(self, packed: PackedSequences, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """What takes these rows, ascending places in the row, from the states of the tokens that this rank holds."""
        if self._sequence_group is None:
            return lambda states: states.index_select(0, rows.to(states.device))
        shard = self._sequence_group.shard(packed)
        shares = shard.shares(rows)
        own = rows[shard.own(shares)] - shard.places.start
        return lambda states: shard.gather(states.index_select(0, own.to(states.device)), shares)

    @contextmanager
    def _hooks(self, read: Callable[[Tensor], Tensor]) -> Iterator[dict[int, Tensor]]:
        seen: dict[int, Tensor] = {}

        def keep(layer: int, output: object) -> None:
            if layer not in seen:
                seen[layer] = read(_states(output)[0].detach()).to("cpu", self._dtype)

        with ExitStack() as stack:
            for layer, module in self._modules.items():
                stack.callback(_hook(module, layer, keep).remove)
            yield seen


def _hook(module: nn.Module, layer: int, keep: Callable[[int, object], None]) -> RemovableHandle:
    return module.register_forward_hook(lambda _module, _inputs, output: keep(layer, output))


def _module(model: PreTrainedModel, layer: int) -> nn.Module:
    """The module whose output is the hidden state of this layer."""
    blocks = getattr(model.base_model, "layers", None)
    if layer == FINAL:
        return model.base_model
    if layer == 0:
        return model.get_input_embeddings()
    if not isinstance(blocks, nn.ModuleList) or not 0 < layer <= len(blocks):
        count = len(blocks) if isinstance(blocks, nn.ModuleList) else "no"
        raise DrafterError(f"hidden states of layer {layer} do not exist: the target has {count} blocks")
    return blocks[layer - 1]


def _states(output: object) -> Tensor:
    """[1, T, H] from what an embedding, a block or the whole base model gives."""
    if isinstance(output, Tensor):
        return output
    last = getattr(output, "last_hidden_state", None)
    if last is None and isinstance(output, tuple):
        last = output[0]
    assert isinstance(last, Tensor), "decoder blocks give a tensor, or a tuple that begins with one"
    return last


def _cut(
    packed: PackedSequences,
    rows: Tensor,
    seen: dict[int, Tensor],
    stretches: Sequence[Stretch],
    sequence_ids: Sequence[str],
    version: int,
) -> Iterator[Window]:
    sizes = [part.length for part in stretches]
    tokens = packed.input_ids.cpu()[rows].split(sizes)
    positions = packed.position_ids.cpu()[rows].split(sizes)
    hidden = {layer: states.split(sizes) for layer, states in seen.items()}
    lengths = packed.lengths
    for place, part in enumerate(stretches):
        yield Window(
            sequence_id=sequence_ids[part.sequence],
            # Copies: a view would keep the whole pass alive for one window.
            token_ids=tokens[place].clone(),
            positions=positions[place].clone(),
            hidden={layer: pieces[place].clone() for layer, pieces in hidden.items()},
            version=version,
            sequence_length=lengths[part.sequence],
        )
