"""`python -m orchestrator` is the `paceline` command without what takes a recipe to another place."""

from orchestrator.cli import main

main()
