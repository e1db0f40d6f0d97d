"""A suffix tree of bounded depth over texts that grow token by token: what followed the last words, the times before.

The model-free drafter's memory (Oliaro et al., SuffixDecoding, arXiv 2411.04975; shared by the answers of a group as in
Seer, arXiv 2511.14617). Every substring of up to `depth` tokens is counted. Of a substring that occurred once, only
where it stands in its text is kept; it becomes a node when it occurs again. So a text without repetitions costs one
entry per token, and appending a token costs as many dictionary look-ups as suffixes of the text occurred before: at
most `depth`.

Invariants:
- a node's count is how often its substring occurs in all texts; of a place, it is one;
- a text's `_matches` are the nodes of exactly those of its suffixes, shorter than `depth`, that occur at least twice,
  and the root;
- counts only grow, so a node's likeliest continuation is kept up to date without looking at the others.
"""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

_TEXT_BITS = 32
_Place = int
"""Text number and the position behind the substring, packed: a substring that occurred once."""


class _Node:
    """A substring that occurred at least twice; the root is the empty one."""

    __slots__ = ("best", "best_count", "children", "count", "depth")

    def __init__(self, depth: int, count: int) -> None:
        self.depth = depth
        self.count = count
        self.children: dict[int, _Node | _Place] = {}
        self.best = -1
        """The likeliest next token, of equal ones the latest; -1 where nothing follows."""
        self.best_count = 0


@dataclass(frozen=True, slots=True)
class DraftRule:
    """How far a draft may go.

    Attributes:
        max_factor: drafted tokens per token of the suffix that matched.
        min_probability: the draft ends where its estimated probability, the product of its tokens' shares, is lower.
    """

    max_factor: float = 1.0
    min_probability: float = 0.1


class SuffixTree:
    """See the module's docstring."""

    def __init__(self, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"a suffix tree of depth {depth} predicts nothing: it must be at least 2")
        self._depth = depth
        self._root = _Node(0, 0)
        self._texts: list[Text] = []
        self.size = 0
        """Tokens, places and nodes held; each takes some tens of bytes, a node a few hundred."""

    def text(self) -> "Text":
        """A new text, still empty."""
        text = Text(self, len(self._texts))
        self._texts.append(text)
        return text

    def contains(self, tokens: list[int]) -> bool:
        """Whether these tokens stand in a row in some text.

        Raises:
            ValueError: they are more than `depth`.
        """
        if len(tokens) > self._depth:
            raise ValueError(f"{len(tokens)} tokens are longer than the tree is deep: {self._depth}")
        node = self._root
        for i, token in enumerate(tokens, 1):
            child = node.children.get(token)
            if child is None:
                return False
            if isinstance(child, int):
                text, start = self._place(child)
                return text[start : start + len(tokens) - i] == tokens[i:]
            node = child
        return True

    def _append(self, text: "Text", token: int) -> None:
        text.tokens.append(token)
        place = text.number << _TEXT_BITS | len(text.tokens)
        matches: list[_Node] = []
        added = 1
        for node in text._matches:
            child = node.children.get(token)
            if child is None:
                node.children[token] = place
                count = 1
                added += 1
            elif isinstance(child, int):
                node.children[token] = child = self._unfold(child, node.depth + 1)
                count = 2
                added += 1
                if child.depth < self._depth:
                    matches.append(child)
            else:
                count = child.count = child.count + 1
                if child.depth < self._depth:
                    matches.append(child)
            if count >= node.best_count:
                node.best, node.best_count = token, count
        matches.append(self._root)
        text._matches = matches
        self._root.count += 1
        self.size += added

    def _unfold(self, place: _Place, depth: int) -> _Node:
        """The node in place of a place: it has occurred a second time."""
        node = _Node(depth, 2)
        if depth < self._depth:
            text = self._texts[place >> _TEXT_BITS]
            end = place & (1 << _TEXT_BITS) - 1
            if end < len(text.tokens):
                node.best, node.best_count = text.tokens[end], 1
                node.children[node.best] = place + 1
                self.size += 1
            else:
                # That text may go on: its next token follows this substring too.
                insort(text._matches, node, key=_shortness)
        return node

    def _draft(self, matches: list[_Node], length: int, rule: DraftRule) -> list[int]:
        """The path with the largest sum of token probabilities, over all suffixes that matched."""
        best: list[int] = []
        best_score = 0.0
        for node in matches:
            limit = min(length, int(rule.max_factor * node.depth))
            if limit <= best_score:
                break
            path, score = self._path(node, limit, rule.min_probability)
            if score > best_score:
                best, best_score = path, score
        return best

    def _path(self, node: _Node, limit: int, min_probability: float) -> tuple[list[int], float]:
        """Greedily from this suffix on."""
        path: list[int] = []
        score, probability = 0.0, 1.0
        occurrences = node.count - 1  # Not the one at the end of the text that asks.
        while len(path) < limit and node.best_count:
            probability *= node.best_count / occurrences
            if probability < min_probability:
                break
            path.append(node.best)
            score += probability
            child = node.children[node.best]
            if isinstance(child, int):
                text, start = self._place(child)
                copied = text[start : start + limit - len(path)]
                return path + copied, score + probability * len(copied)
            node, occurrences = child, child.count
        return path, score

    def _place(self, place: _Place) -> tuple[list[int], int]:
        return self._texts[place >> _TEXT_BITS].tokens, place & (1 << _TEXT_BITS) - 1


class Text:
    """A growing text in a tree; made by `SuffixTree.text`."""

    __slots__ = ("_matches", "_tree", "number", "tokens")

    def __init__(self, tree: SuffixTree, number: int) -> None:
        self._tree = tree
        self._matches = [tree._root]
        """From the longest suffix to the empty one."""
        self.number = number
        self.tokens: list[int] = []

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._tree._append(self, token)

    def draft(self, length: int, rule: DraftRule) -> list[int]:
        """At most so many tokens that may follow the text; none where its last token never occurred before."""
        return self._tree._draft(self._matches, length, rule)


def _shortness(node: _Node) -> int:
    return -node.depth
