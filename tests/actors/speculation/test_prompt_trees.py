"""The suffix drafter's memory: shared in a group, kept for later epochs, bounded."""

import random

from actors.speculation.drafter import prompt_key
from actors.speculation.prompt_trees import Answer, PromptTrees, SuffixSettings

PROMPT = tuple(range(1000, 1030))


def begin(trees: PromptTrees, prompt: tuple[int, ...] = PROMPT, prefix: tuple[int, ...] = ()) -> Answer:
    return trees.begin(prompt_key(prompt), prompt, prefix)


def test_what_one_answer_says_is_drafted_for_another_while_both_run() -> None:
    trees = PromptTrees(SuffixSettings())
    first, second = begin(trees), begin(trees)
    trees.extend(first, [1, 2, 3, 4, 5, 6])
    trees.extend(second, [1, 2])
    assert trees.draft(second, 8)[:2] == [3, 4]
    other = trees.begin(prompt_key((7,)), (7,), ())
    trees.extend(other, [1, 2])
    assert trees.draft(other, 8) == []


def test_the_first_tokens_follow_the_prompt_and_an_earlier_epoch() -> None:
    trees = PromptTrees(SuffixSettings())
    answer = begin(trees)
    trees.extend(answer, [1, 2, 3, 4, 5, 6])
    trees.end(answer)
    again = begin(trees)
    assert trees.draft(again, 6) == [1, 2, 3, 4, 5, 6]


def test_a_prefix_that_was_sampled_here_is_not_counted_again() -> None:
    trees = PromptTrees(SuffixSettings())
    tokens = tuple(random.Random(0).randrange(500) for _ in range(400))
    answer = begin(trees)
    trees.extend(answer, tokens)
    trees.end(answer)
    before = trees.size
    continued = begin(trees, prefix=tokens)
    assert trees.size - before < 400
    elsewhere = tuple(random.Random(1).randrange(500) for _ in range(400))
    moved = begin(trees, prefix=elsewhere)
    assert trees.size - before > 400
    trees.extend(continued, elsewhere[:20])
    assert trees.draft(continued, 4) == list(elsewhere[20:24])
    trees.end(moved)


def test_the_least_recently_used_prompts_go_first_and_running_ones_stay() -> None:
    trees = PromptTrees(SuffixSettings(max_size=4000))
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(5000) for _ in range(20)) for _ in range(12)]
    kept = begin(trees, prompts[0])
    for prompt in prompts[1:]:
        answer = begin(trees, prompt)
        trees.extend(answer, [rng.randrange(5000) for _ in range(200)])
        trees.end(answer)
    assert trees.size <= 4000
    held = [prompt_key(prompt) in trees for prompt in prompts]
    assert held[0], "its answer runs"
    assert held[-1]
    assert not held[1]
    assert held[1:] == sorted(held[1:])
    trees.end(kept)


def test_a_prompt_that_fills_its_share_starts_a_new_tree_and_lets_running_answers_end_in_the_old() -> None:
    trees = PromptTrees(SuffixSettings(max_size=8000))
    rng = random.Random(0)
    old = begin(trees)
    trees.extend(old, [rng.randrange(5000) for _ in range(2000)])
    new = begin(trees)
    size = trees.size
    assert size < 200
    assert new.prompt is not old.prompt
    trees.extend(old, [1, 2, 3])
    assert trees.size == size
    trees.end(old)
    trees.end(new)


def test_the_size_is_that_of_the_trees() -> None:
    trees = PromptTrees(SuffixSettings(max_size=6000))
    rng = random.Random(0)
    for _ in range(60):
        answer = begin(trees, (rng.randrange(10), 3, 4))
        trees.extend(answer, [rng.randrange(30) for _ in range(100)])
        trees.end(answer)
        assert trees.size == sum(prompt.tree.size for prompt in trees._prompts.values())
        assert trees.size <= 6000
