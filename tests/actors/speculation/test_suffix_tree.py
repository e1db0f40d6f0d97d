"""The suffix tree against counting by hand, and what it drafts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.speculation.suffix_tree import DraftRule, SuffixTree, Text, _Node

DEPTH = 5
ANYTHING = DraftRule(max_factor=100.0, min_probability=0.0)
interleaved = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=60)
"""Which text grows by which token."""


def grown(appends: list[tuple[int, int]], depth: int = DEPTH) -> tuple[SuffixTree, list[Text]]:
    tree = SuffixTree(depth)
    texts = [tree.text() for _ in range(3)]
    for number, token in appends:
        texts[number].extend([token])
    return tree, texts


def counts(tree: SuffixTree) -> Counter[tuple[int, ...]]:
    """What the tree says, by walking all of it."""
    found: Counter[tuple[int, ...]] = Counter()

    def walk(node: _Node, path: tuple[int, ...]) -> None:
        for token, child in node.children.items():
            if isinstance(child, int):
                found[(*path, token)] = 1
                continue
            found[(*path, token)] = child.count
            assert child.depth == len(path) + 1
            walk(child, (*path, token))

    walk(tree._root, ())
    return found


def substrings(texts: list[Text], depth: int = DEPTH) -> Counter[tuple[int, ...]]:
    return Counter(
        tuple(text.tokens[i : i + n])
        for text in texts
        for n in range(1, depth + 1)
        for i in range(len(text.tokens) - n + 1)
    )


@given(interleaved)
def test_every_repeated_substring_is_counted_while_texts_grow_side_by_side(appends: list[tuple[int, int]]) -> None:
    tree, texts = grown(appends)
    truth = substrings(texts)
    found = counts(tree)
    assert {s: n for s, n in found.items() if n > 1} == {s: n for s, n in truth.items() if n > 1}
    # Of what occurred once, its shortest part that occurred once is there, and nothing that never occurred.
    assert all(truth[s] == 1 for s, n in found.items() if n == 1)
    assert all(s in found for s, n in truth.items() if n == 1 and (len(s) == 1 or truth[s[:-1]] > 1))


@given(interleaved)
def test_a_text_matches_exactly_its_suffixes_that_occurred_before(appends: list[tuple[int, int]]) -> None:
    _, texts = grown(appends)
    truth = substrings(texts)
    for text in texts:
        suffixes = [len(text.tokens[-n:]) for n in range(1, min(DEPTH, len(text.tokens) + 1))]
        repeated = [n for n in suffixes if truth[tuple(text.tokens[-n:])] > 1]
        assert [node.depth for node in text._matches] == [*reversed(repeated), 0]


@given(interleaved, st.integers(1, 8))
def test_a_draft_has_the_likeliest_continuation_at_each_token(appends: list[tuple[int, int]], length: int) -> None:
    _, texts = grown(appends)
    truth = substrings(texts)
    for text in texts:
        draft = text.draft(length, ANYTHING)
        assert len(draft) <= length
        matched = [n for n in range(1, DEPTH) if n <= len(text.tokens) and truth[tuple(text.tokens[-n:])] > 1]
        followed = [n for n in matched if any((*text.tokens[-n:], t) in truth for t in range(4))]
        assert bool(draft) == bool(followed)
        if draft:
            assert any(
                truth[(*text.tokens[-n:], draft[0])] == max(truth[(*text.tokens[-n:], t)] for t in range(4))
                for n in followed
            )


@given(interleaved, st.lists(st.integers(0, 3), max_size=DEPTH))
def test_contains_says_whether_the_tokens_stand_in_a_text(appends: list[tuple[int, int]], tokens: list[int]) -> None:
    tree, texts = grown(appends)
    assert tree.contains(tokens) == (not tokens or tuple(tokens) in substrings(texts))


def test_a_draft_grows_with_the_match_and_ends_where_it_gets_unlikely() -> None:
    tree = SuffixTree(24)
    tree.text().extend(range(100))
    answer = tree.text()
    answer.extend([10, 11])
    assert answer.draft(8, DraftRule(1.0, 0.1)) == [12, 13]
    assert answer.draft(8, DraftRule(2.0, 0.1)) == [12, 13, 14, 15]
    answer.extend([12, 13, 14, 15, 16, 17, 18, 19])
    assert answer.draft(8, DraftRule(1.0, 0.1)) == [20, 21, 22, 23, 24, 25, 26, 27]
    assert answer.draft(0, DraftRule(1.0, 0.1)) == []
    forks = SuffixTree(24)
    for end in range(4):
        forks.text().extend([1, 2, 3, 50 + end, 60])
    asking = forks.text()
    asking.extend([1, 2])
    assert asking.draft(8, DraftRule(4.0, 0.3)) == [3], "each of four ways on has a quarter"
    assert asking.draft(8, DraftRule(4.0, 0.2)) == [3, 53, 60], "of equally likely ways the latest"


def test_a_longer_match_beats_what_is_more_frequent() -> None:
    tree = SuffixTree(24)
    tree.text().extend([1, 2, 3, 7, 8, 9])
    for _ in range(5):
        tree.text().extend([3, 4, 5, 6])
    asking = tree.text()
    asking.extend([1, 2, 3])
    assert asking.draft(4, DraftRule(1.0, 0.1)) == [7, 8, 9]


def test_a_text_without_repetitions_costs_two_entries_per_token() -> None:
    tree = SuffixTree(24)
    tree.text().extend(range(1000))
    assert tree.size <= 2000


def test_a_tree_that_could_predict_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        SuffixTree(1)
    with pytest.raises(ValueError, match="longer than the tree is deep"):
        SuffixTree(2).contains([1, 2, 3])


def test_a_loop_is_followed_for_as_long_as_it_is_asked() -> None:
    tree = SuffixTree(24)
    text = tree.text()
    text.extend([1, 2, 3] * 10)
    assert text.draft(8, DraftRule(1.0, 0.1)) == [1, 2, 3, 1, 2, 3, 1, 2]
