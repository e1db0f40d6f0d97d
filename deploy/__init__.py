"""One recipe in other places: the `paceline` command, and what takes a run to a Ray cluster or to Kubernetes."""
