"""Rules about rewards alone, for runs and for grading: what cannot end in time is refused before it begins."""

from learners.options import options_of
from orchestrator.errors import SettingError
from rewards.registry import RUNS_PROGRAMS, resolve
from rewards.settings import RewardSettings, TermSettings

JOB_S = "job_s"
"""The option by which a term that runs programs says how long all of them may take together, seconds."""
AROUND_S = 1.0
"""What it takes to build a sandbox and to read what came of it, on a busy machine."""


def check_reward(reward: RewardSettings) -> None:
    """Raises:
    SettingError: the first rule that the reward breaks.
    """
    error = sandboxes_end_in_time(reward)
    if error is not None:
        raise error


def sandboxes_end_in_time(reward: RewardSettings) -> SettingError | None:
    """An answer that its sandbox would have judged in the end must not run into the deadline before."""
    times = {term.logged_as: seconds for term in reward.terms if (seconds := _job_s(term)) is not None}
    needed = sum(times.values()) + AROUND_S
    if not times or needed <= reward.deadline_s:
        return None
    shares = " + ".join(f"{seconds:g} s of {name}" for name, seconds in times.items())
    return SettingError(
        "reward.deadline_s",
        f"{reward.deadline_s:g} s end an answer before its sandbox may ({shares} + {AROUND_S:g} s around them)",
        f"set it to {needed:g} or more, or lower the option job_s",
    )


def _job_s(term: TermSettings) -> float | None:
    """None for a term that runs no programs; one of the user's own is not looked at."""
    if term.name not in RUNS_PROGRAMS:  # nothing is imported for the others: their verifiers are heavy
        return None
    seconds = term.options.get(JOB_S, options_of(resolve(term.name).function)[JOB_S])
    # What is no number, its term refuses by itself.
    return float(seconds) if isinstance(seconds, int | float) else None
