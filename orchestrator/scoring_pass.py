"""How likely references are, asked of the engines that sample: one pass over a group, under one weight version.

Invariant: the likelihoods of a group were all computed by one attested version on one engine, which they name. A pass
into which an update fell is refused by the worker, and asked for again.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from actors.rollout import Scored
from orchestrator.deadline import within
from orchestrator.reference_likelihood import Placed, ReferencePlacer
from orchestrator.rollout_fleet import RolloutFleet, Undeliverable
from orchestrator.worker_link import WORKER_FAILURES
from rewards.response import Likelihood, Response

_AGAIN_S = 0.2


class ScoringPass:
    """Args:
    timeout_s: for one group, all attempts together.
    """

    def __init__(self, placer: ReferencePlacer, fleet: RolloutFleet, *, timeout_s: float) -> None:
        self._placer, self._fleet, self._timeout_s = placer, fleet, timeout_s

    async def measured(self, answers: Sequence[Response], prompts: Sequence[tuple[int, ...]]) -> list[Response]:
        """Whole answers to one prompt, with their likelihoods; see `likelihoods`."""
        reference = answers[0].reference if answers else None
        told = await self.likelihoods(prompts, [answer.token_ids for answer in answers], reference)
        return [replace(answer, likelihood=likely) for answer, likely in zip(answers, told, strict=True)]

    async def likelihoods(
        self, prompts: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, ...]], reference: str | None
    ) -> list[Likelihood | None]:
        """Of each answer; None for all where the data have no reference, or it is empty.

        Args:
            prompts: token ids under which each answer was sampled.

        Raises:
            Undeliverable: no engine scored them in time.
        """
        if not reference:
            return [None] * len(answers)
        reasoned = [self._placer.behind_reasoning(p, a, reference) for p, a in zip(prompts, answers, strict=True)]
        bare = {prompt: self._placer.without_reasoning(prompt, reference) for prompt in prompts}
        asked = [placed for placed in (*reasoned, *bare.values()) if placed is not None]
        scored = await self._scored([placed.token_ids for placed in asked]) if asked else Scored(None)
        found = dict(zip(map(id, asked), scored.logprobs, strict=True))

        def of(placed: Placed | None) -> tuple[float, ...]:
            return () if placed is None else placed.of_reference(found[id(placed)])

        # Without a score of the reference alone there is nothing to compare with: as if there were no place for it.
        return [
            Likelihood(of(own) if bare[prompt] is not None else (), of(bare[prompt]), scored.version)
            for own, prompt in zip(reasoned, prompts, strict=True)
        ]

    async def _scored(self, sequences: Sequence[tuple[int, ...]]) -> Scored:
        until = time.monotonic() + self._timeout_s
        reason = "no engine serves"
        while (left := until - time.monotonic()) > 0:
            member = min(self._fleet.members, key=lambda member: (-member.version, len(member.running)), default=None)
            if member is not None:
                version = member.version
                try:
                    call = member.link.actor.score.remote(version, sequences)
                    scored: Scored = await within(left, call, f"scores of {member.link.name}")
                except WORKER_FAILURES as error:
                    reason = str(error)
                else:
                    if scored.version == version:
                        return scored
                    reason = f"{member.link.name} was asked for version {version} and has {scored.version}"
            await asyncio.sleep(_AGAIN_S)
        raise Undeliverable(f"references could not be scored within {self._timeout_s:g} s ({reason})")
