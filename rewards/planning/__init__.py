"""Plans in PDDL: reading domains and problems, and following a plan step by step."""
