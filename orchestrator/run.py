"""A run from end to end. Read `train` first: it is the whole system.

    PromptSource -> Dispatcher -> RolloutFleet -> RewardClient -> GroupBuffer -> BatchBuilder -> Learners -> WeightBus

Prompts flow through engines and rewards into the buffer in the background (`RolloutPlane`), as far ahead as the
staleness rule allows, while the learner trains; after each step couriers carry the weights to the engines beside the
next step. Components do not know this module or each other: they are handed what they need.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from actors.engine import Sampling
from learners.batch import TrainBatch
from learners.weights import WeightTruth
from orchestrator.activity import Activity
from orchestrator.analysis.lineage import read_lineage
from orchestrator.analysis.trace import trace_of
from orchestrator.asking import anchors_of, probes_of, prompt_of, scoring_pass_of, token_rewards_of
from orchestrator.batch_builder import BatchBuilder
from orchestrator.checkpoints import Checkpoint, Checkpoints
from orchestrator.config import Recipe
from orchestrator.drafting.prepare import prepare_drafter
from orchestrator.drafting.speculation import Speculation
from orchestrator.errors import PacelineError, SettingError
from orchestrator.evaluate import Evaluator
from orchestrator.gap_watch import GapWatch, fresh_gap
from orchestrator.group_plan import plan_of
from orchestrator.launch import Actors, launched, speculates
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.groups import ScoredGroup
from orchestrator.policies.ledger import Ledger
from orchestrator.policies.make import ATTEMPTS, LAST_LIMIT, RESTART_WINDOW_S, make_dispatcher, make_watchdog
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.preflight import Prepared, check_disk, prepare
from orchestrator.progress import Progress
from orchestrator.recipe import dump_recipe
from orchestrator.recruiter import Recruiter
from orchestrator.resume import Resumption, check_weights
from orchestrator.rollout_plane import RolloutPlane
from orchestrator.run_directory import RunDirectory
from orchestrator.run_log import RunLog
from orchestrator.run_state import RunMemory, RunState, Spent
from orchestrator.sampling import sampling_of
from orchestrator.stages.batches import Batches, make_batches
from orchestrator.summary import Status, summarise
from orchestrator.trackers import open_trackers
from orchestrator.weight_bus import WeightBus

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of a run that its driver joins."""

    recipe: Recipe
    actors: Actors
    dispatcher: Dispatcher
    plane: RolloutPlane
    batches: Batches
    bus: WeightBus
    speculation: Speculation | None
    evaluator: Evaluator
    activity: Activity
    directory: RunDirectory
    log: RunLog
    progress: Progress
    watch: GapWatch
    memory: RunMemory
    checkpoints: Checkpoints
    resumed: Checkpoint[RunState] | None = None


async def train(run: Run) -> None:
    """The driver: attest the engines, then batch by batch until the last step."""
    first = await begin(run)
    run.progress.phase("training")
    run.activity.begin()
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
    await evaluate(run, step=run.recipe.trainer.steps)
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
        with run.activity.learner("waits", "for a batch"):
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
    if _falls_on(run.recipe.eval.every, step) and step < run.recipe.trainer.steps:
        await run.bus.settle()
        await evaluate(run, step)
    if _falls_on(run.recipe.trainer.checkpoint_every, step):
        with run.activity.learner("saves"):
            await run.checkpoints.write(run.memory.state(truth))


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


@contextmanager
def stopped_by_signals(task: "asyncio.Task[object]") -> Iterator[None]:
    """Ctrl-C and SIGTERM cancel the task, so that actors are stopped and the summary is written."""
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


async def conduct(
    recipe: Recipe,
    prepared: Prepared,
    directory: RunDirectory,
    log: RunLog,
    progress: Progress,
    resumed: Checkpoint[RunState] | None,
) -> None:
    """Start the actors, put the parts together, train, and write the summary, however it ends."""
    started = time.perf_counter()
    status: Status = "failed"
    reason: str | None = None
    run: Run | None = None
    task = asyncio.current_task()
    assert task is not None
    try:
        with stopped_by_signals(task):
            progress.phase("starting Ray, the engines, the learner and the reward workers")
            async with launched(recipe, prepared, log) as actors:
                run = assemble(recipe, prepared, actors, directory, log, progress, started, resumed)
                async with at_work(run):
                    await train(run)
                    status = "completed"
    except asyncio.CancelledError:
        status, reason = "interrupted", "stopped by a signal"
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
    if run.speculation is not None:
        run.speculation.begin()
    try:
        yield
    finally:
        watching.cancel()
        if run.speculation is not None:
            await run.speculation.close()
        await run.bus.close()
        await run.plane.close()
        await run.checkpoints.close()


