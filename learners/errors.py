"""What a caller of the learner tells apart; free of torch, so that a driver may import it."""

from typing import ClassVar


class PolicyError(ValueError):
    """A checkpoint that cannot be loaded, used or written; the message is one line for the user."""


class TrainingStopError(RuntimeError):
    """Training cannot go on, and nothing is broken: the weights are those of the last good step.

    The message is one line for the user; `fix` says what the user can do.
    """

    fix: ClassVar[str]


class DivergedError(TrainingStopError):
    """Too many updates in a row had a loss or a gradient that is not finite."""

    fix = "lower the learning rate, and look at the last rows of metrics.jsonl"


class EmptyBatchError(TrainingStopError, ValueError):
    """No token of a batch takes loss."""

    fix = "loosen what masks answers: rollout.late=baseline_only does where all are late"

    def __init__(self, message: str = "no token of this batch takes loss: there is nothing to train on") -> None:
        super().__init__(message)


class UnfitError(PolicyError):
    """A setting that the model or the machine cannot take.

    Args:
        setting: its dotted name.
        reason: what is wrong with it.
        fix: what to change.
    """

    def __init__(self, setting: str, reason: str, fix: str) -> None:
        super().__init__(f"{setting}: {reason}; {fix}")
        self.setting, self.reason, self.fix = setting, reason, fix

    def __reduce__(self) -> tuple[type["UnfitError"], tuple[str, str, str]]:
        return type(self), (self.setting, self.reason, self.fix)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line for the user."""


def first_line(error: BaseException) -> str:
    """An error in one line, for messages that quote it: what it says before a stack of its own, else what it is."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
