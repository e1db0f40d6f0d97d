import pytest

from orchestrator.stages.overlay import dotted, laid_over, value_at, without

RIVALS = {"data.path": ("data.tasks",), "data.tasks": ("data.path",)}


def test_what_lies_above_wins_and_what_it_leaves_out_stays() -> None:
    below = {"a": {"x": 1, "y": {"z": 2}}, "b": [1, 2]}
    assert laid_over(below, {"a": {"y": {"w": 3}}, "b": [3]}) == {"a": {"x": 1, "y": {"z": 2, "w": 3}}, "b": [3]}
    assert laid_over(below, {"a": None}) == {"a": None, "b": [1, 2]}
    assert laid_over({"a": 1}, {"a": {"x": 1}}) == {"a": {"x": 1}}


def test_nothing_is_shared_with_the_arguments() -> None:
    below: dict[str, object] = {"a": {"x": [1]}}
    above: dict[str, object] = {"b": {"y": [2]}}
    made = laid_over(below, above)
    made["a"]["x"].append(9)  # type: ignore[index]
    made["b"]["y"].append(9)  # type: ignore[index]
    assert below == {"a": {"x": [1]}}
    assert above == {"b": {"y": [2]}}


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ({"data": {"path": "f"}}, {"data": {"path": "f", "template": "t"}}),
        ({"data": {"template": "u"}}, {"data": {"tasks": [1], "template": "u"}}),
        ({"data": {"path": None}}, {"data": {"tasks": [1], "template": "t", "path": None}}),
        # A resolved recipe names both, one of them with nothing.
        ({"data": {"path": None, "tasks": [2]}}, {"data": {"tasks": [2], "template": "t", "path": None}}),
    ],
)
def test_a_source_takes_the_place_of_its_rival(above: dict[str, object], expected: dict[str, object]) -> None:
    assert laid_over({"data": {"tasks": [1], "template": "t"}}, above, RIVALS) == expected


def test_places() -> None:
    tree = {"a": {"x": {"y": 1}}, "b": None}
    assert list(dotted(tree)) == ["a", "a.x", "a.x.y", "b"]
    assert value_at(tree, "a.x.y") == 1
    assert value_at(tree, "a.q.y") is None
    assert value_at(tree, "b.q") is None
    assert without(tree, "a.x.y") == {"a": {"x": {}}, "b": None}
    assert without(tree, "a.nothing.there") == tree
    assert without(tree, "b") == {"a": {"x": {"y": 1}}}
