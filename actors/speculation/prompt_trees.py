"""One suffix tree per prompt, shared by all answers to it in this epoch and the earlier ones, in bounded memory.

Invariants:
- the sizes of all trees together stay within `max_size`, but for trees that running answers still need: where these
  alone are larger, they are kept, and bounded by the answers that run;
- what goes is the prompt that was used least recently, whole. A single prompt's tree that fills a quarter of the memory
  is left to the answers that run in it, and the next answer starts a new one.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.speculation.suffix_tree import DraftRule, SuffixTree, Text

_CONTEXT = 8
"""Tokens before an answer's first one that are read with it, so that its first tokens too follow a known suffix."""
_LARGEST_SHARE = 4
"""A tree larger than this part of the memory (one in four) is replaced by the next answer that begins."""


@dataclass(frozen=True, slots=True)
class SuffixSettings:
    """The suffix drafter's constants.

    Attributes:
        depth: longest substring that is counted, in tokens (24 in arXiv 2411.04975).
        max_size: of all trees together, in entries (`SuffixTree.size`) of 60 to 120 bytes.
    """

    depth: int = 24
    max_size: int = 2_000_000
    rule: DraftRule = field(default_factory=DraftRule)


@dataclass(slots=True, eq=False)
class _Prompt:
    """A prompt's tree, with the answers that run in it; not `held` once a new tree took its place."""

    tree: SuffixTree
    running: int = 0
    held: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """An answer in its prompt's tree."""

    prompt: _Prompt
    text: Text


class PromptTrees:
    """See the module's docstring. Not for several threads."""

    def __init__(self, settings: SuffixSettings) -> None:
        self._settings = settings
        self._prompts: OrderedDict[bytes, _Prompt] = OrderedDict()
        """The least recently used first."""
        self._size = 0

    def __contains__(self, group: bytes) -> bool:
        return group in self._prompts

    def __len__(self) -> int:
        """Prompts that are known."""
        return len(self._prompts)

    @property
    def size(self) -> int:
        """Entries of all trees that new answers can find."""
        return self._size

    def begin(self, group: bytes, prompt_ids: Sequence[int], prefix_ids: Sequence[int]) -> Answer:
        """An answer to this prompt starts, or goes on behind a prefix. `end` must follow."""
        prompt = self._prompt(group, prompt_ids)
        prompt.running += 1
        # A prefix that was sampled here stands in the tree already: all of it needs no second count.
        known = prompt.tree.contains(list(prefix_ids[-self._settings.depth :]))
        context = [*prompt_ids[-_CONTEXT:], *prefix_ids]
        answer = Answer(prompt, prompt.tree.text())
        self.extend(answer, context[-_CONTEXT:] if known else context)
        return answer

    def extend(self, answer: Answer, token_ids: Sequence[int]) -> None:
        """These tokens were emitted."""
        tree = answer.prompt.tree
        before = tree.size
        answer.text.extend(token_ids)
        if answer.prompt.held:
            self._size += tree.size - before

    def draft(self, answer: Answer, length: int) -> list[int]:
        """At most so many tokens that may follow this answer."""
        return answer.text.draft(length, self._settings.rule)

    def end(self, answer: Answer) -> None:
        answer.prompt.running -= 1
        self._evict()

    def _prompt(self, group: bytes, prompt_ids: Sequence[int]) -> _Prompt:
        prompt = self._prompts.pop(group, None)
        if prompt is not None and prompt.tree.size > self._settings.max_size // _LARGEST_SHARE:
            self._size -= prompt.tree.size
            prompt.held = False
            prompt = None
        if prompt is None:
            prompt = _Prompt(SuffixTree(self._settings.depth))
            prompt.tree.text().extend(prompt_ids)
            self._size += prompt.tree.size
        self._prompts[group] = prompt
        return prompt

    def _evict(self) -> None:
        if self._size <= self._settings.max_size:
            return
        for group in [group for group, prompt in self._prompts.items() if not prompt.running]:
            self._size -= self._prompts.pop(group).tree.size
            if self._size <= self._settings.max_size:
                return
