"""Terms that ask a model: verifiers, judges, reward models, clusters of meaning."""
