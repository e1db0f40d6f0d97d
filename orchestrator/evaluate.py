"""Held-out accuracy: the same prompts, through the same engines and rewards as training.

Accuracy = share of answers whose first reward term (the correctness term, by convention) reaches `correct_at`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import fmean

from actors.engine import GenerationRequest, Sampling
from orchestrator.config import EvalSettings
from orchestrator.data.prompts import Prompt
from orchestrator.deadline import all_within
from orchestrator.pending import Errand
from orchestrator.reward_client import RewardClient
from orchestrator.rollout_fleet import RolloutFleet
from orchestrator.rollout_plane import Decode, response
from orchestrator.scoring_pass import ScoringPass
from orchestrator.seeds import request_seed

EVAL_SEED = 7_919
"""Evaluation draws from seeds of its own, so that it changes nothing in training."""


@dataclass(frozen=True, slots=True)
class EvalResult:
    """`samples` has one row per answer: question, text, reference, terms."""

    accuracy: float
    response_tokens: float
    samples: list[dict[str, object]]


class Evaluator:
    """Args:
    prompts: held out from training, with their token ids.
    sampling: stop tokens and length as in training; temperature comes from the settings.
    correctness_term: name of the reward term that says whether an answer is right.
    deadline_s: of all answers of a round.
    likely: how likely engines find the references, where a reward asks for it.
    """

    def __init__(
        self,
        prompts: Sequence[tuple[Prompt, tuple[int, ...]]],
        *,
        settings: EvalSettings,
        sampling: Sampling,
        correctness_term: str,
        decode: Decode,
        seed: int,
        deadline_s: float,
        likely: ScoringPass | None = None,
    ) -> None:
        self._prompts, self._settings, self._sampling = prompts, settings, sampling
        self._term, self._decode, self._seed, self._deadline_s = correctness_term, decode, seed, deadline_s
        self._likely = likely
        self._rounds = count()

    def __len__(self) -> int:
        return len(self._prompts)

    async def run(
        self, fleet: RolloutFleet, rewards: RewardClient, on_answer: Callable[[int, int], None]
    ) -> EvalResult:
        """Sample and score every prompt; `on_answer(done, total)` follows.

        Raises:
            DeadlineMissed: it took longer than the deadline.
        """
        round_number = next(self._rounds)
        total = len(self._prompts) * self._settings.samples
        done = 0

        async def answer(number: int, prompt: Prompt, prompt_ids: tuple[int, ...]) -> list[dict[str, object]]:
            nonlocal done
            requests = [
                GenerationRequest(
                    f"eval-{round_number}/{number}/{sample}",
                    prompt_ids,
                    self._drawn(request_seed(EVAL_SEED + self._seed, number, sample)),
                )
                for sample in range(self._settings.samples)
            ]
            # Groups of training count from 0: a negative number cannot meet one, and is older than all of them.
            errands = [Errand(-1 - number, sample, "", fleet.version) for sample in range(len(requests))]
            sampled = [fleet.sample(request, errand) for request, errand in zip(requests, errands, strict=True)]
            trajectories = await all_within(self._deadline_s, sampled, "evaluation")
            fleet.forget(-1 - number)
            completions = [trajectory.completion for trajectory in trajectories]
            answers = [
                response(f"{prompt.prompt_id}/{number}", prompt, completion.token_ids, completion, self._decode)
                for number, completion in enumerate(completions)
            ]
            if self._likely is not None:
                answers = await self._likely.measured(answers, [prompt_ids] * len(answers))
            scores = await rewards.score(answers)
            done += len(scores)
            on_answer(done, total)
            return [
                {
                    "question": answer.question,
                    "text": answer.text,
                    "reference": answer.reference,
                    "terms": dict(score.terms),
                    "error": score.error,
                    "tokens": answer.response_tokens,
                    "correct": score.terms.get(self._term, 0.0) >= self._settings.correct_at,
                }
                for answer, score in zip(answers, scores, strict=True)
            ]

        # Twice: once for the answers, once for the rewards.
        answers = [answer(number, prompt, ids) for number, (prompt, ids) in enumerate(self._prompts)]
        nested = await all_within(2 * self._deadline_s, answers, "evaluation")
        rows = [row for answers in nested for row in answers]
        return EvalResult(
            fmean(bool(row["correct"]) for row in rows),
            fmean(len_of(row) for row in rows),
            rows,
        )

    def _drawn(self, seed: int) -> Sampling:
        return Sampling(
            max_tokens=self._sampling.max_tokens,
            temperature=self._settings.temperature,
            stop_token_ids=self._sampling.stop_token_ids,
            seed=seed,
        )


def len_of(row: dict[str, object]) -> float:
    """Tokens of one answer's row."""
    tokens = row["tokens"]
    assert isinstance(tokens, int)
    return float(tokens)
