"""Anchors: worked solutions from the data that join the groups of prompts which the policy cannot solve
(`rollout.anchors`), as in DaGRPO (arXiv 2512.06337), or every group, as in LUFFY (arXiv 2504.14945).

Nobody knows the logprobs of who wrote them: their tokens are trained by `algorithm.off_policy` alone.

Pure. Invariants: an anchor stands behind the group's own answers and is scored like them; one that the reward does not
find right, or that is longer than an answer may be, does not join.
"""

from collections.abc import Callable, Sequence

from actors.engine import Completion, Segment
from actors.settings import AnchorSettings
from actors.trajectory import Trajectory
from orchestrator.data.prompts import Prompt

_UNKNOWN = float("nan")


class Anchors:
    """Args:
    encode: token ids of a solution, the token that ends an answer included.
    most_tokens: of an answer.
    """

    def __init__(self, settings: AnchorSettings, encode: Callable[[str], tuple[int, ...]], *, most_tokens: int) -> None:
        self._settings, self._encode, self._most_tokens = settings, encode, most_tokens

    def of(self, prompt: Prompt, version: int) -> Trajectory | None:
        """The prompt's solution as an answer; None where it has none, or one that is too long.

        Args:
            version: the weights' when the group began: an anchor is never staler than the answers beside it.
        """
        text = prompt.metadata.get(self._settings.solution)
        token_ids = self._encode(text) if isinstance(text, str) and text.strip() else ()
        if not token_ids or len(token_ids) > self._most_tokens:
            return None
        segment = Segment(version, token_ids, (_UNKNOWN,) * len(token_ids))
        return Trajectory(Completion(f"{prompt.prompt_id}/anchor", (segment,), "stop"), ())

    def joins(self, reward: float, rewards: Sequence[float]) -> bool:
        """Whether an anchor of this reward joins answers of those."""
        right = self._settings.correct_at
        return reward >= right and (self._settings.when == "always" or max(rewards) < right)
