"""`paceline doctor`: what would stop a run here, found in seconds, a line each with its fix."""
