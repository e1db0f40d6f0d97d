"""An answer in progress on the torch engine: what is known of it between two steps."""

import asyncio
from dataclasses import dataclass, field
from itertools import groupby

from actors.answer_room import answer_room
from actors.continuation import drawing_seed, joined, sequence_so_far
from actors.engine import Completion, FinishReason, GenerationRequest, Segment, Speculated
from actors.speculation.verification import Verified
from actors.token_sampling import SeededChance


@dataclass(slots=True, eq=False)
class RunningAnswer:
    """A request in progress.

    Attributes:
        sequence: prompt, prefix and what was sampled since.
        room: tokens that it may sample.
        slot: its place in the KV cache, None while it waits for one.
        cached: tokens of the sequence whose KV stands there: none, or all but the last.
        token_ids, logprobs, versions: of what was sampled since the prefix.
        drafted, accepted, drafter_versions: see `actors.engine.Speculated`.
    """

    request: GenerationRequest
    sequence: list[int]
    room: int
    chance: SeededChance
    ended: "asyncio.Future[FinishReason]"
    slot: int | None = None
    cached: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    drafter_versions: set[int] = field(default_factory=set)

    @property
    def left(self) -> int:
        """Tokens that it may still sample."""
        return self.room - len(self.token_ids)

    def take(self, verified: Verified, version: int) -> tuple[int, ...]:
        """Grow by these tokens, up to the first stop token; gives those that stayed.

        Args:
            version: of the weights that verified them.
        """
        stops = self.request.sampling.stop_token_ids
        end = next((i + 1 for i, token in enumerate(verified.token_ids) if token in stops), len(verified.token_ids))
        emitted = verified.token_ids[:end]
        self.sequence += emitted
        self.cached = len(self.sequence) - 1
        self.token_ids += emitted
        self.logprobs += verified.logprobs[:end]
        self.versions += [version] * end
        self.accepted += min(verified.accepted, end)
        return emitted

    def end_if_whole(self) -> None:
        """End it where its last token or its room says so. To be called on the event loop."""
        if self.ended.done():
            return
        if self.token_ids[-1] in self.request.sampling.stop_token_ids:
            self.ended.set_result("stop")
        elif not self.left:
            self.ended.set_result("length")

    def completion(self, reason: FinishReason) -> Completion:
        segments = list(self.request.prefix)
        start = 0
        for version, run in groupby(self.versions):
            end = start + len(list(run))
            segments.append(Segment(version, tuple(self.token_ids[start:end]), tuple(self.logprobs[start:end])))
            start = end
        speculated = Speculated(self.drafted, self.accepted, tuple(sorted(self.drafter_versions)))
        return Completion(self.request.request_id, joined(segments), reason, speculated)


def begun(request: GenerationRequest, context_length: int) -> RunningAnswer:
    """The request, about to run on this event loop.

    Raises:
        ValueError: see `answer_room`.
    """
    return RunningAnswer(
        request,
        list(sequence_so_far(request)),
        answer_room(request, context_length),
        SeededChance(drawing_seed(request)),
        asyncio.get_running_loop().create_future(),
    )
