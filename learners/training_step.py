"""One training step in progress: what it has gathered, and the optimizer updates that it makes of it.

Gradients of `add` are sums that nothing has divided yet; `update` divides by the counts of everything added since the
last one. So a batch may be added whole or in parts, in any number of them, with one result up to float rounding.

Invariants: every method is called on all ranks alike, since inside are collectives, and with parts of the same cut
(the caller guarantees both); nobody else touches the policy's gradients meanwhile.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from learners.adapters import WithoutAdapters
from learners.aggregation import BatchCounts
from learners.backend import Backend
from learners.companion import Companion
from learners.critic.critic import Critic, describe_critic
from learners.drafters.capture import HiddenCapture
from learners.drafters.windows import Window
from learners.logprobs import TokenLogprobs
from learners.meter import TokenMeter
from learners.micro_batch import MicroBatch, Part
from learners.needs import Need
from learners.objective import ObjectiveInput, divisor_of, objective
from learners.process_group import sum_over_ranks
from learners.settings import AlgorithmSettings
from learners.skipped_updates import SkippedUpdates
from learners.step_metrics import describe, record


@dataclass(frozen=True, slots=True)
class Trainee:
    """What every step of one learner works on.

    Attributes:
        needs: what the algorithm's objective reads of a forward pass and of the batch.
        temperature: at which the answers were sampled.
        skipped: counts the policy's updates that are left out.
        companions: policies that terms of the loss compare with, by their names in `algorithm`.
        critic: trained in the same steps, where the advantages are made of its values.
        capture: keeps hidden states of the forward passes for a drafter's training; None keeps none.
        data_group: ranks whose statistics add up to the batch's; None is all.
    """

    backend: Backend
    algorithm: AlgorithmSettings
    needs: frozenset[Need]
    temperature: float
    device: torch.device
    skipped: SkippedUpdates
    companions: Mapping[str, Companion | WithoutAdapters] = field(default_factory=dict)
    critic: Critic | None = None
    capture: HiddenCapture | None = None
    data_group: dist.ProcessGroup | None = None


class TrainingStep:
    """Args: version: the learner's when the step began, from which staleness counts."""

    def __init__(self, trainee: Trainee, version: int) -> None:
        self.version = version
        self._trainee = trainee
        self._meter = TokenMeter(trainee.device, trainee.data_group)
        self._norms: list[float] = []
        self._critic_norms: list[float] = []
        self._policy_rests = trainee.critic is not None and trainee.critic.warming_up
        self.windows: list[Window] = []
        """What the capture kept."""
        self._open_minibatch()

    @property
    def counts(self) -> BatchCounts:
        """Of what was added since the last update."""
        return self._counts

    def add(self, part: Part, starts: Sequence[TokenLogprobs] | None = None) -> None:
        """Forward and backward over this rank's share of a part.

        Args:
            starts: of each micro-batch what the weights at the start of the step gave; None where there has
                been no update since, so that the forward at hand gives them, or where the objective needs none.
        """
        for index, host in enumerate(part.micro_batches):
            self._add_micro_batch(host.to(self._trainee.device), starts[index] if starts is not None else None)
        self._counts += part.counts

    def update(self) -> None:
        """One optimizer step from all that was added since the last; a part with loss tokens is needed.

        Raises:
            DivergedError: too many updates in a row were left out.
        """
        trainee = self._trainee
        divisor = divisor_of(trainee.algorithm, self._counts)
        self._meter.add("loss", (self._loss / divisor).reshape(1))
        if trainee.critic is not None:
            if not self._norms:
                trainee.critic.begin_step()
            self._critic_norms.append(trainee.critic.update())
        self._norms.append(0.0 if self._policy_rests else self._update_policy(divisor))
        trainee.skipped.note(self._norms[-1])
        self._open_minibatch()

    def metrics(self) -> dict[str, float]:
        """Of all updates of this step, at least one; equal on all ranks."""
        statistics = self._meter.reduce()
        return {
            **describe(statistics, self._norms),
            **(describe_critic(statistics, self._critic_norms) if self._critic_norms else {}),
            "learning_rate": 0.0 if self._policy_rests else self._trainee.backend.learning_rate,
        }

    def _open_minibatch(self) -> None:
        self._counts = BatchCounts()
        self._loss = torch.zeros((), dtype=torch.float64, device=self._trainee.device)

    def _update_policy(self, divisor: int) -> float:
        """Returns: the gradient's norm; not finite where the update was left out, on all ranks alike."""
        backend = self._trainee.backend
        if not self._norms:
            backend.begin_step()
        if torch.isfinite(sum_over_ranks(self._loss)):
            return backend.update(divisor)
        backend.discard()
        return math.nan

    def _add_micro_batch(self, micro: MicroBatch, start: TokenLogprobs | None) -> None:
        if self._trainee.critic is not None:
            self._trainee.critic.learn(micro, self._meter)
        if not self._policy_rests:
            self._trainee.backend.backward(self._look(micro, start))
            return
        # The critic's warm-up: what is measured of the policy is measured all the same.
        with torch.no_grad():
            self._look(micro, start)

    def _look(self, micro: MicroBatch, start: TokenLogprobs | None) -> Tensor:
        """The policy's loss on a micro-batch, with gradient; noted for the metrics."""
        algorithm = self._trainee.algorithm
        temperature = self._trainee.temperature
        others = {name: other.logprobs(micro, temperature) for name, other in self._trainee.companions.items()}
        now = self._forward(micro)
        if start is None and not self._norms:
            start = now._replace(logprobs=now.logprobs.detach(), entropy=now.entropy.detach())
        proximal = micro.behaviour
        if algorithm.old_logprobs != "behaviour":
            assert start is not None, "recompute has a start for every minibatch"
            proximal = start.logprobs
        loss, seen = objective(
            ObjectiveInput(
                now.logprobs,
                now.entropy,
                proximal,
                micro.behaviour,
                micro.advantages,
                micro.sequence,
                micro.rewards,
                micro.group_rewards,
                others,
                micro.group,
                micro.off_policy,
                now.moments,
                None if start is None else start.moments,
                now.attention,
            ),
            algorithm,
        )
        self._loss += loss.detach()
        at_start = None if start is None else start.logprobs
        record(self._meter, entropy=now.entropy, micro=micro, start=at_start, seen=seen)
        return loss

    def _forward(self, micro: MicroBatch) -> TokenLogprobs:
        backend, capture = self._trainee.backend, self._trainee.capture
        run = backend.forward_only if self._policy_rests else backend.forward
        moments, attention = ("moments" in self._trainee.needs), ("attention" in self._trainee.needs)
        given = (micro.packed, micro.positions, self._trainee.temperature, moments, attention)
        if capture is None or not micro.sequence_ids:
            return run(*given)
        with capture.watch(micro.packed, micro.sequence_ids, self.version) as windows:
            now = run(*given)
        self.windows += windows
        return now
