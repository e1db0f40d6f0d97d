"""Puzzles with a generator and a checker: any right answer counts, not only the one that the generator knows."""
