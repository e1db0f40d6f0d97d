"""A run from end to end. Read `train` first: it is the whole system.

    PromptSource -> Dispatcher -> RolloutFleet -> RewardClient -> GroupBuffer -> BatchBuilder -> Learners -> WeightBus

Prompts flow through engines and rewards into the buffer in the background (`RolloutPlane`), as far ahead as the
staleness rule allows, while the learner trains; after each step couriers carry the weights to the engines beside the
next step. Components do not know this module or each other: they are handed what they need.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from learners.batch import TrainBatch
from learners.weights import WeightTruth
from orchestrator.analysis.lineage import read_lineage
from orchestrator.analysis.trace import trace_of
from orchestrator.assembly import Run, assemble
from orchestrator.checkpoints import Checkpoint
from orchestrator.config import Recipe
from orchestrator.drafting.prepare import prepare_drafter
from orchestrator.errors import PacelineError, SettingError
from orchestrator.gap_watch import fresh_gap
from orchestrator.growth import Growth
from orchestrator.launch import launched, room
from orchestrator.policies.groups import ScoredGroup
from orchestrator.policies.growth import GrowthRule
from orchestrator.policies.ledger import Ledger
from orchestrator.policies.make import RESTART_WINDOW_S
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.preflight import Prepared, check_disk, prepare
from orchestrator.progress import Progress
from orchestrator.recipe import dump_recipe
from orchestrator.recruiter import Recruiter
from orchestrator.reservation import Reservation
from orchestrator.resume import Resumption, check_weights
from orchestrator.run_directory import RunDirectory, check_free
from orchestrator.run_log import RunLog
from orchestrator.run_state import RunState, Spent
from orchestrator.stopping import BY_SIGNAL, Stopped, Stopping
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.place import RunPlace
from orchestrator.summary import Status, summarise
from orchestrator.trackers import open_trackers


async def train(run: Run) -> None:
    """The driver: attest the engines, then batch by batch until the last step.

    Raises:
        Stopped: somebody asked for it; what was trained is in a checkpoint.
    """
    first = await begin(run)
    run.stopping.guard()
    run.progress.phase("training")
    run.activity.begin()
    truth: WeightTruth | None = None
    try:
        for version in range(first, run.recipe.trainer.steps):
            groups, batch, metrics = await learn(run, version)
            with run.activity.learner("publishes", f"version {version + 1}"):
                truth = await run.bus.snapshot(version + 1)
                run.bus.publish(truth)
            if run.speculation is not None:
                await run.speculation.stepped()
            run.log.trained(version + 1, groups, batch, metrics, run.activity.lap())
            run.watch.observe(fresh_gap(metrics))
            await between_steps(run, truth)
        await run.bus.settle()
        await run.checkpoints.settle()
        run.activity.end()
        async with run.stopping.waiting():
            await evaluate(run, step=run.recipe.trainer.steps)
    except Stopped:
        if truth is not None:
            await leave_checkpoint(run, truth)
        raise
    await save(run, run.directory.model)
    if run.recipe.trainer.keep_optimizer:
        await run.actors.learners.save_optimizer(run.directory.optimizer)
    if run.speculation is not None:
        await run.speculation.save(run.directory.drafter)


async def begin(run: Run) -> int:
    """Bring everybody to the first step, or to where the run broke off; returns the steps made so far."""
    resumed = run.resumed
    if resumed is not None:
        run.progress.phase(f"going on from {resumed.path}")
        run.memory.restore(resumed.state)
        await run.actors.learners.load_checkpoint(resumed.learner)
        check_weights(resumed, await run.bus.snapshot(resumed.state.step))
        run.checkpoints.forget_after(resumed.state.step)
        run.directory.set_aside()
        run.mirror.set_aside(run.directory.path)
    run.progress.phase("sync drill: a visible perturbation is sent, attested, taken back, attested again")
    await run.bus.open()
    await run.bus.drill(0 if resumed is None else resumed.state.step)
    if resumed is None:
        await evaluate(run, step=0)
    return 0 if resumed is None else resumed.state.step


async def learn(run: Run, version: int) -> tuple[list[ScoredGroup], TrainBatch, dict[str, float]]:
    """One training step: on a whole batch, or, streaming, on its groups as they finish."""
    wanted, stream = run.recipe.trainer.prompts_per_step, run.recipe.trainer.stream
    anew = run.recipe.keep is not None and run.recipe.keep.restart
    step = run.actors.learners.begin_step(version, streamed=stream, anew=anew)
    groups: list[ScoredGroup] = []
    while True:
        lacking = wanted - len(groups)
        # A step that has its first part is made whole: nothing remembers half a gradient.
        between = nullcontext() if groups else run.stopping.waiting()
        with run.activity.learner("waits", "for a batch"):
            async with between:
                part = await run.plane.next_groups(version, least=1 if stream else lacking, most=lacking)
        groups += part
        complete = len(groups) == wanted
        if complete:
            run.plane.cut()
        with run.activity.learner("trains", f"step {version + 1}"):
            await step.add(run.batches.build(part, version))
            if complete:
                metrics = await step.finish()
                run.dispatcher.trained(groups)
                run.actors.rewards.history.turn()
                return groups, step.batch, metrics


async def between_steps(run: Run, truth: WeightTruth) -> None:
    """Evaluate and write checkpoints where the recipe asks for it; the end of the run evaluates for itself."""
    step = truth.manifest.version
    run.checkpoints.check()
    run.mirror.check()
    if _falls_on(run.recipe.eval.every, step) and step < run.recipe.trainer.steps:
        async with run.stopping.waiting():
            await run.bus.settle()
            await evaluate(run, step)
    if _falls_on(run.recipe.trainer.checkpoint_every, step):
        with run.activity.learner("saves"):
            await run.checkpoints.write(run.memory.state(truth))
    run.stopping.boundary()


async def leave_checkpoint(run: Run, truth: WeightTruth) -> None:
    """The run stops behind the step that made these weights, and can go on from there."""
    run.progress.phase(f"writing the checkpoint of step {truth.manifest.version}")
    with run.activity.learner("saves"):
        await run.checkpoints.write_last(run.memory.state(truth))


async def evaluate(run: Run, step: int) -> None:
    """Held-out accuracy under the weights that the engines serve now, where anything is held out."""
    if not len(run.evaluator):
        return
    run.progress.phase(f"evaluating at step {step}")
    with run.activity.learner("evaluates"):
        result = await run.evaluator.run(run.actors.fleet, run.actors.rewards, run.progress.part)
    run.log.evaluated(step, "held_out", result)


async def save(run: Run, folder: Path) -> None:
    """Write the model as a Hugging Face checkpoint.

    Raises:
        RunError: the disk is full or cannot be written; nothing half-written stays.
    """
    run.progress.phase(f"writing {folder}")
    with run.activity.learner("saves"):
        await run.actors.learners.save(folder)


async def conduct(
    recipe: Recipe,
    prepared: Prepared,
    reserved: Reservation,
    directory: RunDirectory,
    mirror: Mirror,
    log: RunLog,
    progress: Progress,
    resumed: Checkpoint[RunState] | None,
) -> None:
    """Start the actors, put the parts together, train, and write the summary, however it ends."""
    started = time.perf_counter()
    status: Status = "failed"
    reason: str | None = None
    run: Run | None = None
    stopping = Stopping(recipe.trainer.stop_timeout_s, progress.say)
    try:
        with stopping.heeded():
            progress.phase("starting the engines, the learner and the reward workers")
            async with launched(recipe, prepared, reserved, log) as actors:
                run = assemble(recipe, prepared, actors, directory, mirror, log, progress, stopping, started, resumed)
                async with at_work(run):
                    await train(run)
                    status = "completed"
    except (Stopped, asyncio.CancelledError):
        status, reason = "interrupted", BY_SIGNAL
    except PacelineError as error:
        reason = str(error)
        raise
    finally:
        idle = run.activity.idle_fractions() if run else {}
        spent = run.memory.spent if run else Spent(time.perf_counter() - started)
        summary = summarise(
            log.tally,
            status=status,
            reason=reason,
            wall_s=spent.wall_s,
            train_s=spent.train_s,
            tokens_generated=spent.tokens,
            prompts=run.dispatcher.ledger.counts() if run else Ledger().counts(),
            idle_fraction=idle,
            meter=log.meter,
        )
        log.run_ended(status, idle)
        directory.summary(summary)
        log.close()


@asynccontextmanager
async def at_work(run: Run) -> AsyncIterator[None]:
    """The parts that work beside the driver: answers are collected, the clock is watched, weights are carried."""
    recruiter = Recruiter(
        run.actors.spawn_rollout,
        run.bus,
        budget=RestartBudget(run.recipe.rollout.max_restarts, RESTART_WINDOW_S),
        start_timeout_s=run.recipe.rollout.start_timeout_s,
    )
    run.actors.fleet.begin(recruit=recruiter.replace, ready=run.plane.admit, failed=run.plane.abandon)
    run.plane.begin()
    watching = asyncio.create_task(run.activity.watch())
    engines = run.recipe.topology.rollout
    growth = Growth(run.actors.fleet, GrowthRule(engines.workers, engines.most or engines.workers))
    growth.begin()
    if run.speculation is not None:
        run.speculation.begin()
    try:
        yield
    finally:
        watching.cancel()
        growth.close()
        if run.speculation is not None:
            await run.speculation.close()
        await run.bus.close()
        await run.plane.close()
        await run.checkpoints.close()


def run_recipe(recipe: Recipe, progress: Progress, place: RunPlace, resumption: Resumption | None = None) -> Path:
    """Prepare, train, and leave a run directory with a summary, however the run ends.

    Args:
        place: where the run works.
        resumption: of the run that goes on; None begins one.

    Returns: the run directory; its summary.json says how the run ended (`completed` or `interrupted`).

    Raises:
        SettingError: an input cannot work; nothing was written.
        RunError: the run had to stop; its summary says `failed` and why.
    """
    prepared = prepare(recipe, progress)
    if resumption is None:
        check_free(place.folder)
        check_disk(place.folder, prepared.model)
    else:
        prepared.source.restore(resumption.checkpoint.state.dispatch.source)  # refuses other data
    progress.phase("starting Ray" if recipe.ray.address is None else f"joining the cluster at {recipe.ray.address}")
    with room(recipe, prepared, place.folder) as reserved:
        return run_in(recipe, prepared, reserved, place, progress, resumption)


def run_in(
    recipe: Recipe,
    prepared: Prepared,
    reserved: Reservation,
    place: RunPlace,
    progress: Progress,
    resumption: Resumption | None,
) -> Path:
    """Train in the places that Ray has set aside; see `run_recipe`."""
    checkpoint = None if resumption is None else resumption.checkpoint
    marks = None if checkpoint is None else checkpoint.state.marks
    directory = RunDirectory(place.folder, dump_recipe(recipe), since=marks)
    step = None if resumption is None else resumption.step
    config = recipe.model_dump(mode="json")
    trackers = open_trackers(recipe.tracking, directory.path, recipe.name, config, resumed=step)
    log = RunLog(directory, progress, trackers, recipe, decode=prepared.decode, resumed=step)
    drafter = None if checkpoint is None else checkpoint.drafter
    prepared = replace(prepared, drafter=drafter or first_drafter(recipe, prepared, directory, log))
    try:
        asyncio.run(conduct(recipe, prepared, reserved, directory, place.mirror, log, progress, checkpoint))
    except PacelineError:
        with suppress(PacelineError):  # what ended the run counts, and a disk that refuses refuses this too
            draw_trace(directory, progress)
        raise
    draw_trace(directory, progress)
    return directory.path


def draw_trace(directory: RunDirectory, progress: Progress) -> None:
    """Raises: PacelineError: the log cannot be read, or the trace not be written."""
    progress.phase("drawing the trace")
    directory.trace(trace_of(read_lineage(directory.path)))


def first_drafter(recipe: Recipe, prepared: Prepared, directory: RunDirectory, log: RunLog) -> Path | None:
    """The checkpoint that engines draft with at first; None for a drafter without weights, or without any.

    Raises:
        SettingError: there is none that fits, and the recipe insists; nothing was written.
    """
    if recipe.speculation is None:
        return None
    folder, dtype = directory.first_drafter, recipe.rollout.dtype
    if folder.exists():  # of the run that goes on
        return folder
    try:
        return prepare_drafter(recipe.speculation, prepared.model, prepared.tokenizer, folder, dtype)
    except SettingError as error:
        if recipe.speculation.required:
            log.close()
            directory.discard()
            raise
        log.warned(f"the run goes on without speculation: {error}")
        return None


def _falls_on(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
