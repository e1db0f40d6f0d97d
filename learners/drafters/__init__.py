"""Learned drafters, pure torch: their kinds, training data, losses, trainer and files. Knows neither Ray nor vLLM."""
