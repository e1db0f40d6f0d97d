"""What scheduler and drafter tell one another about one step. It travels with vLLM's scheduler output."""

from dataclasses import dataclass


@dataclass(slots=True)
class DraftingNote:
    """Attributes:
    attached: the scheduler's wish: the drafter reads along, though nothing may be drafted.
    catch_up_s: the drafter's answer: what it took to read what it had missed. Arrives where both share a process.
    """

    attached: bool
    catch_up_s: float = 0.0
