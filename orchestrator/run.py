"""A run from end to end. Read `train` first: it is the whole system.

    PromptSource -> Dispatcher -> RolloutFleet -> RewardClient -> GroupBuffer -> build_batch -> Learners -> WeightBus

Prompts flow through engines and rewards into the buffer in the background (`RolloutPlane`), as far ahead as the
staleness rule allows, while the learner trains; after each step the weights travel to the engines beside the next
step. Components do not know this module or each other: they are handed what they need.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from actors.engine import Sampling
from learners.weights import WeightTruth
from orchestrator.activity import Activity
from orchestrator.background import Background
from orchestrator.batch_builder import build_batch
from orchestrator.config import Recipe
from orchestrator.dispatch import Dispatcher
from orchestrator.errors import PacelineError
from orchestrator.evaluate import Evaluator
from orchestrator.launch import Actors, launched
from orchestrator.ledger import Ledger
from orchestrator.preflight import Prepared, check_disk, prepare
from orchestrator.progress import Progress
from orchestrator.recipe import dump_recipe
from orchestrator.rollout_fleet import MAX_ATTEMPTS
from orchestrator.rollout_plane import RolloutPlane
from orchestrator.run_directory import RunDirectory
from orchestrator.run_log import RunLog
from orchestrator.staleness import StalenessRule
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
    bus: WeightBus
    evaluator: Evaluator
    activity: Activity
    directory: RunDirectory
    log: RunLog
    progress: Progress


async def train(run: Run) -> None:
    """The driver: attest the engines, then batch by batch until the last step."""
    run.progress.phase("sync drill: a visible perturbation is sent, attested, taken back, attested again")
    await run.bus.open()
    await run.bus.drill()
    await evaluate(run, step=0)

    run.progress.phase("training")
    run.activity.begin()
    async with Background() as delivery:
        for version in range(run.recipe.trainer.steps):
            with run.activity.learner("waits for a batch", idle=True):
                groups = await run.plane.next_batch(version)
            with run.activity.learner(f"trains step {version + 1}"):
                batch = build_batch(groups, advantage=run.recipe.algorithm.advantage, version=version)
                metrics = await run.actors.learners.step(batch)
                run.dispatcher.trained(groups)
            with run.activity.learner("publishes weights"):
                await delivery.wait()
                truth = await run.bus.snapshot(version + 1)
                await delivery.start(deliver(run, truth))
            run.log.trained(version + 1, groups, batch, metrics, run.activity.lap())
            await between_steps(run, version + 1, delivery)
        await delivery.wait()
    run.activity.end()
    await evaluate(run, step=run.recipe.trainer.steps)
    await save(run, run.directory.model)


async def between_steps(run: Run, step: int, delivery: Background) -> None:
    """Evaluate and write checkpoints where the recipe asks for it; the last step is left to the end of the run."""
    if step == run.recipe.trainer.steps:
        return
    if _falls_on(run.recipe.eval.every, step):
        await delivery.wait()
        await evaluate(run, step)
    if _falls_on(run.recipe.trainer.checkpoint_every, step):
        await save(run, run.directory.checkpoint(step))


async def deliver(run: Run, truth: WeightTruth) -> None:
    """Bring a version to the engines while the learner goes on; then more prompts may start."""
    try:
        await run.bus.deliver(truth)
    except PacelineError as error:
        run.plane.abandon(error)
    else:
        run.plane.admit()


async def evaluate(run: Run, step: int) -> None:
    """Held-out accuracy under the weights that the engines serve now, where anything is held out."""
    if not len(run.evaluator):
        return
    run.progress.phase(f"evaluating at step {step}")
    result = await run.evaluator.run(run.actors.fleet, run.actors.rewards, run.progress.part)
    run.log.evaluated(step, "held_out", result)


async def save(run: Run, folder: Path) -> None:
    """Write the model as a Hugging Face checkpoint.

    Raises:
        RunError: the disk is full or cannot be written; nothing half-written stays.
    """
    run.progress.phase(f"writing {folder}")
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


async def conduct(recipe: Recipe, prepared: Prepared, directory: RunDirectory, log: RunLog, progress: Progress) -> None:
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
                run = assemble(recipe, prepared, actors, directory, log, progress)
                actors.fleet.begin()
                watching = asyncio.create_task(run.activity.watch())
                try:
                    await train(run)
                    status = "completed"
                finally:
                    watching.cancel()
                    await run.plane.close()
    except asyncio.CancelledError:
        status, reason = "interrupted", "stopped by a signal"
    except PacelineError as error:
        reason = str(error)
        raise
    finally:
        summary = summarise(
            log.tally,
            status=status,
            reason=reason,
            wall_s=time.perf_counter() - started,
            train_s=run.activity.train_s if run else 0.0,
            tokens_generated=run.actors.fleet.tokens if run else 0,
            prompts=run.dispatcher.ledger.counts() if run else Ledger().counts(),
            idle_fraction=run.activity.idle_fractions() if run else {},
        )
        directory.summary(summary)
        log.close()


def assemble(
    recipe: Recipe, prepared: Prepared, actors: Actors, directory: RunDirectory, log: RunLog, progress: Progress
) -> Run:
    """Put the parts of a run together."""
    rollout, trainer = recipe.rollout, recipe.trainer
    rule = StalenessRule(
        batch=trainer.prompts_per_step,
        max_staleness=rollout.max_staleness,
        max_concurrent=-(-rollout.workers * rollout.max_running // rollout.group_size),
    )
    dispatcher = Dispatcher(
        source=prepared.source,
        encode=prepared.encode,
        rule=rule,
        drop_zero_variance=recipe.algorithm.drop_zero_variance,
        wanted=trainer.steps * trainer.prompts_per_step,
    )
    sampling = Sampling(
        max_tokens=rollout.max_response_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        stop_token_ids=prepared.stop_token_ids,
    )
    plane = RolloutPlane(
        dispatcher=dispatcher,
        fleet=actors.fleet,
        rewards=actors.rewards,
        group_size=rollout.group_size,
        sampling=sampling,
        seed=recipe.seed,
        decode=prepared.decode,
        listener=log,
        starve_timeout_s=MAX_ATTEMPTS * rollout.answer_timeout_s,
    )
    bus = WeightBus(
        actors.learners,
        actors.fleet,
        recipe.weight_sync,
        tolerance=recipe.weight_sync.tolerance(rollout.dtype),
        backend=prepared.placement.transfer,
        engine_ranks=rollout.tensor_parallel,
        probe_ids=prepared.probe(recipe.weight_sync.probe_tokens),
        listener=log,
    )
    evaluator = Evaluator(
        prepared.eval_prompts,
        settings=recipe.eval,
        sampling=sampling,
        correctness_term=recipe.reward.terms[0].logged_as,
        decode=prepared.decode,
        seed=recipe.seed,
    )
    activity = Activity(actors.fleet, actors.rewards, dispatcher, progress)
    return Run(recipe, actors, dispatcher, plane, bus, evaluator, activity, directory, log, progress)


def run_recipe(recipe: Recipe, progress: Progress) -> Path:
    """Prepare, train, and leave a run directory with a summary, however the run ends.

    Returns: the run directory; its summary.json says how the run ended (`completed` or `interrupted`).

    Raises:
        SettingError: an input cannot work; nothing was written.
        RunError: the run had to stop; its summary says `failed` and why.
    """
    prepared = prepare(recipe, progress)
    path = Path(recipe.run_dir or f"runs/{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}")
    check_disk(path, prepared.model)
    directory = RunDirectory(path, dump_recipe(recipe))
    trackers = open_trackers(recipe.tracking, directory.path, recipe.name, recipe.model_dump(mode="json"))
    log = RunLog(
        directory,
        progress,
        trackers,
        decode=prepared.decode,
        samples_every=recipe.tracking.samples_every,
        steps=recipe.trainer.steps,
    )
    asyncio.run(conduct(recipe, prepared, directory, log, progress))
    return directory.path


def _falls_on(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
