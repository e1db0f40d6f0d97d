"""A stage of supervised steps, from end to end: examples -> batches -> learner -> model.

The learner, its objective, packing and export are those of every other stage; no engine and no reward worker starts.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from transformers import AutoConfig

from learners.batch import TrainBatch, TrainSequence
from learners.weights import WeightTruth
from orchestrator.checkpoints import Checkpoint, Checkpoints
from orchestrator.data.examples import Example, ExamplesSettings, read_examples
from orchestrator.data.file_prompts import shuffled
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.errors import PacelineError, RunError, SettingError, last_line
from orchestrator.joining import gpus_in_reach
from orchestrator.launch import START_TIMEOUT_S, learner_actors, start_ray
from orchestrator.learner_group import LearnerGroup
from orchestrator.placement import Placement, rank_bundles
from orchestrator.preflight import check_disk, check_optimizer, find_model, load_tokenizer
from orchestrator.progress import Progress
from orchestrator.recipe import dump_recipe
from orchestrator.reservation import cpus_of, reserve
from orchestrator.resume import check_weights
from orchestrator.run_directory import RunDirectory
from orchestrator.stages.recipes import SupervisedRecipe
from orchestrator.stages.supervised_log import SupervisedLog
from orchestrator.stages.supervised_resume import SupervisedResumption, SupervisedState
from orchestrator.stopping import BY_SIGNAL, Stopped, Stopping
from orchestrator.storage.address import is_remote
from orchestrator.storage.fetch import fetch_data
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.place import RunPlace
from orchestrator.summary import Status
from orchestrator.trackers import open_trackers

PROBE_TOKENS = 16
"""Of an example, with which a checkpoint's weights are read once."""


@dataclass(frozen=True, slots=True)
class PreparedExamples:
    """A supervised recipe's inputs, found and checked.

    Attributes:
        model: local folder of the checkpoint.
        dropped: examples that were too long.
    """

    placement: Placement
    model: Path
    examples: tuple[Example, ...]
    dropped: int


def prepare_examples(recipe: SupervisedRecipe, progress: Progress) -> PreparedExamples:
    """Find and check everything that the stage reads.

    Raises:
        SettingError: it cannot work.
    """
    placement = _place(recipe, gpus=gpus_in_reach(recipe.ray))
    model = find_model(recipe.model, progress)
    check_optimizer(recipe.trainer)
    progress.phase("reading the examples")
    limit = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    longest = recipe.trainer.token_budget if limit is None else min(limit, recipe.trainer.token_budget)
    examples, dropped = read_examples(examples_here(recipe.examples, progress), load_tokenizer(model), longest=longest)
    return PreparedExamples(placement, model, examples, dropped)


def examples_here(examples: ExamplesSettings, progress: Progress) -> ExamplesSettings:
    """The settings with a file of this machine, fetched where it lies in storage."""
    if not is_remote(examples.path):
        return examples
    file = fetch_data("examples.path", examples.path, (".jsonl",), progress)
    return examples.model_copy(update={"path": str(file)})


def run_supervised(
    recipe: SupervisedRecipe, progress: Progress, place: RunPlace, resumption: SupervisedResumption | None = None
) -> Path:
    """Prepare, train, and leave a run directory with a summary, however it ends.

    Args:
        place: where the run works.
        resumption: of the run that goes on; None begins one.

    Raises:
        SettingError: an input cannot work; nothing was written.
        RunError: it had to stop; its summary says why.
    """
    prepared = prepare_examples(recipe, progress)
    checkpoint = None if resumption is None else resumption.checkpoint
    if checkpoint is None:
        check_disk(place.folder, prepared.model)
    marks = None if checkpoint is None else checkpoint.state.marks
    directory = RunDirectory(place.folder, dump_recipe(recipe), since=marks)
    step = None if checkpoint is None else checkpoint.state.step
    config = recipe.model_dump(mode="json")
    trackers = open_trackers(recipe.tracking, directory.path, recipe.name, config, resumed=step)
    log = SupervisedLog(directory, progress, trackers, recipe.trainer.steps)
    if prepared.dropped:
        log.warned(f"{prepared.dropped} examples are longer than a micro-batch or the model can hold: left out")
    asyncio.run(_conduct(recipe, prepared, directory, place.mirror, log, progress, checkpoint))
    return directory.path


