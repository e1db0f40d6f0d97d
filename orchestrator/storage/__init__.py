"""Runs, models and data in places that fsspec reaches: S3 and its like."""
