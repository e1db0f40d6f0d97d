"""Whether the drafter keeps up while nothing is drafted, or is left out and catches up later.

Pure. Keeping up costs a pass of the drafter in every step; leaving it out costs the catch-up when it is wanted again.
Which is cheaper depends on how long it will not be wanted, which nobody knows. The rule of the ski renter: go on until
what was paid equals the price of the change, then change. In either direction that costs at most twice what hindsight
would have paid (Karlin, Manasse, Rudolph and Sleator, 1988, doi:10.1007/BF01762111).

Invariant: it changes only after costs of at least the price given with that step, except for `attach`.
"""


class Attachment:
    """Begins attached: prompts are then read as they come, and nothing has to be caught up with to try drafting."""

    def __init__(self) -> None:
        self.held = True
        self._owed_s = 0.0

    def attach(self) -> None:
        """At once, whatever the price."""
        self.held, self._owed_s = True, 0.0

    def wanted(self, cost_s: float, price_s: float) -> bool:
        """The next step would like to draft. Returns whether it may: whether the drafter is attached by then.

        Args:
            cost_s: what not drafting costs in this step.
            price_s: of the catch-up.
        """
        if not self.held:
            self._pay(cost_s, price_s)
        else:
            self._owed_s = 0.0
        return self.held

    def unwanted(self, cost_s: float, price_s: float) -> None:
        """The next step would rather not draft.

        Args:
            cost_s: of the drafter's pass in this step.
            price_s: of the catch-up that detaching would make necessary one day.
        """
        if self.held:
            self._pay(cost_s, price_s)
        else:
            self._owed_s = 0.0

    def _pay(self, cost_s: float, price_s: float) -> None:
        if self._owed_s >= price_s:
            self.held, self._owed_s = not self.held, 0.0
        else:
            self._owed_s += cost_s
