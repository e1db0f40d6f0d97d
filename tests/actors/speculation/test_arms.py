"""Arms and buckets: every batch size has a bucket, and a bucket that cannot learn must say so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.speculation.arms import PLAIN, Arm, ArmTable, Bucket, everywhere, fixed


@given(running=st.integers(1, 5000))
def test_every_batch_size_is_in_the_bucket_that_names_it(running: int) -> None:
    table = everywhere([Arm(1), Arm(3)])
    bucket = table.buckets[table.bucket(running)]
    assert bucket.first <= running <= (bucket.last or running)


def test_the_usual_buckets() -> None:
    table = everywhere([Arm(3)])
    assert [str(bucket) for bucket in table.buckets] == ["1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65+"]
    assert table.arms == (PLAIN, Arm(3))
    assert table.bucket(0) == 0


def test_a_fixed_table_takes_one_arm_from_each_batch_size_on() -> None:
    table = fixed({1: Arm(5), 4: Arm(1), 33: PLAIN})
    found = {size: table.arms[table.buckets[table.bucket(size)].arms[0]].k for size in (1, 3, 4, 32, 33, 900)}
    assert found == {1: 5, 3: 5, 4: 1, 32: 1, 33: 0, 900: 0}


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([Bucket(1, None, (1,))], "must offer k=0"),
        ([Bucket(1, None, (0,))], "must offer k=0"),
        ([Bucket(1, None, (0, 1), static=True)], "static and must have one arm"),
        ([Bucket(2, None, (0, 1))], "without gap"),
        ([Bucket(1, 4, (0, 1)), Bucket(6, None, (0, 1))], "without gap"),
        ([Bucket(1, 4, (0, 1)), Bucket(3, None, (0, 1))], "without gap"),
        ([Bucket(1, 4, (0, 1))], "must be open"),
        ([Bucket(1, None, (0, 2))], "names arms"),
        ([], "must be open"),
    ],
)
def test_tables_that_break_a_rule_are_refused(buckets: list[Bucket], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArmTable([Arm(3)], buckets)


def test_arms_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Arm(-1)
    with pytest.raises(ValueError, match="has no drafter"):
        Arm(0, "eagle")
    with pytest.raises(ValueError, match="twice"):
        everywhere([Arm(3), Arm(3)])
    with pytest.raises(ValueError, match="without gap"):
        fixed({2: Arm(3)})
