"""What is read out of a run's events: lineage, trace, tail report, replays of other policies."""
