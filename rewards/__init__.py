"""Verifiers and reward terms: pure Python, no Ray, no torch. Everything a model wrote is untrusted here."""
