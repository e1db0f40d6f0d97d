"""The drafter's trainer as the driver sees it: its verbs, each with a deadline, served in the order of the calls."""

from pathlib import Path

from ray import ObjectRef
from ray.actor import ActorHandle

from actors.drafter_trainer import DrafterTruth, Judged
from actors.learner import WindowParcel
from orchestrator.deadline import within


class DrafterTrainerHandle:
    """Args: actor: a started `DrafterTrainerWorker`; step_timeout_s: deadline of each call.

    Every verb raises RayError where the actor died or failed, and DeadlineMissed.
    """

    def __init__(self, actor: ActorHandle, *, step_timeout_s: float) -> None:
        self._actor, self._timeout_s = actor, step_timeout_s

    async def offer(self, parcel: WindowParcel) -> None:
        """Ray hands the windows on from the learner's node; they do not pass through the driver."""
        await within(self._timeout_s, self._actor.offer.remote(parcel.windows[0]), "windows for the drafter")

    async def end_step(self) -> None:
        await within(self._timeout_s, self._actor.end_step.remote(), "the drafter's trainer")

    async def refresh(self, tables: ObjectRef) -> None:
        await within(self._timeout_s, self._actor.refresh.remote(tables), "the drafter's embedding and head")

    async def micro_step(self, token_budget: int) -> dict[str, float]:
        metrics: dict[str, float] = await within(
            self._timeout_s, self._actor.micro_step.remote(token_budget), "a micro-step of the drafter's training"
        )
        return metrics

    async def judge(self, positions: int) -> Judged | None:
        judged: Judged | None = await within(
            self._timeout_s, self._actor.judge.remote(positions), "the drafter's shadow evaluation"
        )
        return judged

    async def publish(self, version: int) -> DrafterTruth:
        truth: DrafterTruth = await within(
            self._timeout_s, self._actor.publish.remote(version), "the drafter's weights"
        )
        return truth

    async def take_back(self, truth: DrafterTruth) -> None:
        await within(self._timeout_s, self._actor.take_back.remote(truth), "the drafter's earlier weights")

    async def save(self, folder: Path, version: int) -> None:
        await within(self._timeout_s, self._actor.save.remote(folder, version), "writing the drafter")
