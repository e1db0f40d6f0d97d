"""A recipe as a list of stages, each with its own data, algorithm and reference; weights are handed over."""
