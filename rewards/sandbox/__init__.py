"""Runs programs that nobody vouches for: no network, a read-only root, nothing of the host to be seen, and limits.

`rewards.sandbox.choice.sandbox()` gives the safest one this machine has, or refuses. Nothing in here needs a package
outside the standard library.
"""
