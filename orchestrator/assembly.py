"""The parts of a run, made from its recipe and joined: the wiring, of which `orchestrator.run` is the conduct.

Each part is handed what it needs and knows no other; who is told of what, and asked for what, is read here.
"""

import time
from dataclasses import dataclass

from actors.engine import Sampling
from orchestrator.activity import Activity
from orchestrator.asking import anchors_of, probes_of, prompt_of, scoring_pass_of, token_rewards_of
from orchestrator.batch_builder import BatchBuilder
from orchestrator.checkpoints import Checkpoint, Checkpoints
from orchestrator.config import Recipe
from orchestrator.drafting.speculation import Speculation
from orchestrator.evaluate import Evaluator
from orchestrator.gap_watch import GapWatch
from orchestrator.group_plan import plan_of
from orchestrator.launch import Actors, speculates
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.make import ATTEMPTS, LAST_LIMIT, make_dispatcher, make_watchdog
from orchestrator.preflight import Prepared
from orchestrator.progress import Progress
from orchestrator.rollout_plane import RolloutPlane
from orchestrator.run_directory import RunDirectory
from orchestrator.run_log import RunLog
from orchestrator.run_state import RunMemory, RunState, Spent
from orchestrator.sampling import sampling_of
from orchestrator.stages.batches import Batches, make_batches
from orchestrator.stopping import Stopping
from orchestrator.storage.mirror import Mirror
from orchestrator.weight_bus import WeightBus


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
    stopping: Stopping
    mirror: Mirror
    resumed: Checkpoint[RunState] | None = None


def assemble(
    recipe: Recipe,
    prepared: Prepared,
    actors: Actors,
    directory: RunDirectory,
    mirror: Mirror,
    log: RunLog,
    progress: Progress,
    stopping: Stopping,
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
        tensor_parallel=recipe.topology.rollout.tensor_parallel,
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
    activity = Activity(actors.fleet, actors.rewards, dispatcher, log)
    section = recipe.speculation if speculates(recipe, prepared) else None
    speculation = None if section is None else Speculation(section, actors, bus, activity, log)
    watch = GapWatch(recipe.weight_sync.gap_alarm, "freshly sampled tokens", limit=tolerance.mean, warned=log.warned)

    mirror.report_to(log.warned)

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
        RunMemory(
            dispatcher,
            batches.norm,
            actors.rewards.history,
            actors.rewards.quarantine,
            watch,
            log,
            directory,
            spent,
        ),
        Checkpoints(
            directory.checkpoints,
            recipe,
            actors.learners,
            save_drafter=None if speculation is None else speculation.save,
            mirror=mirror,
        ),
        stopping,
        mirror,
        resumed,
    )
