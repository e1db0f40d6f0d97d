"""Trains one drafter, one micro-step at a time: between two of them whoever lent the machine may take it back.

Invariants:
- masters and optimizer state are float32; `dtype` is the compute type alone;
- an update whose loss or gradient is not finite changes nothing, and after `max_bad_updates` of them in a row training
  ends with `DrafterDivergedError`; the weights are then those of the last good update;
- the target's embedding and head are never trained (they are no parameters), and change in `refresh` alone;
- the same windows in the same order give the same weights.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from learners.drafters import shadow
from learners.drafters.comparison import Comparison
from learners.drafters.drafter import Drafter
from learners.drafters.errors import DrafterDivergedError, DrafterError
from learners.drafters.losses import LossInput, acceptance, check_losses, combined
from learners.drafters.settings import DrafterTrainingSettings
from learners.drafters.shadow import ShadowScore
from learners.drafters.target import FINAL
from learners.drafters.windows import PackedWindows, Window, pack_windows
from learners.optimizer import adamw, with_state


class DrafterTrainer:
    """Args: drafter: float32, on `device` like its tables.

    Raises:
        DrafterError: losses that this drafter cannot have.
        UnknownNameError: a loss of no such name.
    """

    def __init__(self, drafter: Drafter, settings: DrafterTrainingSettings, device: torch.device) -> None:
        self.drafter = drafter
        self._settings = settings
        self._device = device
        self._losses = dict(drafter.default_losses if settings.losses is None else settings.losses)
        check_losses(self._losses, guesses_hidden=drafter.predicts_hidden)
        self._unroll = settings.unroll or drafter.default_unroll
        self._weights = [settings.unroll_decay**place for place in range(self._unroll)]
        self._parameters = {name: value for name, value in drafter.named_parameters() if value.requires_grad}
        self._adamw = with_state(adamw(list(self._parameters.values()), settings))
        self._counters = torch.zeros(3, dtype=torch.int64)

    @property
    def updates(self) -> int:
        """Good updates so far, those before a `restore` included."""
        return int(self._counters[0])

    @property
    def skipped(self) -> int:
        """Updates left out because something was not finite."""
        return int(self._counters[1])

    def micro_step(self, windows: Sequence[Window]) -> dict[str, float]:
        """One forward, backward and update over these windows together.

        Returns: `loss`, each loss by its name and `acceptance` (over all trained draft positions),
        `acceptance_k` for draft position k (as sampled), `grad_norm`, `tokens`, `windows`, `skipped` (0 or 1).

        Raises:
            ValueError: no window has two tokens.
            DrafterDivergedError: too many updates in a row were not finite.
        """
        usable = [window for window in windows if len(window) > 1]
        if not usable:
            raise ValueError(f"none of {len(windows)} windows has two tokens: there is nothing to train on")
        packed = pack_windows(usable, sorted({*self.drafter.reads, FINAL}), self._device)
        self.drafter.train()
        loss, metrics = self._loss(packed)
        if torch.isfinite(loss):
            loss.backward()
            norm = self._update()
        else:
            norm = math.nan
        bad = not math.isfinite(norm)
        self._count(bad)
        return {
            **metrics,
            "grad_norm": norm,
            "tokens": float(len(packed.room)),
            "windows": float(len(usable)),
            "skipped": float(bad),
        }

    def evaluate(self, windows: Sequence[Window], positions: int, token_budget: int = 4096) -> ShadowScore:
        """Shadow evaluation of the weights as they are, see `learners.drafters.shadow`.

        Args:
            positions: draft length that is judged.
            token_budget: tokens of one packed row.

        Raises:
            ValueError: no window is longer than `positions`.
        """
        self.drafter.eval()
        with self._compute_type():
            return shadow.evaluate(
                self.drafter,
                windows,
                positions=positions,
                temperature=self._settings.temperature,
                token_budget=token_budget,
                device=self._device,
            )

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the target's embedding and head of a new version, under their names in its checkpoint.

        Raises:
            DrafterError: they are missing or of another shape; nothing was changed.
        """
        self.drafter.tables.refresh(tensors)

    def state(self) -> dict[str, Tensor]:
        """What a training checkpoint must hold: live tensors, the trainable alone, by name."""
        state = {f"drafter.{name}": value.detach() for name, value in self._parameters.items()}
        for name, value in self._parameters.items():
            state |= {f"optimizer.{key}.{name}": tensor for key, tensor in self._adamw.state[value].items()}
        return {**state, "counters": self._counters}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` as if there had been no break.

        Raises:
            DrafterError: it is another drafter's; nothing was changed.
        """
        mine = self.state()
        strange = [
            name
            for name in sorted(mine.keys() | state.keys())
            if name not in mine or name not in state or mine[name].shape != state[name].shape
        ]
        if strange:
            raise DrafterError(f"this training state is another drafter's: {strange[0]} is missing or of another shape")
        for name, tensor in mine.items():
            tensor.copy_(state[name])

    def _loss(self, packed: PackedWindows) -> tuple[Tensor, dict[str, float]]:
        """Mean over rows of each draft position, weighted over the positions."""
        names = list(self._losses)

        def reduce(rows: LossInput, _: Tensor) -> Tensor:
            total, parts = combined(rows, self._losses)
            accepted = acceptance(rows.target_logprobs, rows.draft_logprobs).detach()
            return torch.stack([total, *(parts[name] for name in names), accepted], -1)

        with self._compute_type():
            compared = Comparison.of(self.drafter, packed, self._settings.temperature)
            means = torch.stack([seen.mean(0) for seen in compared.positions(self._unroll, None, reduce)])
        weights = torch.tensor(self._weights[: len(means)], device=means.device)
        loss = (weights / weights.sum()) @ means
        shown = loss.detach().tolist()
        by_position = means[:, -1].detach().tolist()
        return loss[0], {
            **dict(zip(("loss", *names, "acceptance"), shown, strict=True)),
            **{f"acceptance_{place}": value for place, value in enumerate(by_position, 1)},
        }

    def _update(self) -> float:
        """Clip, step where the gradient is finite, clear; gives the norm before clipping."""
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.max_grad_norm))
        if math.isfinite(norm):
            self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return norm

    def _count(self, bad: bool) -> None:
        self._counters += torch.tensor([not bad, bad, 0])
        self._counters[2] = self._counters[2] + 1 if bad else 0
        if int(self._counters[2]) >= self._settings.max_bad_updates:
            raise DrafterDivergedError(
                f"{int(self._counters[2])} drafter updates in a row were not finite: lower the learning rate "
                f"({self._settings.learning_rate}) or start a new drafter"
            )

    def _compute_type(self) -> torch.autocast:
        narrow = self._settings.dtype == "bfloat16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=narrow)
