"""GSM8K as published, where it lies beside the checkout."""

from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "shared/data/gsm8k/train.jsonl"


def gsm8k() -> Path:
    """Its 7,473 training problems, a JSON object a line; skips the test where they are not there."""
    if not _FILE.exists():
        pytest.skip(f"GSM8K is not at {_FILE}")
    return _FILE
