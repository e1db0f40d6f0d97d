"""What a checkpoint holds of a learner, and how it gets to the disk and back.

Invariants: a checkpoint is a state between two steps under the true weights (the learner guarantees it); it is on the
disk whole or not at all, and any number of ranks can load it. Every method is called on all ranks alike.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from learners.adapters import WithoutAdapters
from learners.backend import Backend
from learners.base_weights import BaseWeights
from learners.checkpoint import load_sharded, save_sharded
from learners.checkpoint_writer import CheckpointWriter
from learners.companion import Companion
from learners.critic.critic import Critic

_OPTIMIZER = "optimizer."


class TrainingRecord:
    """Args:
    base: what adapters stand on, where they alone are trained.
    timeout_s: for the ranks to meet while a checkpoint is written.
    """

    def __init__(
        self,
        backend: Backend,
        companions: Mapping[str, Companion | WithoutAdapters],
        critic: Critic | None,
        base: BaseWeights | None,
        *,
        timeout_s: float,
    ) -> None:
        self._backend, self._companions, self._critic, self._base = backend, companions, critic, base
        self._timeout_s = timeout_s
        self._writer: CheckpointWriter | None = None

    def state(self) -> dict[str, Tensor]:
        """Of the policy, its optimizer, its companions and its critic: this rank's rows by name."""
        companions = {
            f"{name}.{key}": value
            for name, companion in self._companions.items()
            for key, value in companion.state().items()
        }
        critic = {} if self._critic is None else {f"critic.{key}": value for key, value in self._critic.state().items()}
        base = {} if self._base is None else self._base.state()
        return {**self._backend.training_state(), **companions, **critic, **base}

    def begin(self, folder: Path) -> None:
        """Copy it, and write the copy beside the next steps. The last write has ended when this returns.

        Raises:
            CheckpointError: on every rank, where the last write failed.
        """
        if self._writer is None:
            self._writer = CheckpointWriter(self._timeout_s)
        self._writer.begin(self.state(), folder)

    def finish(self) -> None:
        """Until what was begun is on the disk; another thread may wait while this one trains.

        Raises:
            CheckpointError: on every rank, where it could not be written.
        """
        if self._writer is not None:
            self._writer.finish()

    def load(self, folder: Path) -> None:
        """Raises: CheckpointError: on every rank."""
        state = self.state()
        load_sharded(state, folder)
        if self._base is not None:
            self._base.check(folder)
        self._backend.accept_training_state(state)

    def save_optimizer(self, folder: Path) -> None:
        """The moments that AdamW keeps of each trained parameter. Raises: CheckpointError: on every rank."""
        save_sharded(_moments(self._backend.training_state()), folder)

    def take_over_optimizer(self, folder: Path) -> None:
        """Begin with the moments of another training of the same parameters; steps are counted, and the learning rate
        warmed up, anew.

        Raises:
            CheckpointError: on every rank; it was another set of parameters.
        """
        state = self._backend.training_state()
        load_sharded(_moments(state), folder)
        self._backend.accept_training_state(state)


def _moments(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a training state, what AdamW keeps of each parameter."""
    counted = f"{_OPTIMIZER}steps"
    return {name: tensor for name, tensor in state.items() if name.startswith(_OPTIMIZER) and name != counted}
