"""A stage of supervised steps, from end to end: examples -> batches -> learner -> model.

The learner, its objective, packing and export are those of every other stage; no engine and no reward worker starts.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from transformers import AutoConfig

from learners.batch import TrainBatch, TrainSequence
from orchestrator.data.examples import Example, read_examples
from orchestrator.data.file_prompts import shuffled
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.errors import PacelineError, RunError, SettingError, last_line
from orchestrator.launch import START_TIMEOUT_S, learner_actors, start_ray
from orchestrator.learner_group import LearnerGroup
from orchestrator.placement import Placement
from orchestrator.preflight import check_disk, find_model, load_tokenizer
from orchestrator.progress import Progress
from orchestrator.recipe import dump_recipe
from orchestrator.run import stopped_by_signals
from orchestrator.run_directory import RunDirectory
from orchestrator.stages.recipes import SupervisedRecipe
from orchestrator.stages.supervised_log import SupervisedLog
from orchestrator.summary import Status
from orchestrator.trackers import open_trackers


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
    progress.phase("reading the examples")
    limit = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
    longest = recipe.trainer.token_budget if limit is None else min(limit, recipe.trainer.token_budget)
    examples, dropped = read_examples(recipe.examples, load_tokenizer(model), longest=longest)
    return PreparedExamples(placement, model, examples, dropped)


def run_supervised(recipe: SupervisedRecipe, progress: Progress, path: Path) -> Path:
    """Prepare, train, and leave a run directory with a summary, however it ends.

    Raises:
        SettingError: an input cannot work; nothing was written.
        RunError: it had to stop; its summary says why.
    """
    prepared = prepare_examples(recipe, progress)
    check_disk(path, prepared.model)
    directory = RunDirectory(path, dump_recipe(recipe))
    trackers = open_trackers(recipe.tracking, directory.path, recipe.name, recipe.model_dump(mode="json"))
    log = SupervisedLog(directory, progress, trackers, recipe.trainer.steps)
    if prepared.dropped:
        log.warned(f"{prepared.dropped} examples are longer than a micro-batch or the model can hold: left out")
    asyncio.run(_conduct(recipe, prepared, directory, log, progress))
    return directory.path


async def _conduct(
    recipe: SupervisedRecipe,
    prepared: PreparedExamples,
    directory: RunDirectory,
    log: SupervisedLog,
    progress: Progress,
) -> None:
    started = time.perf_counter()
    status: Status = "failed"
    reason: str | None = None
    task = asyncio.current_task()
    assert task is not None
    try:
        with stopped_by_signals(task):
            progress.phase("starting Ray and the learner")
            async with learners_alone(recipe, prepared) as learners:
                await fit(recipe, prepared, learners, directory, log, progress)
                status = "completed"
    except asyncio.CancelledError:
        status, reason = "interrupted", "stopped by a signal"
    except PacelineError as error:
        reason = str(error)
        raise
    finally:
        log.close(status=status, reason=reason, wall_s=time.perf_counter() - started, examples=len(prepared.examples))


async def fit(
    recipe: SupervisedRecipe,
    prepared: PreparedExamples,
    learners: LearnerGroup,
    directory: RunDirectory,
    log: SupervisedLog,
    progress: Progress,
) -> None:
    """Step by step to the last, then write the model."""
    progress.phase("training on examples")
    trainer = recipe.trainer
    order = example_order(len(prepared.examples), recipe.seed, shuffle=recipe.examples.shuffle)
    for step in range(trainer.steps):
        chosen = [prepared.examples[next(order)] for _ in range(trainer.prompts_per_step)]
        doing = learners.begin_step(step)
        await doing.add(supervised_batch(chosen, step))
        log.stepped(step + 1, doing.batch, await doing.finish())
        if trainer.checkpoint_every and (step + 1) % trainer.checkpoint_every == 0 and step + 1 < trainer.steps:
            await learners.save(directory.checkpoints / f"step-{step + 1:06d}" / "model")
    progress.phase(f"writing {directory.model}")
    await learners.save(directory.model)


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
