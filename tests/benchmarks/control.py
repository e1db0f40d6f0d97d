"""What the control plane costs: dispatcher, staleness rule, buffer, queue and routing over simulated engines.

    make bench NAME=control          or   python -m tests.benchmarks.control [--trajectories 1000000]

Everything that decides is the real thing; only the engines are simulated: an answer has a log-normal length and ends on
a virtual clock. 10,000 answers are in flight throughout. Reported: CPU time per trajectory (the simulation's own
included, so the figure is an upper bound), and the process's memory along the way, which must not grow with the number
of trajectories.
"""

import argparse
import heapq
import random
import time
from dataclasses import asdict, dataclass

import psutil

from actors.engine import Completion, Segment
from actors.trajectory import Leg, Trajectory
from orchestrator.policies.admission import Continuous
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.groups import GroupInFlight
from orchestrator.policies.late import LateRule
from orchestrator.policies.length_predictor import LengthPredictor
from orchestrator.policies.request_queue import RequestQueue, Ticket
from orchestrator.policies.routing import EngineView, Router
from orchestrator.policies.staleness import StalenessRule
from rewards.response import Score
from tests.benchmarks.report import finish
from tests.orchestrator.builders import CountingSource

ENGINES = 64
PLACES = 160
GROUP = 8
BATCH = 256
STALENESS = 200
"""More versions than pass while the longest answer runs: with 10,000 answers in flight a batch takes seconds."""
IN_FLIGHT = 10_000
MEDIAN, SIGMA, LONGEST = 400.0, 1.0, 16_000
TOKENS_PER_S = 50.0
MARKS = 20
"""How often memory is looked at."""


@dataclass(frozen=True, slots=True)
class Mark:
    trajectories: int
    cpu_ms_per_trajectory: float
    resident_mib: float
    in_flight: int


class Simulation:
    """A fleet of simulated engines and a learner that trains each batch at once, on a virtual clock."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        rule = StalenessRule(BATCH, STALENESS)
        self.dispatcher = Dispatcher(
            source=CountingSource(),
            encode=lambda prompt: (prompt.index % 1000, 1),
            rule=rule,
            admission=Continuous(rule, ENGINES * PLACES, GROUP),
            late=LateRule("wait", STALENESS, STALENESS),
            group_size=GROUP,
            drop_zero_variance=True,
            wanted=1 << 60,
        )
        self._queue = RequestQueue("longest_first")
        self._router = Router()
        self._predictor = LengthPredictor(10_000)
        self._running = [0] * ENGINES
        self._groups: dict[int, tuple[GroupInFlight, list[Trajectory]]] = {}
        self._ends: list[tuple[float, int, int, int, int]] = []
        """(time, group, sample, engine, tokens) of each running answer."""
        self._now = 0.0
        self.version = 0
        self.finished = 0

    def run(self, trajectories: int) -> None:
        """Go on until so many answers have finished."""
        while self.finished < trajectories:
            self._admit()
            self._start()
            self._one_ends()

    @property
    def in_flight(self) -> int:
        """Answers on the engines."""
        return len(self._ends)

    def _admit(self) -> None:
        for group in self.dispatcher.admit(self.version):
            self._groups[group.index] = (group, [])
            predicted = self._predictor.predict(group.prompt.prompt_id, group.index)
            for sample in range(group.started):
                name = f"{group.index}/{sample}"
                self._queue.put(Ticket(name, group.index, sample, group.admitted_version, 0, predicted, False))

    def _start(self) -> None:
        if not len(self._queue) or min(self._running) >= PLACES:
            return
        views = [EngineView(str(n), self.version, running, PLACES, False) for n, running in enumerate(self._running)]
        while (ticket := self._queue.peek(self.version)) is not None:
            name = self._router.choose(ticket, views)
            if name is None:
                return
            self._queue.pop(self.version)
            engine = int(name)
            self._running[engine] += 1
            views[engine] = EngineView(name, self.version, self._running[engine], PLACES, False)
            tokens = min(LONGEST, max(1, int(self._chance.lognormvariate(0, SIGMA) * MEDIAN)))
            end = self._now + tokens / TOKENS_PER_S
            heapq.heappush(self._ends, (end, ticket.group, ticket.sample, engine, tokens))

    def _one_ends(self) -> None:
        self._now, index, sample, engine, tokens = heapq.heappop(self._ends)
        self._running[engine] -= 1
        self.finished += 1
        self.dispatcher.answered(index)
        group, answers = self._groups[index]
        completion = Completion(f"{index}/{sample}", (Segment(group.admitted_version, (7,), (-0.5,)),), "stop")
        answers.append(Trajectory(completion, (Leg(str(engine), 0.0, self._now, tokens),)))
        self._predictor.finished(group.prompt.prompt_id, index, tokens)
        self._queue.repredict(index, self._predictor.predict(group.prompt.prompt_id, index))
        if len(answers) == GROUP:
            del self._groups[index]
            self._router.forget(index)
            self._predictor.forget(index)
            scores = [Score(float(self._chance.random() < 0.5), {}) for _ in answers]
            self.dispatcher.finish(index, answers, scores)
            taken = self.dispatcher.take(self.version).groups
            if taken is not None:
                self.dispatcher.trained(taken)
                self.version += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    simulation, process = Simulation(arguments.seed), psutil.Process()
    simulation.run(3 * IN_FLIGHT)  # filled, and past the first batches
    marks: list[Mark] = []
    began, first = time.process_time(), simulation.finished
    for number in range(1, MARKS + 1):
        simulation.run(first + arguments.trajectories * number // MARKS)
        done = simulation.finished
        mark = Mark(
            done,
            round(1000 * (time.process_time() - began) / (done - first), 4),
            round(process.memory_info().rss / 2**20, 1),
            simulation.in_flight,
        )
        marks.append(mark)
        print(
            f"{mark.trajectories:>9,} trajectories  {mark.cpu_ms_per_trajectory:.4f} ms each  "
            f"{mark.resident_mib:7.1f} MiB  {mark.in_flight:,} in flight",
            flush=True,
        )
    counts = simulation.dispatcher.ledger.counts()
    assert counts["dispatched"] == sum(counts.values()) - counts["dispatched"], counts
    finish(
        "control",
        ratio=round(marks[-1].cpu_ms_per_trajectory, 4),
        unit="ms of CPU per trajectory at 10,000 in flight",
        rows=[*map(asdict, marks), {"prompts": counts, "versions": simulation.version}],
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
