"""EAGLE (arXiv 2401.15077; TLT's default drafter): one decoder layer over the target's last hidden states.

Input is fc(embedding ⊕ hidden), output a guess at the target's next hidden state, which the target's own frozen head
reads. As in vLLM's `eagle`, the layer has no input norm and nothing norms its output.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from learners.drafters.draft_layer import DraftLayer, Memory
from learners.drafters.drafter import DRAFTERS
from learners.drafters.hidden_drafter import HiddenDrafter, StepOutput
from learners.drafters.settings import DrafterSettings
from learners.drafters.target import FINAL, DraftTarget, TargetTables, draft_layer_config


@DRAFTERS.register("eagle")
class EagleDrafter(HiddenDrafter):
    """See the module's docstring."""

    kind: ClassVar[str] = "eagle"
    method: ClassVar[str] = "eagle"
    default_losses: ClassVar[Mapping[str, float]] = {"soft_cross_entropy": 0.5, "hidden_smooth_l1": 0.5}
    predicts_hidden: ClassVar[bool] = True

    def __init__(self, config: LlamaConfig, tables: TargetTables) -> None:
        super().__init__(config, tables)
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList([DraftLayer(config, config.hidden_size)])

    @classmethod
    def _begin(cls, target: DraftTarget, settings: DrafterSettings, tables: TargetTables) -> Self:
        return cls(draft_layer_config(target.config), tables)

    @classmethod
    def open(cls, config: Mapping[str, object], tables: TargetTables) -> Self:
        return cls(LlamaConfig.from_dict(dict(config)), tables)

    def describe(self) -> dict[str, object]:
        return {**self.config.to_dict(), "architectures": ["EagleLlamaForCausalLM"]}

    @property
    def reads(self) -> tuple[int, ...]:
        return (FINAL,)

    def fuse(self, hidden: Mapping[int, Tensor]) -> Tensor:
        return hidden[FINAL]

    def step(self, embedded: Tensor, hidden: Tensor, angles: tuple[Tensor, Tensor], memory: Memory) -> StepOutput:
        rows = self.fc(torch.cat([embedded, hidden], -1))
        output = self.layers[0](rows, rows, angles, memory)
        return StepOutput(output, output)

    def logits(self, features: Tensor) -> Tensor:
        return self.tables.logits(features)
