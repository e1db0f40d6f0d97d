"""Starts Ray and the actors of a run, and stops them again.

Each actor gets what it needs by argument; none looks up another. On one machine without GPUs the cores are shared
out: every engine and every learner rank computes with its own number of threads, so that they do not take turns on
the same core.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.drafter_trainer import DrafterTrainerWorker
from actors.engine import EngineSettings
from actors.learner import LearnerWorker
from actors.reward import RewardWorker
from actors.rollout import RolloutWorker
from actors.settings import RolloutSettings
from actors.speculation.settings import SpeculationSettings
from learners.errors import first_line
from learners.settings import LearnerPlaces
from orchestrator.config import RaySettings, Recipe
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.drafting.trainer_handle import DrafterTrainerHandle
from orchestrator.errors import RunError, SettingError, last_line
from orchestrator.joining import QUIET, join
from orchestrator.learner_group import LearnerGroup
from orchestrator.model_addresses import endpoint_addresses
from orchestrator.model_servers import ModelServers, ServerListener
from orchestrator.placement import (
    DRAFTER,
    NODE_SHARE,
    REWARD,
    Placement,
    bundles,
    drafter_gpus,
    judge_name,
    rank_name,
    rollout_name,
)
from orchestrator.policies.make import RESTART_WINDOW_S
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.preflight import Prepared
from orchestrator.reservation import Reservation, cpus_of, reserve
from orchestrator.reward_client import RewardClient, RewardListener
from orchestrator.rollout_fleet import FleetListener, RolloutFleet
from orchestrator.sight import check_sight
from orchestrator.stages.recipes import with_models
from orchestrator.worker_link import WorkerLink

START_TIMEOUT_S = 300.0
SCORING_GROUPS, ASKING_GROUPS = 8, 256
"""Groups that the reward actor takes on at a time, where no term asks a model, and where one may."""


class WorkerListener(FleetListener, RewardListener, ServerListener, Protocol):
    """Is told of every actor that is lost or joins."""


@dataclass(frozen=True, slots=True)
class Actors:
    """The started actors of a run, each behind its driver-side handle.

    Attributes:
        spawn_rollout: makes a rollout actor of this name, not started.
        drafter: the drafter's trainer, where the run trains one.
    """

    fleet: RolloutFleet
    rewards: RewardClient
    learners: LearnerGroup
    spawn_rollout: Callable[[str], ActorHandle]
    models: ModelServers
    drafter: DrafterTrainerHandle | None = None


@contextmanager
def room(recipe: Recipe, prepared: Prepared, run_dir: Path) -> Iterator[Reservation]:
    """Ray, and what it sets aside for the run; given back and stopped on the way out, however that is taken.

    Args:
        run_dir: which the nodes must see; it need not be there yet.

    Raises:
        SettingError: the cluster cannot be reached, is too small, or does not see the run's files.
        RunError: Ray does not start here, or others hold the cluster for too long.
    """
    wanted = bundles(recipe, prepared.placement)
    # The actors compute with few threads each, so this machine may host more of them than it has cores.
    start_ray(recipe.ray, cpus=cpus_of(wanted))
    try:
        reserved = reserve(wanted, timeout_s=recipe.ray.room_timeout_s, grows=recipe.ray.grows)
        try:
            check_sight(reserved.nodes(), run_dir, _files_needed(recipe, prepared, run_dir))
            yield reserved
        finally:
            reserved.give_back()
    finally:
        ray.shutdown()


def _files_needed(recipe: Recipe, prepared: Prepared, run_dir: Path) -> dict[str, list[Path]]:
    """By actor, the paths that it reads or writes."""
    drafts = [run_dir] if recipe.speculation is not None and recipe.speculation.learns else []
    engines = {rollout_name(number): [prepared.model, *drafts] for number in range(recipe.topology.rollout.workers)}
    ranks = {rank_name(rank): [prepared.model, run_dir] for rank in range(recipe.topology.learner.ranks)}
    judges = {judge_name(name): [folder] for name, folder in prepared.reward_models.items()}
    return {**engines, **ranks, **judges}


@asynccontextmanager
async def launched(
    recipe: Recipe, prepared: Prepared, reserved: Reservation, listener: WorkerListener
) -> AsyncIterator[Actors]:
    """All actors, started and ready in their places; stopped on the way out, however that is taken.

    Raises:
        RunError: an actor did not start.
    """
    started: list[ActorHandle] = []
    try:
        actors = await _start_actors(recipe, prepared, reserved, listener, started)
    except BaseException:
        for actor in started:
            ray.kill(actor, no_restart=True)
        raise
    try:
        yield actors
    finally:
        handles = (actors.fleet, actors.learners, actors.rewards, actors.models)
        await asyncio.gather(*[handle.close() for handle in handles])


def start_ray(settings: RaySettings, *, cpus: int) -> None:
    """Join the configured cluster, or start Ray on this machine with room for actors of so many cores.

    Raises:
        SettingError: no cluster answers, or the port for metrics is taken.
        RunError: Ray did not start here.
    """
    if settings.address is not None:
        join(settings.address)
        return
    if settings.metrics_port is not None:
        _check_free("ray.metrics_port", settings.metrics_port)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            address="local",  # one of our own, also where another cluster runs on this machine
            num_cpus=max(os.cpu_count() or 1, cpus),
            include_dashboard=False,
            object_store_memory=settings.object_store_mb * 2**20,
            _metrics_export_port=settings.metrics_port,
            **QUIET,
        )
    except Exception as error:  # Ray raises bare `Exception`s when its processes are late
        reason = f"Ray did not start on this machine: {first_line(error)}"
        raise RunError(reason, "look for other Ray sessions (`ray status`), free memory and shared memory") from error


def _check_free(setting: str, port: int) -> None:
    """Ray itself would start, and its agent die of it later."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise SettingError(setting, f"port {port} is taken ({error.strerror})", "choose another, or none") from None