def assemble(
    recipe: Recipe,
    prepared: Prepared,
    actors: Actors,
    directory: RunDirectory,
    log: RunLog,
    progress: Progress,
    started: float,
    resumed: Checkpoint[RunState] | None,
) -> Run:
    """Put the parts of a run together, which began at `started`, seconds of the performance counter."""
    rollout, group_plan = recipe.rollout, plan_of(recipe)
    common = Sampling(
        max_tokens=rollout.max_response_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        stop_token_ids=prepared.stop_token_ids,
    )
    compared = BatchBuilder(
        recipe.algorithm,
        prompt_of=prompt_of(group_plan, prepared),
        part_of=group_plan.part,
        budgets=(*(rollout.probes.at or ()), rollout.max_response_tokens) if rollout.probes else (),
    )
    batches = make_batches(recipe, compared)
    likely = scoring_pass_of(recipe, prepared, actors.fleet)
    dispatcher = make_dispatcher(recipe, prepared.source, prepared.encode, batches.usable)
    plane = RolloutPlane(
        dispatcher=dispatcher,
        fleet=actors.fleet,
        rewards=actors.rewards,
        sampling=sampling_of(rollout, common, recipe.seed, greedy=group_plan.greedy_answer),
        decode=prepared.decode,
        listener=log,
        watchdog=make_watchdog(recipe),
        limit_s=LAST_LIMIT * rollout.answer_timeout_s,
        leftovers=rollout.over_sampling.leftovers if rollout.over_sampling else "resume",
        asked=group_plan.asked,
        prompt_of=prompt_of(group_plan, prepared),
        probes=probes_of(recipe, prepared, common),
        anchors=anchors_of(recipe, prepared),
        token_rewards=token_rewards_of(recipe, prepared),
        likely=likely,
    )
    tolerance = recipe.weight_sync.tolerance(rollout.dtype)
    bus = WeightBus(
        actors.learners,
        actors.fleet,
        recipe.weight_sync,
        rollout,
        tolerance=tolerance,
        backend=prepared.placement.transfer,
        probe_ids=prepared.probe(recipe.weight_sync.probe_tokens),
        listener=log,
        broken=plane.abandon,
    )
    evaluator = Evaluator(
        prepared.eval_prompts,
        settings=recipe.eval,
        sampling=common,
        correctness_term=recipe.reward.terms[0].logged_as,
        decode=prepared.decode,
        seed=recipe.seed,
        deadline_s=ATTEMPTS * rollout.answer_timeout_s,
        likely=likely,
    )
    activity = Activity(actors.fleet, actors.rewards, dispatcher, progress, log.learner_did)
    section = recipe.speculation if speculates(recipe, prepared) else None
    speculation = None if section is None else Speculation(section, actors, bus, activity, log)
    watch = GapWatch(recipe.weight_sync.gap_alarm, "freshly sampled tokens", limit=tolerance.mean, warned=log.warned)

    def spent() -> Spent:
        return Spent(time.perf_counter() - started, activity.train_s, actors.fleet.tokens)

    return Run(
        recipe,
        actors,
        dispatcher,
        plane,
        batches,
        bus,
        speculation,
        evaluator,
        activity,
        directory,
        log,
        progress,
        watch,
        RunMemory(dispatcher, batches.norm, actors.rewards.history, watch, log, directory, spent),
        Checkpoints(directory.checkpoints, recipe, actors.learners, None if speculation is None else speculation.save),
        resumed,
    )


def run_recipe(recipe: Recipe, progress: Progress, resumption: Resumption | None = None) -> Path:
    """Prepare, train, and leave a run directory with a summary, however the run ends.

    Args:
        resumption: of the run that goes on; None begins one.

    Returns: the run directory; its summary.json says how the run ended (`completed` or `interrupted`).

    Raises:
        SettingError: an input cannot work; nothing was written.
        RunError: the run had to stop; its summary says `failed` and why.
    """
    prepared = prepare(recipe, progress)
    checkpoint = None if resumption is None else resumption.checkpoint
    if resumption is None:
        path = Path(recipe.run_dir or f"runs/{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}")
        check_disk(path, prepared.model)
        directory = RunDirectory(path, dump_recipe(recipe))
    else:
        prepared.source.restore(resumption.checkpoint.state.dispatch.source)  # refuses other data
        directory = RunDirectory(resumption.folder, dump_recipe(recipe), since=resumption.checkpoint.state.marks)
    step = None if resumption is None else resumption.step
    config = recipe.model_dump(mode="json")
    trackers = open_trackers(recipe.tracking, directory.path, recipe.name, config, resumed=step)
    log = RunLog(directory, progress, trackers, recipe, decode=prepared.decode, resumed=step)
    drafter = None if checkpoint is None else checkpoint.drafter
    prepared = replace(prepared, drafter=drafter or first_drafter(recipe, prepared, directory, log))
    try:
        asyncio.run(conduct(recipe, prepared, directory, log, progress, checkpoint))
    finally:
        progress.phase("drawing the trace")
        directory.trace(trace_of(read_lineage(directory.path)))
    return directory.path


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