async def _conduct(
    recipe: SupervisedRecipe,
    prepared: PreparedExamples,
    directory: RunDirectory,
    mirror: Mirror,
    log: SupervisedLog,
    progress: Progress,
    resumed: Checkpoint[SupervisedState] | None,
) -> None:
    started = time.perf_counter() - (0.0 if resumed is None else resumed.state.wall_s)
    status: Status = "failed"
    reason: str | None = None
    stopping = Stopping(recipe.trainer.stop_timeout_s, progress.say)
    try:
        with stopping.heeded():
            progress.phase("starting Ray and the learner")
            async with learners_alone(recipe, prepared) as learners:
                fitting = Fitting(recipe, prepared, learners, directory, mirror, log, progress, stopping, started)
                await fitting.run(resumed)
                status = "completed"
    except (Stopped, asyncio.CancelledError):
        status, reason = "interrupted", BY_SIGNAL
    except PacelineError as error:
        reason = str(error)
        raise
    finally:
        log.close(status=status, reason=reason, wall_s=time.perf_counter() - started, examples=len(prepared.examples))


class Fitting:
    """The steps of a supervised run, from the first or from a checkpoint to the last.

    Args:
        started: when the run began, seconds of the performance counter, less what earlier processes took.
    """

    def __init__(
        self,
        recipe: SupervisedRecipe,
        prepared: PreparedExamples,
        learners: LearnerGroup,
        directory: RunDirectory,
        mirror: Mirror,
        log: SupervisedLog,
        progress: Progress,
        stopping: Stopping,
        started: float,
    ) -> None:
        self._stopping = stopping
        self._recipe, self._prepared, self._learners = recipe, prepared, learners
        self._directory, self._log, self._progress, self._started = directory, log, progress, started
        self._mirror = mirror
        mirror.report_to(log.warned)
        self._checkpoints = Checkpoints(directory.checkpoints, recipe, learners, mirror=mirror)

    async def run(self, resumed: Checkpoint[SupervisedState] | None) -> None:
        """Step by step to the last, then write the model. Raises: Stopped: behind a checkpoint."""
        trainer = self._recipe.trainer
        first = 0 if resumed is None else await self._go_on(resumed)
        self._stopping.guard()
        self._progress.phase("training on examples")
        order = example_order(len(self._prepared.examples), self._recipe.seed, shuffle=self._recipe.examples.shuffle)
        shown = islice(order, first * trainer.prompts_per_step, None)
        try:
            for step in range(first, trainer.steps):
                chosen = [self._prepared.examples[next(shown)] for _ in range(trainer.prompts_per_step)]
                doing = self._learners.begin_step(step)
                await doing.add(supervised_batch(chosen, step))
                self._log.stepped(step + 1, doing.batch, await doing.finish())
                self._checkpoints.check()
                self._mirror.check()
                if trainer.checkpoint_every and (step + 1) % trainer.checkpoint_every == 0:
                    await self._checkpoints.write(await self._state(step + 1))
                if self._stopping.asked:
                    self._progress.phase(f"writing the checkpoint of step {step + 1}")
                    await self._checkpoints.write_last(await self._state(step + 1))
                    raise Stopped
            await self._checkpoints.settle()
        finally:
            await self._checkpoints.close()
        self._progress.phase(f"writing {self._directory.model}")
        await self._learners.save(self._directory.model)
        if trainer.keep_optimizer:
            await self._learners.save_optimizer(self._directory.optimizer)

    async def _go_on(self, resumed: Checkpoint[SupervisedState]) -> int:
        """Bring everybody to where the run broke off; returns the steps made so far."""
        state = resumed.state
        self._progress.phase(f"going on from {resumed.path}")
        self._log.tally = state.tally
        self._log.resumed(state.step)
        await self._learners.load_checkpoint(resumed.learner)
        check_weights(resumed, await self._published(state.step))
        self._checkpoints.forget_after(state.step)
        self._directory.set_aside()
        self._mirror.set_aside(self._directory.path)
        return state.step

    async def _state(self, step: int) -> SupervisedState:
        truth = await self._published(step)
        wall_s = time.perf_counter() - self._started
        return SupervisedState(step, dict(truth.checksums), self._log.tally, self._directory.marks(), wall_s)

    async def _published(self, step: int) -> WeightTruth:
        """The weights as a version of their own, which a checkpoint exports and is checked by."""
        example = self._prepared.examples[0]
        return await self._learners.publish(step, (*example.prompt_ids, *example.response_ids)[:PROBE_TOKENS], keep=())


