"""`python -m orchestrator` is the `paceline` command."""

from orchestrator.cli import main

main()
