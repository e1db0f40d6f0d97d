"""The governor as an engine uses it, and how it is made from what an engine was told of speculation."""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from actors.speculation.arms import Arm, everywhere, fixed
from actors.speculation.governor import GovernorRules, build_governor
from actors.speculation.settings import SpeculationSettings
from actors.speculation.step_cost import CostPrior
from actors.speculation.step_record import StepRecord

CPU_PRIOR = CostPrior(knee_tokens=40.0, draft_pass=0.3, draft_token=0.1)
"""A pass over some tens of tokens costs a CPU what reading the weights does; a drafter's layer is no smaller there."""


class StepGovernor(Protocol):
    """What the scheduler needs of `actors.speculation.governor.Governor`."""

    @property
    def attached(self) -> bool:
        """Whether the drafter should read along in the step last chosen for, though nothing may be drafted."""

    def choose(self, running: int, now: float) -> Arm:
        """For a step with so many answers; `now` is in monotonic seconds."""

    def observe(self, record: StepRecord) -> None:
        """What the step last chosen for cost and brought."""

    def target_updated(self) -> None:
        """The target has new weights."""

    def drafter_updated(self) -> None:
        """The drafter has new weights."""


def make_governor(settings: SpeculationSettings, *, detachable: bool, on_cpu: bool) -> StepGovernor:
    """The governor that the settings name; see `SpeculationSettings.governor`.

    Args:
        detachable: whether the engine can leave the drafter's pass out while nothing is drafted.

    Raises:
        ValueError: there is none of that name, or it refuses its options.
    """
    options, prior = dict(settings.governor_options), CPU_PRIOR if on_cpu else CostPrior()
    try:
        if ":" in settings.governor:
            module, _, name = settings.governor.partition(":")
            maker: Callable[..., StepGovernor] = getattr(import_module(module), name)
            return maker(settings.lengths, **options)
        if settings.governor == "fixed":
            table = fixed({int(size): Arm(int(length)) for size, length in options.items()})
            return build_governor(table, "model_based", seed=0, prior=prior, detachable=detachable)
        table, seed = everywhere([Arm(length) for length in settings.lengths]), int(options.pop("seed", 0))
        rules = GovernorRules(**options)  # type: ignore[arg-type]  # a wrong type is refused there
        return build_governor(table, settings.governor, seed=seed, prior=prior, rules=rules, detachable=detachable)
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        given = f"speculation.governor={settings.governor} with {dict(settings.governor_options)}"
        raise ValueError(f"{given}: there is no such governor ({error})") from error
