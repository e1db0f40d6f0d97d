"""Probes: what an answer was worth on its way, measured by going on from cuts through it (`rollout.probes`).

When the answers of a group are sampled, each is cut, and from every cut some continuations are sampled and scored: to
the end (SPO, arXiv 2505.23564), or behind a text that asks for the answer right there (AnytimeReasoner, arXiv
2505.13438). A cut's value is their mean reward. Continuations are thrown away: nothing of them is trained on.

Pure: this module says where to cut and what to ask for; the rollout plane asks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from actors.engine import Completion, GenerationRequest, Sampling
from actors.settings import ProbeSettings
from orchestrator.seeds import request_seed

_PROBE_SEED = 15_485_863
"""Probes draw from seeds of their own."""

CutValues = tuple[tuple[int, float], ...]
"""Of one answer: the number of tokens before each cut, ascending, and what the answer was worth there."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One continuation: of answer `sample` from its first `cut` tokens on.

    Attributes:
        begun: token ids between the prompt and the continuation.
    """

    sample: int
    cut: int
    begun: tuple[int, ...]
    request: GenerationRequest


class ProbePlan:
    """Args:
    common: how the run's answers are drawn.
    ask_ids: token ids of `settings.ask`.
    most_tokens: of a whole answer, what is asked for at the cut included.
    """

    def __init__(
        self, settings: ProbeSettings, common: Sampling, ask_ids: Sequence[int], *, most_tokens: int, seed: int
    ) -> None:
        self._settings, self._common, self._ask_ids = settings, common, tuple(ask_ids)
        self._most_tokens, self._seed = most_tokens, seed

    def probes(
        self, group: int, prompts: Sequence[tuple[int, ...]], answers: Sequence[Completion], *, attempt: int = 0
    ) -> list[Probe]:
        """All continuations to ask for, answer by answer and cut by cut.

        Args:
            group: number of the group; attempt: how often it was started afresh.
            prompts: token ids of each answer's prompt.
        """
        found: list[Probe] = []
        for sample, (prompt_ids, answer) in enumerate(zip(prompts, answers, strict=True)):
            for cut in self.cuts(answer):
                begun = answer.token_ids[:cut] + self._ask_ids
                for turn in range(self._settings.samples):
                    number = len(found)
                    draw = Sampling(
                        max_tokens=self._room(cut),
                        temperature=self._common.temperature,
                        top_p=self._common.top_p,
                        top_k=self._common.top_k,
                        stop_token_ids=self._common.stop_token_ids,
                        seed=request_seed(self._seed + _PROBE_SEED, group, number),
                    )
                    name = f"{group}+{attempt}/{sample}/{cut}/{turn}"
                    request = GenerationRequest(name, prompt_ids + begun, draw)
                    found.append(Probe(sample, cut, begun, request))
        return found

    def cuts(self, answer: Completion) -> tuple[int, ...]:
        """Where an answer is cut: within it, and where there is room for a continuation."""
        settings, length = self._settings, len(answer.token_ids)
        if settings.at is not None:
            places: Sequence[int] = settings.at
        elif settings.every is not None:
            places = range(settings.every, length, settings.every)
        else:
            assert settings.unlikely is not None, "one of the three is set"
            bound = math.log(settings.below)
            unlikely = [place for place, logprob in enumerate(answer.logprobs, start=1) if logprob < bound]
            places = unlikely[settings.unlikely - 1 :: settings.unlikely]
        return tuple(place for place in places if 0 < place < length and self._room(place) > 0)[: settings.most]

    def _room(self, cut: int) -> int:
        """Tokens that a continuation may have."""
        room = self._most_tokens - cut - len(self._ask_ids)
        return room if self._settings.max_tokens is None else min(room, self._settings.max_tokens)


def values_of(probes: Sequence[Probe], rewards: Sequence[float], answers: int) -> tuple[CutValues, ...]:
    """The values along each of so many answers, from the reward of each probe."""
    found: list[dict[int, list[float]]] = [{} for _ in range(answers)]
    for probe, reward in zip(probes, rewards, strict=True):
        found[probe.sample].setdefault(probe.cut, []).append(reward)
    return tuple(tuple((cut, fmean(values)) for cut, values in sorted(cuts.items())) for cuts in found)
