"""Further terms of the loss, chosen by name (`TERMS`); importing this package registers all of them."""

from learners.terms import divergence, entropy
from learners.terms.term import TERMS, Term, TermInput

__all__ = ["TERMS", "Term", "TermInput", "divergence", "entropy"]