async def _start_actors(
    recipe: Recipe, prepared: Prepared, reserved: Reservation, listener: WorkerListener, started: list[ActorHandle]
) -> Actors:
    engines, learner = recipe.topology.rollout.workers, recipe.topology.learner
    spawn_rollout = _rollout_spawner(recipe, prepared, reserved)
    rollout = {name: spawn_rollout(name) for name in map(rollout_name, range(engines))}
    ranks = learner_actors(learner, prepared.placement, reserved, engines=engines, deterministic=recipe.deterministic)
    started += [*rollout.values(), *ranks]
    rewards = RewardClient(_reward_spawner(recipe, reserved, started), recipe.reward, listener=listener)
    rewards.readdress(endpoint_addresses(recipe.reward))
    models = _model_servers(recipe, prepared, reserved, rewards, listener)
    rendezvous = await within(START_TIMEOUT_S, ranks[0].rendezvous.remote(), "learner rank 0")
    starting = [
        *[worker.start.remote() for worker in rollout.values()],
        *[
            rank.start.remote(
                str(prepared.model),
                with_models(recipe, prepared.companions).algorithm,
                recipe.trainer,
                temperature=recipe.rollout.temperature,
                device=prepared.placement.device,
                rendezvous=rendezvous,
                sequence_parallel=learner.sequence_parallel,
                repeat_seed=recipe.seed if recipe.deterministic else None,
            )
            for rank in ranks
        ],
        rewards.start(),
        models.start(),
    ]
    try:
        await all_within(recipe.rollout.start_timeout_s, starting, "start of the actors")
    except (RayError, DeadlineMissed) as error:
        raise RunError(f"an actor did not start: {last_line(error)}", "its log lies in Ray's session folder") from error
    links = [WorkerLink(name, actor) for name, actor in rollout.items()]
    learners = LearnerGroup(ranks, step_timeout_s=recipe.trainer.step_timeout_s)
    drafter = await _start_drafter_trainer(recipe, prepared, reserved, learners, started)
    fleet = RolloutFleet(links, _fleet_settings(recipe, prepared), listener=listener)
    return Actors(fleet, rewards, learners, spawn_rollout, models, drafter)


def _fleet_settings(recipe: Recipe, prepared: Prepared) -> RolloutSettings:
    """What the fleet goes by: answers that an engine would only queue wait in the fleet, where no deadline runs."""
    alone = recipe.deterministic and recipe.rollout.engine == "vllm" and prepared.placement.device == "cpu"
    return recipe.rollout.model_copy(update={"max_running": 1}) if alone else recipe.rollout


async def _start_drafter_trainer(
    recipe: Recipe, prepared: Prepared, reserved: Reservation, learners: LearnerGroup, started: list[ActorHandle]
) -> DrafterTrainerHandle | None:
    """The drafter's trainer, and the learner told which hidden states it learns from."""
    section = recipe.speculation
    if section is None or not section.learns or prepared.drafter is None:
        return None
    options = {
        "num_cpus": recipe.topology.drafter.cpus,
        "num_gpus": drafter_gpus(recipe, prepared.placement),
        **reserved.options(DRAFTER),
    }
    actor = ray.remote(**options)(DrafterTrainerWorker).remote()
    started.append(actor)
    start = actor.start.remote(
        str(prepared.model),
        str(prepared.drafter),
        section.training,
        section.windows,
        wire_dtype=recipe.rollout.dtype,
        device=prepared.placement.device,
        threads=section.retrain.threads,
    )
    try:
        layers = await within(START_TIMEOUT_S, start, "the drafter's trainer")
    except RayError as error:
        raise RunError(f"the drafter's trainer did not start: {last_line(error)}", "set speculation=off") from error
    await learners.capture(layers, section.capture)
    return DrafterTrainerHandle(actor, step_timeout_s=section.retrain.step_timeout_s)


