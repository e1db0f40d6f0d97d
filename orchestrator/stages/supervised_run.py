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
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from transformers import AutoConfig

from learners.batch import TrainBatch, TrainSequence
from learners.weights import WeightTruth
from orchestrator.checkpoints import Checkpoint, Checkpoints
from orchestrator.data.examples import Example, read_examples
from orchestrator.data.file_prompts import shuffled
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.errors import PacelineError, RunError, SettingError, last_line
from orchestrator.launch import START_TIMEOUT_S, learner_actors, start_ray
from orchestrator.learner_group import LearnerGroup
from orchestrator.placement import Placement
from orchestrator.preflight import check_disk, check_optimizer, find_model, load_tokenizer
from orchestrator.progress import Progress
from orchestrator.recipe import dump_recipe
from orchestrator.resume import check_weights
from orchestrator.run import stopped_by_signals
from orchestrator.run_directory import RunDirectory
from orchestrator.stages.recipes import SupervisedRecipe
from orchestrator.stages.supervised_log import SupervisedLog
from orchestrator.stages.supervised_resume import SupervisedResumption, SupervisedState
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
    placement = _place(recipe, gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0)
    model = find_model(recipe.model, progress)
    check_optimizer(recipe.trainer)
    progress.phase("reading the examples")
    limit = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    longest = recipe.trainer.token_budget if limit is None else min(limit, recipe.trainer.token_budget)
    examples, dropped = read_examples(recipe.examples, load_tokenizer(model), longest=longest)
    return PreparedExamples(placement, model, examples, dropped)


def run_supervised(
    recipe: SupervisedRecipe, progress: Progress, path: Path, resumption: SupervisedResumption | None = None
) -> Path:
    """Prepare, train, and leave a run directory with a summary, however it ends.

    Args:
        resumption: of the run that goes on; None begins one.

    Raises:
        SettingError: an input cannot work; nothing was written.
        RunError: it had to stop; its summary says why.
    """
    prepared = prepare_examples(recipe, progress)
    checkpoint = None if resumption is None else resumption.checkpoint
    if checkpoint is None:
        check_disk(path, prepared.model)
    directory = RunDirectory(path, dump_recipe(recipe), since=None if checkpoint is None else checkpoint.state.marks)
    step = None if checkpoint is None else checkpoint.state.step
    config = recipe.model_dump(mode="json")
    trackers = open_trackers(recipe.tracking, directory.path, recipe.name, config, resumed=step)
    log = SupervisedLog(directory, progress, trackers, recipe.trainer.steps)
    if prepared.dropped:
        log.warned(f"{prepared.dropped} examples are longer than a micro-batch or the model can hold: left out")
    asyncio.run(_conduct(recipe, prepared, directory, log, progress, checkpoint))
    return directory.path


async def _conduct(
    recipe: SupervisedRecipe,
    prepared: PreparedExamples,
    directory: RunDirectory,
    log: SupervisedLog,
    progress: Progress,
    resumed: Checkpoint[SupervisedState] | None,
) -> None:
    started = time.perf_counter() - (0.0 if resumed is None else resumed.state.wall_s)
    status: Status = "failed"
    reason: str | None = None
    task = asyncio.current_task()
    assert task is not None
    try:
        with stopped_by_signals(task):
            progress.phase("starting Ray and the learner")
            async with learners_alone(recipe, prepared) as learners:
                fitting = Fitting(recipe, prepared, learners, directory, log, progress, started)
                await fitting.run(resumed)
                status = "completed"
    except asyncio.CancelledError:
        status, reason = "interrupted", "stopped by a signal"
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
        log: SupervisedLog,
        progress: Progress,
        started: float,
    ) -> None:
        self._recipe, self._prepared, self._learners = recipe, prepared, learners
        self._directory, self._log, self._progress, self._started = directory, log, progress, started
        self._checkpoints = Checkpoints(directory.checkpoints, recipe, learners)

    async def run(self, resumed: Checkpoint[SupervisedState] | None) -> None:
        """Step by step to the last, then write the model."""
        trainer = self._recipe.trainer
        first = 0 if resumed is None else await self._go_on(resumed)
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
                if trainer.checkpoint_every and (step + 1) % trainer.checkpoint_every == 0:
                    await self._checkpoint(step + 1)
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
        return state.step

    async def _checkpoint(self, step: int) -> None:
        truth = await self._published(step)
        wall_s = time.perf_counter() - self._started
        sums = dict(truth.checksums)
        await self._checkpoints.write(
            SupervisedState(step, sums, self._log.tally, self._directory.marks(), wall_s),
        )

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
    start_ray(recipe.ray, actors=recipe.trainer.ranks)
    ranks = learner_actors(recipe.trainer, prepared.placement, engines=0)
    learners = LearnerGroup(ranks, step_timeout_s=recipe.trainer.step_timeout_s)
    try:
        await _start(recipe, prepared, ranks)
        yield learners
    finally:
        await learners.close()
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
    if recipe.trainer.ranks > gpus and not joins_cluster:
        reason = f"{recipe.trainer.ranks} ranks need a GPU each, this machine has {gpus}"
        raise SettingError("trainer.ranks", reason, "use fewer, set device=cpu, or set ray.address to a cluster")
    return Placement("gpu", 0, 1, "nccl", 0.0)
