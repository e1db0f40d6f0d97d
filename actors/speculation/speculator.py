"""The torch engine's side of the `Drafter` protocol: which answers the drafter knows, what it is asked and told.

Invariants:
- the drafter hears of an answer when it takes its first step, and that it is over before the next step is taken;
- it is asked only for answers that it observed since it last dropped its KV: those whose own KV stands;
- a draft never reaches beyond the answer's room, so a step emits no token too many.
"""

from collections import deque
from collections.abc import Collection, Sequence

import torch

from actors.engine import GenerationRequest, SpeculationStats
from actors.running_answer import RunningAnswer
from actors.speculation.drafter import (
    NO_DRAFT,
    Draft,
    Drafter,
    DraftRequest,
    Observation,
    Speculation,
    prompt_key,
)
from actors.speculation.step_record import StepRecord

_RECORDS_KEPT = 4096


class Speculator:
    """See the module's docstring. All methods run between two forward passes, one at a time."""

    def __init__(self, speculation: Speculation, target: torch.nn.Module) -> None:
        self.drafter: Drafter = speculation.drafter
        self._lengths = speculation.lengths
        self._known: set[str] = set()
        self._records: deque[StepRecord] = deque(maxlen=_RECORDS_KEPT)
        self.drafter.attach(target)

    def choose(self, running: int) -> int:
        """Draft length of the step that comes."""
        return self._lengths.choose(running)

    def record(self, step: StepRecord) -> None:
        """What came of it."""
        self._lengths.record(step)
        self._records.append(step)

    def take_stats(self) -> SpeculationStats:
        """Records since the last call; of very many, the newest."""
        records = tuple(self._records)
        self._records.clear()
        return SpeculationStats(self._lengths.trouble, records)

    def keep_only(self, request_ids: Collection[str]) -> None:
        """All other answers are over."""
        for request_id in self._known.difference(request_ids):
            self._known.discard(request_id)
            self.drafter.end(request_id)

    def drafts(self, running: Sequence[RunningAnswer], length: int) -> list[Draft]:
        """A draft for each of these answers, empty where it has no KV to build on.

        Raises:
            ValueError: the drafter gave what was not asked for.
        """
        for answer in running:
            self._begin(answer.request)
        asked = [answer for answer in running if answer.cached and min(length, answer.left - 1) > 0]
        if not asked:
            return [NO_DRAFT] * len(running)
        requests = [
            DraftRequest(
                answer.request.request_id,
                min(length, answer.left - 1),
                answer.request.sampling,
                answer.chance.generator,
            )
            for answer in asked
        ]
        drafts = dict(zip((r.request_id for r in requests), self.drafter.propose(requests), strict=True))
        for answer, request in zip(asked, requests, strict=True):
            drafted = len(drafts[request.request_id].token_ids)
            if drafted > request.length:
                raise ValueError(
                    f"drafter {self.drafter.name} gave {drafted} tokens where at most {request.length} were asked for"
                )
            if drafted:
                answer.drafted += drafted
                answer.drafter_versions.add(self.drafter.version)
        return [drafts.get(answer.request.request_id, NO_DRAFT) for answer in running]

    def observe(self, observations: Sequence[Observation]) -> None:
        self.drafter.observe(observations)

    def _begin(self, request: GenerationRequest) -> None:
        if request.request_id in self._known:
            return
        self._known.add(request.request_id)
        prefix = [token for segment in request.prefix for token in segment.token_ids]
        self.drafter.begin(request.request_id, prompt_key(request.prompt_ids), request.prompt_ids, prefix)
