"""What every kind of learned drafter is, and the registry of kinds.

A kind is one file in `learners.drafters.kinds` that registers one class. It says which hidden states of the target it
reads, unrolls its draft positions over packed windows for training, and drafts for one sequence step by step.

Rows. Row t of a drafter that reads hidden states joins the target's state h_t with the token x_(t+1) that followed,
and drafts x_(t+2) at position t: what vLLM's `eagle` and `eagle3` do. So draft position k from row t is compared with
the target's own distribution at token t + k, and its hidden state with h_(t+k). A kind that reads tokens alone keeps
the same count.

Invariant: the embedding and the head of `tables` are the target's; no drafter changes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from learners.drafters.errors import DrafterError
from learners.drafters.settings import DrafterSettings
from learners.drafters.target import DraftTarget, TargetTables
from learners.drafters.windows import PackedWindows
from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class DraftStep:
    """One draft position from every row of packed windows.

    Attributes:
        position: k, from 1. Rows with `PackedWindows.room` below k hold nothing of meaning.
        features: [T, H] what the drafter's head reads.
        hidden: [T, H] the drafter's guess at the target's states of layer `FINAL`; None where the kind makes none.
    """

    position: int
    features: Tensor
    hidden: Tensor | None


Choose = Callable[[Tensor], int | None]
"""A token from [V] logits; None ends the draft before it."""


class DraftSession(ABC):
    """Drafting for one sequence. Not thread-safe; computes under `torch.inference_mode`."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Tokens of the sequence that the target has read and this session knows of."""

    @abstractmethod
    def read(self, token_ids: Tensor, hidden: Mapping[int, Tensor]) -> None:
        """The target has read n more tokens.

        Args:
            token_ids: [n + 1] int64: the tokens that were read, from place `rows` of the sequence on, and the one
                that came out after them.
            hidden: [n, H] the target's states of the tokens that were read, for each layer that the kind reads.
        """

    @abstractmethod
    def draft(self, count: int, choose: Choose) -> list[int]:
        """At most `count` tokens after the last one given to `read`; the session is left as it was before.

        Raises:
            RuntimeError: nothing was read.
        """


class Drafter(nn.Module, ABC):
    """See the module's docstring. Its parameters are its own; the target's are in `tables`.

    Args:
        config: of the drafter itself.
        tables: the target's, on the drafter's device.
    """

    kind: ClassVar[str]
    knobs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `DrafterSettings` beyond kind and seed that mean something to this kind."""
    default_losses: ClassVar[Mapping[str, float]] = {"soft_cross_entropy": 1.0}
    default_unroll: ClassVar[int] = 1
    predicts_hidden: ClassVar[bool] = False
    """Whether what it carries on is trained to equal the target's states of layer `FINAL`."""
    method: ClassVar[str]
    """vLLM's name for it in its speculative configuration."""

    def __init__(self, config: PretrainedConfig, tables: TargetTables) -> None:
        super().__init__()
        self.config = config
        self.tables = tables

    @classmethod
    def build(cls, target: DraftTarget, settings: DrafterSettings, tables: TargetTables) -> Self:
        """A new drafter for this target, float32, on the device of `tables`; the seed fixes its weights.

        Raises:
            DrafterError: settings of another kind, or a target that this kind cannot draft for.
        """
        strange = settings.model_fields_set - cls.knobs - {"kind", "seed"}
        if strange:
            raise DrafterError(f"drafter.{min(strange)} means nothing to kind={cls.kind}: leave it out")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            drafter = cls._begin(target, settings, tables)
        return drafter.float().to(tables.embedding.device)

    @classmethod
    @abstractmethod
    def _begin(cls, target: DraftTarget, settings: DrafterSettings, tables: TargetTables) -> Self:
        """The initial drafter; torch's global generator is seeded."""

    @classmethod
    @abstractmethod
    def open(cls, config: Mapping[str, object], tables: TargetTables) -> Self:
        """A drafter of the shape that a `config.json` of `describe` names; its weights are still to be filled."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """The `config.json` with which vLLM loads this drafter."""

    @property
    @abstractmethod
    def reads(self) -> tuple[int, ...]:
        """The target's layers whose hidden states it takes in, see `learners.drafters.target`."""

    @abstractmethod
    def unroll(self, windows: PackedWindows, count: int) -> Iterator[DraftStep]:
        """Draft positions 1 to `count` from every row, fed with the windows' tokens and its own outputs."""

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """[..., H] -> [..., V] over the target's vocabulary."""

    @abstractmethod
    def session(self) -> DraftSession:
        """To draft for a new sequence."""

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def trainable(self) -> dict[str, Tensor]:
        """Its own tensors under the names that vLLM's loader of this kind knows. Nothing is copied."""
        return dict(self.named_parameters())

    def cast(self, dtype: torch.dtype) -> Self:
        """Convert the parameters in place; rotary frequencies stay float32, as everywhere else."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self


DRAFTERS: Registry[type[Drafter]] = Registry("drafter.kind")
