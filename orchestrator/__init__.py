"""The run: command line, recipes, prompts, dispatch, staleness, buffer, weight bus and tracking."""
