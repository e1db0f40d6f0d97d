"""The `format`, `tags` and `one_box` terms: does the answer have the asked shape?"""

from collections.abc import Sequence

from rewards.patterns import compiled
from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Response

_THINK_AND_ANSWER = ("<think>", "</think>", "<answer>", "</answer>")


@term("format", example=Example(Response("e", "", "so\n#### 5"), 1.0, {"pattern": ".*####.*"}))
def format_reward(response: Response, *, pattern: str) -> float:
    """1.0 where the whole text, outer whitespace aside, matches the regular expression; 0.0 otherwise.

    The dot matches line ends, so ``<think>.*</think>.*`` spans a chain of thought. A pattern that backtracks without
    end costs the sample its deadline and no more.

    Raises: RefusedOptionError where the pattern is no regular expression.
    """
    return float(compiled(pattern).fullmatch(response.text.strip()) is not None)


@term("tags", example=Example(Response("e", "", "<think>2 + 2</think><answer>4</answer>"), 1.0))
def tags_reward(response: Response, *, tags: Sequence[str] = _THINK_AND_ANSWER, partial: bool = False) -> float:
    """1.0 where each tag stands in the text exactly once and in this order, the first of them at its beginning and the
    last at its end (DeepSeek-R1, arXiv 2501.12948); 0.0 otherwise.

    Args:
        partial: the share of the tags that stand there exactly once, whatever their order and what is around them.
    """
    if not tags or isinstance(tags, str) or len(set(tags)) != len(tags) or not all(tags):
        raise RefusedOptionError("tags must list at least one tag, none of them empty or twice")
    text = response.text.strip()
    once = [text.count(tag) == 1 for tag in tags]
    if partial:
        return sum(once) / len(tags)
    places = [text.find(tag) for tag in tags]
    return float(all(once) and places == sorted(places) and places[0] == 0 and text.endswith(tags[-1]))


@term("one_box", example=Example(Response("e", "", r"so \boxed{5}"), 1.0))
def one_box_reward(response: Response) -> float:
    r"""1.0 where the text has exactly one ``\boxed{``, 0.0 otherwise: a second one is a second try."""
    return float(response.text.count(r"\boxed{") == 1)
