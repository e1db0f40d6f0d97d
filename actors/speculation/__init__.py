"""Speculative decoding: what drafts tokens ahead, how they are verified, and who says how many."""
