"""What the driver of a run remembers, so that another process can go on at the same step boundary.

The learner's weights, optimizer and companions are not here (`learners.checkpoint`), nor is what a function of the seed
and a number gives anew: the draws of each answer, the orders of epochs. Invariant: `RunMemory.state` is read in one
turn of the driver's event loop between two steps, so that its parts speak of one moment; what is pending then is asked
again after the break.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import JsonValue

from learners.advantages.norms import AdvantageNorm
from learners.weights import WeightTruth
from orchestrator.gap_watch import GapWatch
from orchestrator.policies.dispatch import Dispatcher, DispatchState
from orchestrator.policies.gap_alarm import GapState
from orchestrator.run_directory import LogMarks, RunDirectory
from orchestrator.run_log import LogState, RunLog
from rewards.history import PromptHistory
from rewards.quarantine import Quarantine


@dataclass(frozen=True, slots=True)
class Spent:
    """Of the run so far, over all its processes: seconds, seconds of training, tokens sampled."""

    wall_s: float = 0.0
    train_s: float = 0.0
    tokens: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.wall_s + other.wall_s, self.train_s + other.train_s, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class RunState:
    """At a step boundary.

    Attributes:
        step: training steps made; the version of the weights.
        weights: checksum of each tensor of that version, as it was published.
        norm: of the advantages.
        prompts: what reward terms remember of them.
        gap: of the alarm on the steps' fresh tokens.
        marks: of the logs.
        hung: visits in which the scoring of a prompt's answers hung, by its item.
    """

    step: int
    weights: dict[str, int]
    dispatch: DispatchState
    norm: dict[str, list[float]]
    prompts: dict[str, JsonValue]
    gap: GapState
    log: LogState
    marks: LogMarks
    spent: Spent
    hung: dict[str, int] = field(default_factory=dict)


class RunMemory:
    """Reads the state of a run's parts, and gives it back to the parts of its continuation.

    Args:
        spent: by this process so far.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        norm: AdvantageNorm,
        prompts: PromptHistory,
        quarantine: Quarantine,
        watch: GapWatch,
        log: RunLog,
        directory: RunDirectory,
        spent: Callable[[], Spent],
    ) -> None:
        self._dispatcher, self._norm, self._prompts, self._quarantine = dispatcher, norm, prompts, quarantine
        self._watch, self._log, self._directory = watch, log, directory
        self._spent_here, self._before = spent, Spent()

    def state(self, truth: WeightTruth) -> RunState:
        """Of this moment, when the learner's weights are those of `truth`."""
        return RunState(
            truth.manifest.version,
            dict(truth.checksums),
            self._dispatcher.state(),
            self._norm.state(),
            self._prompts.state(),
            self._watch.state,
            self._log.state(),
            self._directory.marks(),
            self.spent,
            self._quarantine.state(),
        )

    def restore(self, state: RunState) -> None:
        """Before anything is admitted.

        Raises:
            SettingError: the prompts' source is another one.
        """
        self._dispatcher.restore(state.dispatch)
        self._norm.restore(state.norm)
        self._prompts.restore(state.prompts)
        self._quarantine.restore(state.hung)
        self._watch.restore(state.gap)
        self._log.restore(state.log)
        self._before = state.spent

    @property
    def spent(self) -> Spent:
        """Over all processes of the run."""
        return self._before + self._spent_here()
