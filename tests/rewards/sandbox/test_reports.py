"""What comes out of a sandbox may be anything: it becomes an outcome for each run, or an error, and never a crash."""

from hypothesis import given
from hypothesis import strategies as st

from rewards.sandbox.inside import READY, RECORD
from rewards.sandbox.job import SKIPPED, End, Job, Outcome, Run
from rewards.sandbox.supervise import _Reports

JOB = Job({"p.py": b""}, (Run("p.py"), Run("p.py", "1"), Run("p.py")))


def read(stream: bytes, parts: int = 1) -> tuple[Outcome, ...]:
    reports = _Reports(JOB)
    size = max(1, len(stream) // parts)
    for start in range(0, len(stream), size):
        reports.add(stream[start : start + size])
    return reports.outcomes()


def record(end: int, *contents: bytes, has_value: bool = False) -> bytes:
    stdout, stderr, value = (*contents, b"", b"", b"")[:3]
    lengths = (len(stdout), len(stderr), len(value) if has_value else -1)
    return RECORD.pack(end, 3, 0.5, 0.25, *lengths) + stdout + stderr + value


def test_whole_reports_are_read_in_any_parts() -> None:
    stream = READY + record(0, b"out", b"err") + record(1, b"o", b"", b"[1]", has_value=True) + record(2)
    expected = (
        Outcome(End.EXIT, 3, b"out", b"err", None, 0.5, 0.25),
        Outcome(End.SIGNAL, 3, b"o", b"", b"[1]", 0.5, 0.25),
        Outcome(End.WALL_TIME, 3, b"", b"", None, 0.5, 0.25),
    )
    assert all(read(stream, parts) == expected for parts in range(1, len(stream)))


def test_what_is_cut_short_was_skipped() -> None:
    whole = record(0, b"out")
    assert read(READY + whole + record(0, b"cut")[:-1]) == (*read(READY + whole)[:1], SKIPPED, SKIPPED)
    assert read(READY + record(77)) == (SKIPPED,) * 3
    assert len(read(READY + whole * 9)) == 3


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_three_outcomes(stream: bytes, is_ready: bool) -> None:
    assert len(read((READY if is_ready else b"") + stream)) == 3
