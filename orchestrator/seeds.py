"""The seed of every draw: a function of the run's seed and the answer's place in the run, and of nothing else."""

import hashlib


def request_seed(run_seed: int, group: int, sample: int) -> int:
    """31 bits for one answer."""
    digest = hashlib.blake2b(f"{run_seed}/{group}/{sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
