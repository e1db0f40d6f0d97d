"""Low-rank adapters on a policy's linear layers (LoRA, arXiv 2106.09685), through the `peft` library.

A layer with an adapter computes W x + s B A x, s = alpha / rank, and only A and B train. Everybody else shall see the
weights W + s B A under the names of the plain checkpoint: engines, exports and companions get `merged`, and the probe
that attests them is read with exactly those (`merged_in`).

Invariants: W keeps its bits for ever, since what `merged_in` changes it brings back from copies; merging is float32,
whatever the compute type. B begins as zeros, so that training begins at the checkpoint to the bit. All ranks draw the
same first A, from the settings' seed. What gathers is a collective: every rank calls it alike (the caller guarantees
it).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from learners.errors import UnfitError
from learners.micro_batch import MicroBatch
from learners.policy import Policy, own_state
from learners.settings import LoraSettings
from learners.sharding import forward_only, local_shard, reshard

_NAME = "default"
"""peft's name of the one adapter."""


class _Layer(Protocol):
    """What is used of peft's layer. Its parameters are asked anew each time: sharding replaces them."""

    base_layer: nn.Linear
    lora_A: Mapping[str, nn.Linear]
    lora_B: Mapping[str, nn.Linear]
    scaling: Mapping[str, float]

    def set_scale(self, adapter: str, scale: float) -> None: ...


class Adapters:
    """Put onto a model in place, before it is sharded: from then on its other parameters need no gradient.

    Raises:
        UnfitError: `trainer.lora.target_modules` names what is no linear layer of the model.
    """

    def __init__(self, model: PreTrainedModel, settings: LoraSettings) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        targets = find_targets(model, settings.target_modules)
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, lora_dropout=0.0, bias="none"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            inject_adapter_in_model(config, model, _NAME)
        self._model = model
        self._layers: dict[str, _Layer] = {name: model.get_submodule(name) for name in targets}
        self._trained = frozenset(name for name, value in model.named_parameters() if value.requires_grad)

    def own(self) -> dict[str, Tensor]:
        """The adapters' tensors by their names in the model, live."""
        return {name: tensor for name, tensor in own_state(self._model).items() if name in self._trained}

    def base(self) -> dict[str, Tensor]:
        """The tensors below the adapters by their names in the model, live."""
        return {name: tensor for name, tensor in own_state(self._model).items() if name not in self._trained}

    @torch.no_grad()
    def merged(self) -> dict[str, Tensor]:
        """The tensors of `own_state` as a model without adapters has and names them, sharded as they are here."""
        state: dict[str, Tensor] = {}
        for name, tensor in own_state(self._model).items():
            if name in self._trained:
                continue
            plain = name.replace(".base_layer.", ".")
            layer = self._layers.get(plain.removesuffix(".weight"))
            state[plain] = tensor if layer is None else _sharded_like(tensor, _merge(layer))
        return state

    @contextmanager
    def merged_in(self, policy: Policy) -> Iterator[None]:
        """Inside, the policy's forward pass computes with the merged weights, as an engine that has them would.

        Args:
            policy: of the model; nothing that it has gathered stays.
        """
        reshard(policy)
        with torch.no_grad():
            merged = {name: _merge(layer) for name, layer in self._layers.items()}
            own = {name: local_shard(layer.base_layer.weight.detach()) for name, layer in self._layers.items()}
            before = {name: weight.clone() for name, weight in own.items()}
            for name, weight in own.items():
                weight.copy_(merged[name])
        try:
            with self.switched_off():
                yield
        finally:
            for name, weight in own.items():
                weight.copy_(before[name])

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, the adapters add nothing to the forward pass."""
        # Scaled by 0, not disabled: peft's switch would also take the adapters' gradients away.
        for layer in self._layers.values():
            layer.set_scale(_NAME, 0.0)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.set_scale(_NAME, 1.0)


class WithoutAdapters:
    """The policy that training began with, as a companion (`learners.companion`) that needs no second copy of it."""

    def __init__(self, policy: Policy, adapters: Adapters) -> None:
        self._policy = policy
        self._adapters = adapters

    def logprobs(self, micro: MicroBatch, temperature: float) -> Tensor:
        """[N] of the trained tokens, at the temperature of sampling."""
        with self._adapters.switched_off():
            return forward_only(self._policy, micro.packed, micro.positions, temperature).logprobs

    def follows(self, step: int) -> bool:
        """Never: it is fixed."""
        return False

    def follow(self, trained: Mapping[str, Tensor]) -> None:
        """It is fixed."""

    def state(self) -> dict[str, Tensor]:
        """Nothing: its weights are those of a model's folder."""
        return {}


def find_targets(model: PreTrainedModel, wanted: Sequence[str] | None) -> list[str]:
    """Full names of the linear layers that get an adapter.

    Args:
        model: may be without storage (device ``meta``).
        wanted: ends of names, at a dot; None is all layers but the head.

    Raises:
        UnfitError: one of them ends the name of no linear layer, or of the head.
    """
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    if wanted is None:
        return linear
    for end in wanted:
        if not any(_ends(name, end) for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise UnfitError(
                "trainer.lora.target_modules", f"no linear layer below the head is called {end}", f"there are {known}"
            )
    return [name for name in linear if any(_ends(name, end) for end in wanted)]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _merge(layer: _Layer) -> Tensor:
    """This rank's rows of W + s B A."""
    down = layer.lora_A[_NAME].weight.detach()
    whole = down.full_tensor() if isinstance(down, DTensor) else down
    up, weight = (local_shard(part.weight.detach()) for part in (layer.lora_B[_NAME], layer.base_layer))
    return torch.addmm(weight, up, whole, alpha=layer.scaling[_NAME])


def _sharded_like(tensor: Tensor, local: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return local
    return DTensor.from_local(
        local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
