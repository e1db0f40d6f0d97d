"""Ways to find the best arm from what steps brought; importing this package registers them.

A selector only says what it believes and what it would like to try. Whether that is played, the governor decides.
"""

from actors.speculation.selectors.epsilon_greedy import EpsilonGreedy
from actors.speculation.selectors.model_based import ModelBased
from actors.speculation.selectors.selector import SELECTORS, Selector
from actors.speculation.selectors.thompson import Thompson

__all__ = ["SELECTORS", "EpsilonGreedy", "ModelBased", "Selector", "Thompson"]
