"""A small causal language model of its own as a drafter (Leviathan et al., arXiv 2211.17192): vLLM's `draft_model`.

It starts from the target's first layers with the target's embedding, norm and head, or from a given checkpoint. It
reads tokens alone, and everything in it is its own and is trained, embedding and head included.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PretrainedConfig, PreTrainedModel

from learners.attention import PACKED
from learners.drafters.drafter import DRAFTERS, Choose, Drafter, DraftSession, DraftStep
from learners.drafters.errors import DrafterError
from learners.drafters.settings import DrafterSettings
from learners.drafters.target import DraftTarget, TargetTables
from learners.drafters.windows import PackedWindows
from learners.errors import PolicyError
from learners.policy import load_policy, own_state

_STEPWISE = "sdpa"
"""Attention for decoding; packed rows need `PACKED`. One model serves both, one after the other."""


@DRAFTERS.register("draft_model")
class DraftModelDrafter(Drafter):
    """Args: model: causal language model over the target's vocabulary."""

    kind: ClassVar[str] = "draft_model"
    method: ClassVar[str] = "draft_model"
    knobs: ClassVar[frozenset[str]] = frozenset({"draft_layers", "checkpoint"})

    def __init__(self, model: PreTrainedModel, tables: TargetTables) -> None:
        super().__init__(model.config, tables)
        self.language_model = model

    @classmethod
    def _begin(cls, target: DraftTarget, settings: DrafterSettings, tables: TargetTables) -> Self:
        if settings.checkpoint is None:
            return cls(_first_layers(target, settings.draft_layers), tables)
        if "draft_layers" in settings.model_fields_set:
            raise DrafterError("drafter.draft_layers cuts the target, but drafter.checkpoint is set: leave out one")
        try:
            model = load_policy(settings.checkpoint)
        except PolicyError as error:
            raise DrafterError(f"drafter.checkpoint: {error}") from error
        if model.config.vocab_size != target.config.vocab_size:
            raise DrafterError(
                f"drafter.checkpoint={settings.checkpoint} has {model.config.vocab_size} tokens, the target "
                f"{target.config.vocab_size}: a drafter needs the target's vocabulary"
            )
        return cls(model, tables)

    @classmethod
    def open(cls, config: Mapping[str, object], tables: TargetTables) -> Self:
        known = {key: value for key, value in config.items() if key != "model_type"}
        model_type = config.get("model_type")
        if not isinstance(model_type, str):
            raise DrafterError("the configuration of a draft model names no model_type")
        return cls(_from_config(AutoConfig.for_model(model_type, **known)), tables)

    def describe(self) -> dict[str, object]:
        return {**self.config.to_dict(), "architectures": [type(self.language_model).__name__]}

    @property
    def reads(self) -> tuple[int, ...]:
        return ()

    def trainable(self) -> dict[str, Tensor]:
        return own_state(self.language_model)

    def unroll(self, windows: PackedWindows, count: int) -> Iterator[DraftStep]:
        """One pass serves all positions: a later one is an earlier one of a later row."""
        self.language_model.config._attn_implementation = PACKED
        rows = self.language_model.base_model(
            input_ids=windows.packed.input_ids.unsqueeze(0),
            position_ids=windows.packed.position_ids.unsqueeze(0),
            use_cache=False,
            packed_layout=windows.layout,
        ).last_hidden_state[0]
        for position in range(1, count + 1):
            yield DraftStep(position, windows.ahead(rows, position), None)

    def logits(self, features: Tensor) -> Tensor:
        output: Tensor = self.language_model.get_output_embeddings()(features)
        return output

    def session(self) -> DraftSession:
        return DraftModelSession(self.language_model)


class DraftModelSession(DraftSession):
    """Holds the KV of all tokens that it was given, the last one included."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._logits: Tensor | None = None

    @property
    def rows(self) -> int:
        return max(0, self._cache.get_seq_length() - 1)

    @torch.inference_mode()
    def read(self, token_ids: Tensor, hidden: Mapping[int, Tensor]) -> None:
        self._logits = self._forward(token_ids if self._logits is None else token_ids[1:])

    @torch.inference_mode()
    def draft(self, count: int, choose: Choose) -> list[int]:
        if self._logits is None:
            raise RuntimeError("read() comes before draft(): nothing is known of the sequence")
        kept = self._cache.get_seq_length()
        logits = self._logits
        drafted: list[int] = []
        while len(drafted) < count:
            if drafted:
                logits = self._forward(torch.tensor(drafted[-1:], device=logits.device))
            chosen = choose(logits)
            if chosen is None:
                break
            drafted.append(chosen)
        self._cache.crop(kept)
        return drafted

    def _forward(self, token_ids: Tensor) -> Tensor:
        """[V] logits after the last of these tokens."""
        self._model.config._attn_implementation = _STEPWISE
        output = self._model(
            input_ids=token_ids.unsqueeze(0), past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        last: Tensor = output.logits[0, -1]
        return last


def _first_layers(target: DraftTarget, count: int) -> PreTrainedModel:
    """The target without its later layers."""
    layers = target.config.num_hidden_layers
    if count >= layers:
        raise DrafterError(f"drafter.draft_layers={count} cuts nothing off a target with {layers} layers")
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    model = _from_config(config)
    own = own_state(model)
    missing = [name for name in own if name not in target.tensors]
    if missing:
        raise DrafterError(f"the target has no tensor {missing[0]}: a draft model needs a Llama-type checkpoint")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(target.tensors[name])
    return model


def _from_config(config: PretrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED).float()
    return model.train()
