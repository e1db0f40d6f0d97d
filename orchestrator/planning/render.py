"""A plan on the screen, and as JSON."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.planning.advice import Advice
from orchestrator.planning.expected import Expectation
from orchestrator.planning.memory import gib
from orchestrator.planning.plan import StagePlan
from orchestrator.planning.role import Role

SHOWN = 4
"""The largest parts of a need that are named."""


def print_plan(plan: StagePlan, advice: Sequence[Advice], console: Console) -> None:
    table, *lines = as_lines(plan, advice)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)


def as_lines(plan: StagePlan, advice: Sequence[Advice]) -> list[RenderableType]:
    """A table with one line for each role, then faults, advice and speed."""
    shape = plan.shape
    active = f", {shape.active / 1e9:.3g} B at work on a token" if shape.active < 0.8 * shape.parameters else ""
    device = plan.placement.device.upper()
    head = f"{plan.stage}: {plan.recipe.model}, {shape.parameters:,} parameters{active}, on {device}s"
    parts: list[RenderableType] = [Group(Text(head, style="bold"), _table(plan))]
    parts += [Text(f"fault   {fault}", style="red") for fault in plan.faults]
    parts += [Text(f"advice  {piece}", style="yellow") for piece in advice]
    parts += [Text(f"note    {note}") for note in plan.notes]
    parts += [Text(f"note    {role.label}: {role.note}", style="dim") for role in plan.roles if role.note]
    if plan.expectation is not None:
        parts += [Text(line) for line in speed_lines(plan.expectation)]
    if plan.fits:
        parts.append(Text("fits", style="green"))
    return parts


def _table(plan: StagePlan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("role", "", "each needs", "of"):
        table.add_column(title, justify="left" if title == "role" else "right", no_wrap=True)
    table.add_column("most of it", no_wrap=True, overflow="ellipsis")
    for role in plan.roles:
        needs = Text(("" if role.sure else "about ") + gib(role.need.total), style="red" if role.lacks else "")
        table.add_row(role.label, f"{role.count} x", needs, _limit(role.limit), _largest(role))
    over = plan.main_memory_limit is not None and plan.main_memory > plan.main_memory_limit
    total = Text(gib(plan.main_memory), style="red" if over else "bold")
    limit = "unknown" if plan.main_memory_limit is None else gib(plan.main_memory_limit)
    table.add_row("main memory", "", total, limit, "all processes together")
    return table


def _limit(limit: int | None) -> str:
    return "" if limit is None else gib(limit)


def _largest(role: Role) -> str:
    largest = sorted(role.need.items.items(), key=lambda item: -item[1])[:SHOWN]
    return ", ".join(f"{name} {gib(size)}" for name, size in largest)


def speed_lines(expectation: Expectation) -> list[str]:
    """What speed to expect, and how sure that is."""
    found, work = expectation.balance, expectation.work
    within = f"within a factor of {found.uncertain:g}"
    speed = f"{found.tokens_per_s:,.0f} sampled tokens/s"
    at_a_time = f"{work.running:,.0f} at a time on an engine"
    lengths = "" if expectation.lengths_known else " (assumed: half of the longest; see --answer-tokens and --like)"
    answers = f"{work.answers:,} answers of {work.answer:,.0f} tokens{lengths}"
    source = f"measured by {expectation.calibrated_by}" if expectation.calibrated_by else _rates(expectation)
    return [
        f"speed   a step takes about {_seconds(found.step_s)}, {speed}; {within}, {source}",
        f"        rollout {_seconds(found.rollout_s)} for {answers}, {at_a_time}",
        f"        learner {_seconds(found.learner_s)}, weight sync {_seconds(found.sync_s)}",
        f"        {_who_waits(expectation)}",
    ]


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.2g} s"


def _rates(expectation: Expectation) -> str:
    engine, learner = expectation.hardware
    return f"by the rates of {engine}" + ("" if engine == learner else f" and {learner}")


def _who_waits(expectation: Expectation) -> str:
    found = expectation.balance
    rollout, learner = f"rollout idles {found.rollout_waits:.0%}", f"learner {found.learner_waits:.0%}"
    if not expectation.work.draws_ahead:
        return f"{rollout}, {learner}: they take turns, since rollout.max_staleness=0"
    if found.waits == "either":
        return f"{rollout}, {learner}: too close to say who will wait"
    side = "the learner will wait for answers" if found.waits == "learner" else "the engines will wait for the learner"
    fix = "topology.rollout.workers" if found.waits == "learner" else "topology.learner.ranks"
    return f"{rollout}, {learner}: {side}; {fix} shifts it"


def as_json(plan: StagePlan, advice: Sequence[Advice]) -> dict[str, object]:
    """For machines; sizes in bytes, times in seconds."""
    found = plan.expectation
    return {
        "stage": plan.stage,
        "model": plan.recipe.model,
        "parameters": plan.shape.parameters,
        "trained_on": plan.placement.device,
        "fits": plan.fits,
        "roles": [_role(role) for role in plan.roles],
        "main_memory": {"needs": plan.main_memory, "limit": plan.main_memory_limit},
        "faults": [{"setting": f.setting, "reason": f.reason, "fix": f.fix} for f in plan.faults],
        "advice": [
            {"changes": a.change.changes, "saves": a.saved, "enough": a.enough, "cost": a.change.cost} for a in advice
        ],
        "notes": list(plan.notes),
        "speed": None if found is None else _speed(found),
    }


def _role(role: Role) -> dict[str, object]:
    return {
        "role": role.name,
        "label": role.label,
        "count": role.count,
        "memory": role.memory,
        "needs": role.need.total,
        "limit": role.limit,
        "at": role.need.peak.name,
        "items": role.need.items,
        "measured": role.sure,
        "note": role.note,
    }


def _speed(expectation: Expectation) -> dict[str, object]:
    found = expectation.balance
    return {
        "step_s": found.step_s,
        "rollout_s": found.rollout_s,
        "learner_s": found.learner_s,
        "sync_s": found.sync_s,
        "sampled_tokens_per_s": found.tokens_per_s,
        "decode_tokens_per_s": found.decode_tokens_per_s,
        "rollout_waits": found.rollout_waits,
        "learner_waits": found.learner_waits,
        "waits": found.waits,
        "within_factor": found.uncertain,
        "hardware": list(expectation.hardware),
        "answer_tokens": expectation.work.answer,
        "answer_tokens_known": expectation.lengths_known,
        "like": expectation.calibrated_by or None,
    }
