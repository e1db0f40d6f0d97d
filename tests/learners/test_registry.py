import pytest

from learners.registry import Registry, UnknownNameError


def test_registers_and_finds() -> None:
    registry: Registry[int] = Registry("colour")
    assert registry.register("red")(7) == 7
    assert registry["red"] == 7
    assert "red" in registry
    assert registry.names() == ["red"]


def test_refuses_a_second_of_the_same_name() -> None:
    registry: Registry[int] = Registry("colour")
    registry.register("red")(1)
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        registry.register("red")(2)
    assert registry["red"] == 1


def test_a_miss_names_the_near_miss_and_all_names() -> None:
    registry: Registry[int] = Registry("colour")
    for name in ("crimson", "blue"):
        registry.register(name)(0)
    with pytest.raises(UnknownNameError, match=r"did you mean 'crimson'.*blue, crimson"):
        registry["crimsen"]
