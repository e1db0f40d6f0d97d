"""Whether the drafter should study now: at first for as long as it gets better, later when it is seen to be worse.

Pure. A drafter that is new, or was published because it had become better, goes on learning until `PATIENCE` sessions
in a row have brought nothing worth publishing; then the retrain policy (`decay`) decides. Decay alone would never
begin: a drafter that nobody drafts with shows no acceptance that could fall.
"""

from orchestrator.drafting.decay import POLICIES, DecayRules, RetrainVerdict

PATIENCE = 3


class Study:
    """Args:
    policy: name in `decay.POLICIES`.
    fresh: the drafter was never trained.
    """

    def __init__(self, policy: str, rules: DecayRules, *, fresh: bool) -> None:
        self._policy = POLICIES[policy](rules)
        self._gap_s = rules.least_gap_s
        self._learns_on = policy == "decay"
        self._tries = PATIENCE if fresh and self._learns_on else 0
        """Sessions that may still bring nothing before the policy decides."""
        self._began_at = float("-inf")

    def observe(self, drafts: int, accepted: int) -> None:
        """First drafted tokens since the last call, and how many of them were accepted."""
        self._policy.observe(drafts, accepted)

    def judge(self, now: float) -> RetrainVerdict:
        """Whether to begin a session; `now` in monotonic seconds."""
        if not self._tries:
            return self._policy.judge(now)
        if now - self._began_at < self._gap_s:
            return RetrainVerdict(False, "the last session began just now")
        return RetrainVerdict(True, "the drafter is still getting better")

    def began(self, now: float) -> None:
        self._began_at = now
        self._policy.began(now)

    def ended(self, *, published: bool) -> None:
        """A session is over, and was worth a publication or not."""
        self._tries = max(0, self._tries - 1)
        if published:
            self._tries = PATIENCE if self._learns_on else 0
            self._policy.published()
