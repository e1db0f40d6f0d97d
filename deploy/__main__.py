"""`python -m deploy` is the `paceline` command."""

from deploy.cli import main

main()
