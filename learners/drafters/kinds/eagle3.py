"""EAGLE-3 (arXiv 2503.01840): one decoder layer over fused hidden states of a low, a middle and a high layer.

The layer's attention reads embedding ⊕ hidden, each behind a norm of its own; what it carries on is free (no loss ties
it to the target's states), so it is trained on its own outputs over several draft positions. Norm and head are its
own, over the target's whole vocabulary; the embedding is the target's. Layout and order are those of vLLM's `eagle3`
with `norm_before_residual` off.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from learners.drafters.draft_layer import DraftLayer, Memory
from learners.drafters.drafter import DRAFTERS
from learners.drafters.errors import DrafterError
from learners.drafters.hidden_drafter import HiddenDrafter, StepOutput
from learners.drafters.settings import DrafterSettings
from learners.drafters.target import DraftTarget, TargetTables, draft_layer_config

_LAYER_IDS = "eagle_aux_hidden_state_layer_ids"


class Eagle3Layer(DraftLayer):
    """A decoder layer whose attention reads a normed embedding beside a normed hidden state."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config, 2 * config.hidden_size)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hidden_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


@DRAFTERS.register("eagle3")
class Eagle3Drafter(HiddenDrafter):
    """Args: reads: the fused layers, ascending."""

    kind: ClassVar[str] = "eagle3"
    method: ClassVar[str] = "eagle3"
    knobs: ClassVar[frozenset[str]] = frozenset({"fused_layers"})
    default_unroll: ClassVar[int] = 3

    def __init__(self, config: LlamaConfig, tables: TargetTables, reads: tuple[int, ...]) -> None:
        super().__init__(config, tables)
        self._reads = reads
        self.fc = nn.Linear(len(reads) * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList([Eagle3Layer(config)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def _begin(cls, target: DraftTarget, settings: DrafterSettings, tables: TargetTables) -> Self:
        reads = settings.fused_layers or fused_layers(target.config.num_hidden_layers)
        if list(reads) != sorted(set(reads)) or not 0 <= reads[0] <= reads[-1] < target.config.num_hidden_layers:
            # Behind the last block, transformers and vLLM mean different states: before and after the last norm.
            raise DrafterError(
                f"drafter.fused_layers={list(reads)} must ascend within 0 to {target.config.num_hidden_layers - 1}"
            )
        drafter = cls(draft_layer_config(target.config), tables, reads)
        with torch.no_grad():
            drafter.lm_head.weight.copy_(tables.head)
        return drafter

    @classmethod
    def open(cls, config: Mapping[str, object], tables: TargetTables) -> Self:
        layer_ids = config.get(_LAYER_IDS)
        if not isinstance(layer_ids, list) or not layer_ids:
            raise DrafterError(f"the configuration of an eagle3 drafter names no {_LAYER_IDS}")
        return cls(LlamaConfig.from_dict(dict(config)), tables, tuple(int(layer) for layer in layer_ids))

    def describe(self) -> dict[str, object]:
        return {
            **self.config.to_dict(),
            "architectures": ["Eagle3LlamaForCausalLM"],
            "draft_vocab_size": self.config.vocab_size,
            "target_hidden_size": self.config.hidden_size,
            "norm_before_residual": False,
            "norm_before_fc": False,
            "num_aux_hidden_states": len(self._reads),
            _LAYER_IDS: list(self._reads),
        }

    @property
    def reads(self) -> tuple[int, ...]:
        return self._reads

    def fuse(self, hidden: Mapping[int, Tensor]) -> Tensor:
        fused: Tensor = self.fc(torch.cat([hidden[layer] for layer in self._reads], -1))
        return fused

    def step(self, embedded: Tensor, hidden: Tensor, angles: tuple[Tensor, Tensor], memory: Memory) -> StepOutput:
        layer = self.layers[0]
        rows = torch.cat([layer.input_layernorm(embedded), layer.hidden_norm(hidden)], -1)
        output = layer(rows, hidden, angles, memory)
        return StepOutput(self.norm(output), output)

    def logits(self, features: Tensor) -> Tensor:
        output: Tensor = self.lm_head(features)
        return output


def fused_layers(layers: int) -> tuple[int, int, int]:
    """A low, a middle and a high layer of a target with so many blocks; vLLM's own choice where that has three.

    Raises:
        DrafterError: fewer than three blocks have no three layers.
    """
    if layers < 3:
        raise DrafterError(f"a target with {layers} blocks has no three hidden states to fuse: use kind=eagle")
    usual = (2, layers // 2, layers - 3)
    if usual[0] < usual[1] < usual[2]:
        return usual
    return (0, 1, 2) if layers == 3 else (1, layers // 2, layers - 1)
