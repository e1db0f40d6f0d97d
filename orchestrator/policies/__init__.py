"""Pure state machines that decide for a run, a replay and a simulation alike."""