def _model_servers(
    recipe: Recipe, prepared: Prepared, reserved: Reservation, rewards: RewardClient, listener: ServerListener
) -> ModelServers:
    models = recipe.reward.models
    return ModelServers(
        {
            name: (models[name], recipe.topology.judge_places(name), folder)
            for name, folder in prepared.reward_models.items()
        },
        reserved,
        tell=rewards.readdress,
        listener=listener,
        budget=RestartBudget(recipe.rollout.max_restarts, RESTART_WINDOW_S),
        start_timeout_s=recipe.rollout.start_timeout_s,
        on_cluster=recipe.ray.address is not None,
    )


def _reward_spawner(recipe: Recipe, reserved: Reservation, started: list[ActorHandle]) -> Callable[[], ActorHandle]:
    # Groups that wait for a model take a thread each, and shall not stand in the way of those that do not.
    groups = ASKING_GROUPS if recipe.reward.models else SCORING_GROUPS
    options = {
        "num_cpus": recipe.topology.reward.cpus,
        "max_concurrency": groups,
        "concurrency_groups": {"heartbeat": 1},
        **reserved.options(REWARD),
    }

    def spawn() -> ActorHandle:
        actor = ray.remote(**options)(RewardWorker).remote(recipe.reward)
        started.append(actor)
        return actor

    return spawn


def _rollout_spawner(recipe: Recipe, prepared: Prepared, reserved: Reservation) -> Callable[[str], ActorHandle]:
    rollout, places, placement = recipe.rollout, recipe.topology.rollout, prepared.placement
    settings = EngineSettings(
        model=str(prepared.model),
        dtype=rollout.dtype,
        context_length=prepared.context_length,
        max_running=rollout.max_running,
        seed=recipe.seed,
        threads=places.threads,
        kv_cache_gib=rollout.kv_cache_gib,
        gpu_memory_utilization=placement.gpu_memory_utilization,
        tensor_parallel=places.tensor_parallel,
        transfer=placement.transfer,
        start_timeout_s=rollout.start_timeout_s,
        speculation=_speculation(recipe, prepared),
        batch_invariant=recipe.deterministic,
    )
    options = {"num_cpus": places.cpus, "num_gpus": placement.engine_gpus, "max_concurrency": 1000}
    # One by which the fleet has grown lies in no bundle.
    unreserved = {
        "memory": int((places.memory_gib or 0) * 2**30) or None,
        "resources": None if places.nodes is None else {places.nodes: NODE_SHARE},
    }

    def spawn(name: str) -> ActorHandle:
        where = reserved.options(name) or unreserved
        return ray.remote(**options, **where)(RolloutWorker).remote(name, rollout.engine, settings)

    return spawn


def speculates(recipe: Recipe, prepared: Prepared) -> bool:
    """Whether the run's engines draft: the recipe wants it, and there is a drafter."""
    section = recipe.speculation
    return section is not None and (section.drafter == "suffix" or prepared.drafter is not None)


def _speculation(recipe: Recipe, prepared: Prepared) -> SpeculationSettings | None:
    """What the engines are told of the recipe's `speculation`."""
    section = recipe.speculation
    if section is None or not speculates(recipe, prepared):
        return None
    return SpeculationSettings(
        kind=section.drafter,
        drafter=None if prepared.drafter is None else str(prepared.drafter),
        lengths=section.lengths,
        governor=section.governor,
        governor_options=section.governor_options,
        draft_sampling=section.draft_sampling,
        required=section.required,
    )


def learner_actors(
    places: LearnerPlaces, placement: Placement, reserved: Reservation, *, engines: int, deterministic: bool = False
) -> list[ActorHandle]:
    """The ranks of a learner group, made and not started, beside so many engines."""
    world_size = places.ranks
    share = max(1, (os.cpu_count() or 1) // (world_size + engines))
    threads = places.threads or (1 if deterministic else share)
    options = {
        "num_cpus": places.cpus,
        "num_gpus": placement.rank_gpus,
        "concurrency_groups": {"io": max(1, 4 * engines)},
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
    }
    return [
        ray.remote(**options, **reserved.options(rank_name(rank)))(LearnerWorker).remote(rank, world_size)
        for rank in range(world_size)
    ]
