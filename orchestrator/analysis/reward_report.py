"""Where the rewards of a run failed: how many answers, of what, and which prompts were given up."""

from collections import Counter
from collections.abc import Iterable

from orchestrator.run_events import Event, ModelSilent, Quarantined, RewardFailed


def reward_trouble(events: Iterable[Event]) -> list[str]:
    """Lines for the screen; none where every answer was scored."""
    failed: Counter[tuple[str, str]] = Counter()
    silent: Counter[tuple[str, str]] = Counter()
    given_up: list[str] = []
    for event in events:
        if isinstance(event, RewardFailed):
            failed[event.kind, event.term] += 1
        elif isinstance(event, ModelSilent):
            silent[event.kind, event.term] += 1
        elif isinstance(event, Quarantined):
            given_up.append(f"In quarantine: {event.prompt} ({event.reason})")
    return [
        *(f"{count} answers got the fallback: {_cause(*what)}" for what, count in sorted(failed.items())),
        *(
            f"{count} answers got a term's own value, for want of a model's: {_cause(*what)}"
            for what, count in sorted(silent.items())
        ),
        *given_up,
    ]


def _cause(kind: str, term: str) -> str:
    return f"{kind} in {term}" if term else kind
