"""Masks: which tokens the surrogate trains, and how much, chosen by name (`MASKS`); importing this package registers
all of them.

Pure functions from a frozen input to a weight per token [N] without gradient; `algorithm.masks` names any number of
them, and their weights multiply. A token that is masked stays in the loss's divisor, as with a correction that masks.
"""

from learners.masks import attention, curvature, entropy, probability
from learners.masks.mask import MASKS, Mask, MaskInput

__all__ = ["MASKS", "Mask", "MaskInput", "attention", "curvature", "entropy", "probability"]
