"""Preference losses: from the likelihoods of whole answers to one prompt to one number per pair or group of them.

Pure functions from a frozen input to (loss, what happened), chosen by name (`PREFERENCES`); importing this package
registers all of them. The answers that are compared stand in one micro-batch (`TrainSequence.group_id`); `totals` adds
up their tokens, and the loss of a batch is the mean over its pairs or groups.
"""

from learners.preferences import groupwise, pairwise
from learners.preferences.preference import PREFERENCES, Groups, Pairs, Preference
from learners.preferences.totals import preference_total

__all__ = ["PREFERENCES", "Groups", "Pairs", "Preference", "groupwise", "pairwise", "preference_total"]
