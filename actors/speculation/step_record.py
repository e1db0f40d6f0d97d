"""What one decoding step of an engine did: the only thing that governor, cost model and statistics learn from.

Pure data, made by the engine after each step. Times are differences of a clock on the engine's own path (no device
synchronisation): over many steps they are right, for one step they may be shifted to a neighbour.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnswerShare:
    """Part of a step's drafts, by how far the answers were.

    Attributes:
        position: tokens of the answer so far, rounded down as the engine likes.
        requests: requests there.
        accepted: accepted drafts of theirs.
    """

    position: int
    requests: int
    accepted: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Attributes:
    running: requests that got tokens in this step, at least 1.
    k: tokens to draft for each, as the governor said.
    drafted: draft tokens verified in this step, over all requests. Fewer than running * k where the engine had not
        as many yet, as in the first step after a change of k.
    accepted: how many of those were kept.
    emitted: tokens that the answers grew by, bonus tokens included.
    seconds: of the whole step, `catch_up_s` included.
    drafter: the arm's; empty where an engine has one.
    attached: whether the drafter's pass ran, which keeps its KV in step with the target's.
    catch_up_s: part of the step in which the drafter made up for what it had missed.
    behind: tokens that the drafter's KV lacks after this step, over all running requests; 0 while attached.
    prefill: prompt tokens computed in the same step; such a step tells nothing about decoding.
    by_position: requests that had at least 1, 2, ... drafts accepted; may be left empty.
    by_answer: the same drafts by position in the answer; may be left empty.
    drafter_staleness: published versions of the target since the one that the drafter was trained for.
    """

    running: int
    k: int
    drafted: int
    accepted: int
    emitted: int
    seconds: float
    drafter: str = ""
    attached: bool = True
    catch_up_s: float = 0.0
    behind: int = 0
    prefill: int = 0
    by_position: tuple[int, ...] = ()
    by_answer: tuple[AnswerShare, ...] = ()
    drafter_staleness: int = 0