def supervised_batch(examples: Sequence[Example], step: int) -> TrainBatch:
    """Examples as a batch of the learner at `step`: a token's advantage is its weight, and weight 0 takes no loss."""
    return TrainBatch(
        step,
        tuple(
            TrainSequence(
                sequence_id=f"{step}/{number}/line{example.line}",
                prompt_ids=example.prompt_ids,
                response_ids=example.response_ids,
                behaviour_logprobs=(0.0,) * len(example.response_ids),
                versions=(step,) * len(example.response_ids),
                advantages=example.weights,
                loss_mask=tuple(weight > 0 for weight in example.weights),
            )
            for number, example in enumerate(examples)
        ),
    )


def example_order(count: int, seed: int, *, shuffle: bool) -> Iterator[int]:
    """Numbers below `count` for ever, each once an epoch."""
    epoch = 0
    while True:
        order = list(range(count))
        yield from shuffled(order, f"{seed}/examples/{epoch}") if shuffle else order
        epoch += 1


@asynccontextmanager
async def learners_alone(recipe: SupervisedRecipe, prepared: PreparedExamples) -> AsyncIterator[LearnerGroup]:
    """Ray and the learner group, started and ready; stopped on the way out, however that is taken.

    Raises:
        SettingError: the cluster cannot be reached.
        RunError: a rank did not start.
    """
    places = recipe.topology.learner
    wanted = rank_bundles(places, prepared.placement)
    start_ray(recipe.ray, cpus=cpus_of(wanted))
    try:
        reserved = await asyncio.to_thread(reserve, wanted, timeout_s=recipe.ray.room_timeout_s, grows=recipe.ray.grows)
        ranks = learner_actors(places, prepared.placement, reserved, engines=0)
        learners = LearnerGroup(ranks, step_timeout_s=recipe.trainer.step_timeout_s)
        try:
            await _start(recipe, prepared, ranks)
            yield learners
        finally:
            await learners.close()
            reserved.give_back()
    finally:
        ray.shutdown()


async def _start(recipe: SupervisedRecipe, prepared: PreparedExamples, ranks: Sequence[ActorHandle]) -> None:
    try:
        rendezvous = await within(START_TIMEOUT_S, ranks[0].rendezvous.remote(), "learner rank 0")
        device = prepared.placement.device
        starting = [
            rank.start.remote(
                str(prepared.model),
                recipe.algorithm,
                recipe.trainer,
                temperature=1.0,
                device=device,
                rendezvous=rendezvous,
                sequence_parallel=recipe.topology.learner.sequence_parallel,
            )
            for rank in ranks
        ]
        await all_within(START_TIMEOUT_S, starting, "start of the learner")
    except (RayError, DeadlineMissed) as error:
        reason = f"the learner did not start: {last_line(error)}"
        raise RunError(reason, "its log lies in Ray's session folder") from error


def _place(recipe: SupervisedRecipe, *, gpus: int) -> Placement:
    """Raises: SettingError: the recipe asks for more than there is."""
    joins_cluster = recipe.ray.address is not None
    if recipe.device == "cpu" or (recipe.device == "auto" and not gpus):
        return Placement("cpu", 0, 0, "gloo", 0.0)
    places = recipe.topology.learner
    per_rank = 1 if places.gpus is None else places.gpus
    if places.ranks * per_rank > gpus and not joins_cluster:
        reason = f"{places.ranks} ranks need {per_rank:g} GPU each, this machine has {gpus}"
        raise SettingError(
            "topology.learner.ranks", reason, "use fewer, set device=cpu, or set ray.address to a cluster"
        )
    return Placement("gpu", 0, per_rank, "nccl", 0.0)
