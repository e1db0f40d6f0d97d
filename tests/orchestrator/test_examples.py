"""Examples: what is learned of each form of line, to the token, and what is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from orchestrator.data.examples import Example, ExamplesSettings, read_examples
from orchestrator.data.prompts import DataSettings, Prompt, render
from orchestrator.data.worked_solutions import Style, parse_chain_sum, solve
from orchestrator.errors import SettingError

Write = Callable[..., Path]
END = "<|end|>"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tied_model: Path) -> PreTrainedTokenizerBase:
    """One token a byte, so that a token's place is its character's."""
    tokenizer = AutoTokenizer.from_pretrained(tied_model)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(*rows: object) -> Path:
        path = tmp_path / "examples.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return make


def read(path: Path, tokenizer: PreTrainedTokenizerBase, **settings: object) -> tuple[Example, ...]:
    given = ExamplesSettings.model_validate({"path": str(path), **settings})
    return read_examples(given, tokenizer, longest=200)[0]


def fault(path: Path, tokenizer: PreTrainedTokenizerBase, **settings: object) -> SettingError:
    with pytest.raises(SettingError) as caught:
        read(path, tokenizer, **settings)
    assert "\n" not in str(caught.value)
    return caught.value


def learned(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, float]]:
    """(text, weight) of each run of tokens of one weight, what is only read first."""
    runs: list[tuple[list[int], float]] = [(list(example.prompt_ids), 0.0)]
    for token, weight in zip(example.response_ids, example.weights, strict=True):
        if weight == runs[-1][1] and runs[1:]:
            runs[-1][0].append(token)
        else:
            runs.append(([token], weight))
    return [(tokenizer.decode(ids), weight) for ids, weight in runs]


def test_of_a_prompt_and_a_response_the_response_is_learned_and_its_end(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    (example,) = read(write({"prompt": "1+1", "response": "2"}), tokenizer, template="{question}=\n")
    assert learned(example, tokenizer) == [("1+1=\n", 0.0), (f"2{END}", 1.0)]


def test_prompts_are_the_tokens_that_reinforcement_learning_asks_with(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    data = DataSettings.model_validate({"path": "x", "template": "Q: {question}\n", "chat": True, "system": "be brief"})
    asked = render(Prompt("p", 0, "1+1", None, {}), data, tokenizer)
    (example,) = read(
        write({"prompt": "1+1", "response": "2"}), tokenizer, template="Q: {question}\n", chat=True, system="be brief"
    )
    assert example.prompt_ids == asked
    assert tokenizer.decode(example.response_ids) == f"2{END}"


def test_columns_of_the_line_fill_the_template(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    row = {"prompt": "1+1", "hint": "count", "response": "2"}
    (example,) = read(write(row), tokenizer, template="{question} ({metadata[hint]})")
    assert tokenizer.decode(example.prompt_ids) == "1+1 (count)"


def test_of_a_chat_every_answer_is_learned_with_the_end_of_its_turn(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    chat = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b"), ("user", "w")]
    (example,) = read(write({"messages": [{"role": r, "content": c} for r, c in chat]}), tokenizer)
    assert learned(example, tokenizer) == [
        (f"[system]s{END}[user]u{END}[assistant]", 0.0),
        (f"a{END}", 1.0),
        (f"[user]v{END}[assistant]", 0.0),
        (f"b{END}", 1.0),
    ], "nothing depends on the last turn: it is cut off"


def test_roles_have_weights_of_their_own(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [("user", "u"), ("tool", "t"), ("assistant", "a")]
    path = write({"messages": [{"role": r, "content": c} for r, c in chat]})
    (example,) = read(path, tokenizer, weights={"user": 0.5, "assistant": 1})
    # The very first token has nothing before it.
    assert learned(example, tokenizer) == [
        ("[", 0.0),
        (f"user]u{END}", 0.5),
        (f"[tool]t{END}[assistant]", 0.0),
        (f"a{END}", 1.0),
    ]


def test_a_turn_may_name_its_own_weight(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": "v"},
        {"role": "assistant", "content": "b", "weight": 0.25},
    ]
    (example,) = read(write({"messages": chat}), tokenizer)
    assert learned(example, tokenizer)[1:] == [(f"b{END}", 0.25)]


def test_continued_pre_training_learns_all_but_the_first_token(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    (text,) = read(write({"text": "abc"}), tokenizer)
    assert learned(text, tokenizer) == [("a", 0.0), (f"bc{END}", 1.0)]
    (asked,) = read(write({"prompt": "ab", "response": "c"}), tokenizer, weights="all")
    assert learned(asked, tokenizer) == [("a", 0.0), (f"bc{END}", 1.0)]


def test_spans_learn_a_critique_alone(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    spans = [{"text": "problem ", "label": "given"}, {"text": "solution ", "label": "given"}, {"text": "wrong!"}]
    (example,) = read(write({"spans": spans}), tokenizer)
    assert learned(example, tokenizer) == [("problem solution ", 0.0), (f"wrong!{END}", 1.0)]


def test_retrieved_text_is_masked_and_thoughts_weigh_less_than_actions(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    spans = [
        {"text": "q", "label": "question"},
        {"text": "think", "label": "thought"},
        {"text": "search", "label": "action"},
        {"text": "found", "label": "retrieved"},
        {"text": "say", "label": "action"},
    ]
    weights = {"thought": 0.1, "action": 1.0}
    (example,) = read(write({"spans": spans}), tokenizer, weights=weights, end=False)
    assert learned(example, tokenizer) == [("q", 0.0), ("think", 0.1), ("search", 1.0), ("found", 0.0), ("say", 1.0)]


def test_lines_keep_their_numbers_and_empty_ones_are_skipped(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    examples = read(write({"text": "ab"}, "", {"text": "cd"}), tokenizer)
    assert [example.line for example in examples] == [1, 3]


def test_examples_that_are_too_long_are_refused_or_dropped(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write({"text": "ab"}, {"text": "x" * 500})
    error = fault(path, tokenizer)
    assert error.setting == "trainer.token_budget"
    assert "line 2: 501 tokens, allowed are 200" in str(error)
    settings = ExamplesSettings(path=str(path), longer="drop")
    examples, dropped = read_examples(settings, tokenizer, longest=200)
    assert ([example.line for example in examples], dropped) == ([1], 1)


def test_a_template_that_writes_earlier_turns_anew_is_refused(write: Write, tied_model: Path) -> None:
    """Some drop the thoughts of all answers but the last."""
    tokenizer = AutoTokenizer.from_pretrained(tied_model)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last else '-' }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat = [("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    error = fault(write({"messages": [{"role": r, "content": c} for r, c in chat]}), tokenizer)
    assert "line 1" in str(error)
    assert "writes earlier turns anew" in str(error)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: not an object"),
        ({"question": "1"}, "none of messages, prompt, spans, text"),
        ({"prompt": "1"}, "response is missing"),
        ({"prompt": "1", "response": ""}, "response is missing, empty"),
        ({"messages": []}, "messages is not a list"),
        ({"messages": ["hi"]}, "a turn is not an object"),
        ({"messages": [{"role": "user"}]}, "content is missing"),
        ({"spans": []}, "spans is not a list"),
        ({"spans": [{"label": "x"}]}, "text is missing"),
        ({"spans": [{"text": "x", "weight": -1}]}, "weight -1"),
        ({"spans": [{"text": "x", "weight": True}]}, "weight True"),
        ({"messages": [{"role": "user", "content": "u"}]}, "no token has a weight"),
        ({"spans": [{"text": "xyz", "label": "given"}]}, "no token has a weight"),
    ],
)
def test_a_line_that_is_no_example_is_named(
    write: Write, tokenizer: PreTrainedTokenizerBase, row: object, says: str
) -> None:
    assert says in str(fault(write(row), tokenizer))


def test_a_label_that_never_occurs_is_refused(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    error = fault(write({"prompt": "1", "response": "2"}), tokenizer, weights={"response": 1, "promt": 0.5})
    assert error.setting == "examples.weights.promt"
    assert "did you mean prompt?" in str(error)


def test_the_shipped_examples_are_right_and_can_be_read(tokenizer: PreTrainedTokenizerBase) -> None:
    settings = ExamplesSettings(path="shipped:chain_sums.jsonl", template="{question}\n")
    examples, _ = read_examples(settings, tokenizer, longest=2000)
    assert len(examples) == 256
    for example in examples:
        asked, answer = tokenizer.decode(example.prompt_ids), tokenizer.decode(example.response_ids)
        expression = asked.partition(": ")[2].removesuffix(" =\n")
        assert answer == solve(parse_chain_sum(expression), Style.RUNNING) + END


def test_files_that_cannot_be_read(tmp_path: Path, write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    assert "No such file" in str(fault(tmp_path / "none.jsonl", tokenizer))
    assert "has no example" in str(fault(write(""), tokenizer))
    (tmp_path / "latin").write_bytes(b"\xe9")
    assert "not UTF-8" in str(fault(tmp_path / "latin", tokenizer))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": {"response": 0}}, "nothing would be learned"),
        ({"weights": {"response": -1}}, "not below 0"),
        ({"system": "s"}, "set chat=true"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ExamplesSettings.model_validate({"path": "x", **settings})
