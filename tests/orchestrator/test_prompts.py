"""Prompts from real files and real tasks: order, held-out sets, resume, rendering, and what a user is told."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from orchestrator.data.prompts import DataSettings, Prompt, PromptSource, open_source, prompt_text, render
from orchestrator.errors import SettingError
from tests.gsm8k import gsm8k

ROWS = [
    {"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}", "level": n % 3} for n in range(40)
]


def data(**values: object) -> DataSettings:
    return DataSettings.model_validate(values)


def draw(source: PromptSource, count: int) -> list[Prompt]:
    return [source.next() for _ in range(count)]


def complaint(source: DataSettings) -> str:
    with pytest.raises(SettingError) as error:
        open_source(source, seed=0)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_few_prompts_come_again_in_every_epoch(table: Path) -> None:
    tasks = [{"name": "chain_sum"}]
    for few in (data(path=str(table), eval_size=4, train_size=3), data(tasks=tasks, eval_size=4, train_size=3)):
        source = open_source(few, seed=1)
        prompts = draw(source, 9)
        items = [prompt.prompt_id.partition("@")[0] for prompt in prompts]
        assert len(set(items)) == 3
        assert all(sorted(items[n : n + 3]) == sorted(items[:3]) for n in (3, 6))
        assert [prompt.prompt_id.partition("@")[2] for prompt in prompts] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
        assert [prompt.index for prompt in prompts] == list(range(9))
        held_out = {prompt.question for prompt in source.eval_prompts()}
        assert held_out.isdisjoint(prompt.question for prompt in prompts)
        again = open_source(few, seed=1)
        again.restore({**source.state(), "cursor": 7})
        assert draw(again, 2) == prompts[7:]
        others = open_source(few.model_copy(update={"train_size": 2}), seed=1)
        with pytest.raises(SettingError, match="made with other prompts"):
            others.restore(source.state())


class TestFiles:
    def test_jsonl_csv_parquet_and_a_folder_give_the_same_prompts(self, table: Path, tmp_path: Path) -> None:
        arrow = pa.Table.from_pylist(ROWS)
        pyarrow.parquet.write_table(arrow, tmp_path / "sums.parquet")
        quoted = [[f'"{value}"' if isinstance(value, str) else str(value) for value in row.values()] for row in ROWS]
        lines = ["question,answer,level", *(",".join(row) for row in quoted)]
        (tmp_path / "sums.csv").write_text("\n".join(lines))
        folder = tmp_path / "parts"
        folder.mkdir()
        for part in (0, 1):
            rows = ROWS[part * 20 : part * 20 + 20]
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        drawn = [
            draw(open_source(data(path=str(path), eval_size=8), seed=3), 40)
            for path in (table, tmp_path / "sums.csv", tmp_path / "sums.parquet", folder)
        ]
        assert drawn[1:] == drawn[:1] * 3
        assert set(drawn[0][0].metadata) == {"level"}

    def test_each_epoch_holds_every_training_row_once_in_a_new_order(self, table: Path) -> None:
        source = open_source(data(path=str(table), eval_size=8), seed=3)
        first, second = draw(source, 32), draw(source, 32)
        assert len({prompt.question for prompt in first}) == 32
        assert {prompt.question for prompt in first} == {prompt.question for prompt in second}
        assert [prompt.question for prompt in first] != [prompt.question for prompt in second]
        assert len({prompt.prompt_id for prompt in first + second}) == 64
        assert {prompt.prompt_id.partition("@")[0] for prompt in first} == {
            prompt.prompt_id.partition("@")[0] for prompt in second
        }
        assert [prompt.index for prompt in first + second] == list(range(64))

    def test_the_seed_decides_the_order_and_the_eval_seed_the_held_out_set(self, table: Path) -> None:
        def opened(seed: int, eval_seed: int) -> PromptSource:
            return open_source(data(path=str(table), eval_size=8, eval_seed=eval_seed), seed)

        assert draw(opened(1, 1), 50) == draw(opened(1, 1), 50)
        assert draw(opened(1, 1), 32) != draw(opened(2, 1), 32)
        assert opened(1, 1).eval_prompts() == opened(2, 1).eval_prompts()
        assert opened(1, 1).eval_prompts() != opened(1, 2).eval_prompts()

    def test_held_out_questions_are_never_drawn_not_even_from_a_double(self, tmp_path: Path) -> None:
        path = tmp_path / "doubles.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS + ROWS))
        source = open_source(data(path=str(path), eval_size=10), seed=0)
        held_out = {prompt.question for prompt in source.eval_prompts()}
        assert len(source.eval_prompts()) == 10
        assert not held_out & {prompt.question for prompt in draw(source, 200)}

    def test_the_preview_holds_the_longest_question_and_moves_nothing(self, table: Path) -> None:
        long = {"question": "long " * 500, "answer": "1", "level": 0}
        table.write_text(table.read_text() + json.dumps(long) + "\n")
        source = open_source(data(path=str(table), eval_size=0), seed=0)
        assert source.preview()[0].question == long["question"]
        assert source.next().index == 0

    def test_the_reference_is_cut_out_of_the_answer(self, table: Path) -> None:
        source = open_source(data(path=str(table), answer_pattern=r"#### (.+)", eval_size=0), seed=0)
        for prompt in draw(source, 40):
            row = ROWS[int(prompt.prompt_id.partition("@")[0].removeprefix("row"))]
            assert prompt.reference == row["answer"].rpartition("#### ")[2]  # type: ignore[attr-defined]
            assert prompt.question == row["question"]

    def test_numbers_as_answers_and_no_answers(self, tmp_path: Path) -> None:
        path = tmp_path / "n.jsonl"
        path.write_text('{"question": "a", "answer": 7}\n\n{"question": "b", "answer": 8}\n')
        source = open_source(data(path=str(path), eval_size=0), seed=0)
        assert {prompt.reference for prompt in draw(source, 2)} == {"7", "8"}
        source = open_source(data(path=str(path), eval_size=0, answer_column=None), seed=0)
        assert [prompt.reference for prompt in draw(source, 2)] == [None, None]

    def test_gsm8k_as_published(self) -> None:
        source = open_source(data(path=str(gsm8k()), answer_pattern="#### (.+)", eval_size=256), seed=0)
        prompts = [*source.eval_prompts(), *draw(source, 7473 - 256)]
        assert len({prompt.question for prompt in prompts}) == 7473
        assert all(prompt.reference and "\n" not in prompt.reference for prompt in prompts)

    def test_loading_touches_no_network_and_prints_nothing(self, table: Path, tmp_path: Path) -> None:
        program = textwrap.dedent(f"""
            import sys
            def refuse(event, arguments):
                if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
                    print("network:", event, arguments)
            sys.addaudithook(refuse)
            from orchestrator.data.prompts import DataSettings, open_source
            assert "datasets" not in sys.modules and "reasoning_gym" not in sys.modules
            source = open_source(DataSettings(path={str(table)!r}, eval_size=8), seed=0)
            assert source.next()
        """)
        environment = {
            **os.environ,
            "PYTHONPATH": os.getcwd(),
            "HF_HOME": str(tmp_path / "fresh"),
            "XDG_CACHE_HOME": str(tmp_path / "fresh"),
        }
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestTasks:
    MIXTURE = (
        {"name": "chain_sum", "weight": 3.0, "options": {"max_terms": 4, "max_digits": 2}},
        {"name": "gcd", "weight": 1.0},
    )

    def test_an_item_is_a_function_of_the_seed_and_its_number_across_blocks_and_processes(self) -> None:
        settings_ = data(tasks=self.MIXTURE, eval_size=4)
        walked = draw(open_source(settings_, seed=5), 600)
        again = open_source(settings_, seed=5)
        again.restore({**again.state(), "cursor": walked[555].index})
        assert again.next() == walked[555]
        program = textwrap.dedent(f"""
            from orchestrator.data.prompts import DataSettings, open_source
            source = open_source(DataSettings.model_validate({settings_.model_dump()!r}), seed=5)
            print([source.next().question for _ in range(20)])
        """)
        environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONHASHSEED": "77"}
        elsewhere = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        assert elsewhere.stdout.strip() == str([prompt.question for prompt in walked[:20]])

    def test_weights_options_and_seeds_count(self) -> None:
        prompts = draw(open_source(data(tasks=self.MIXTURE, eval_size=4), seed=5), 600)
        share = sum(prompt.metadata["task"] == "chain_sum" for prompt in prompts) / 600
        assert share == pytest.approx(0.75, abs=0.06)
        other = draw(open_source(data(tasks=self.MIXTURE, eval_size=4), seed=6), 600)
        assert len({p.question for p in prompts} & {p.question for p in other}) < 200
        sums = [prompt.question for prompt in prompts if prompt.metadata["task"] == "chain_sum"]
        assert max(question.count("+") + question.count(" - ") for question in sums) <= 3
        assert len({prompt.prompt_id for prompt in prompts}) == 600

    def test_held_out_questions_are_never_drawn_from_a_small_world(self) -> None:
        small = {"name": "chain_sum", "options": {"min_terms": 2, "max_terms": 2, "max_digits": 1}}
        source = open_source(data(tasks=[small], eval_size=30), seed=0)
        held_out = {prompt.question for prompt in source.eval_prompts()}
        prompts = draw(source, 300)
        assert not held_out & {prompt.question for prompt in prompts}
        assert not held_out & {prompt.question for prompt in source.preview()}
        assert prompts[-1].index > 299, "or nothing had to be skipped and the test shows nothing"

    def test_a_world_that_is_all_held_out_is_refused_not_searched_for_ever(self) -> None:
        tiny = {"name": "chain_sum", "options": {"min_terms": 2, "max_terms": 2, "max_digits": 1}}
        source = open_source(data(tasks=[tiny], eval_size=4000), seed=0)
        with pytest.raises(SettingError, match=r"data\.eval_size"):
            source.next()

    def test_the_item_carries_what_its_scorer_needs(self) -> None:
        from rewards.reasoning_gym_task import reasoning_gym_reward
        from rewards.response import Response

        for prompt in draw(open_source(data(tasks=self.MIXTURE), seed=1), 40):
            text = f"so\n#### {prompt.reference}"
            response = Response("s", prompt.question, text, prompt.reference, prompt.metadata)
            assert reasoning_gym_reward(response) == 1.0

    @pytest.mark.parametrize(
        ("task", "said"),
        [
            ({"name": "chain_summ"}, "did you mean chain_sum"),
            ({"name": "chain_sum", "options": {"max_term": 3}}, "no option 'max_term', did you mean max_terms"),
            ({"name": "chain_sum", "options": {"min_terms": 9, "max_terms": 3}}, "max_terms must be >= min_terms"),
            ({"name": "chain_sum", "options": {"seed": 3}}, "no option 'seed'"),
            ({"name": "word_ladder"}, "PYTHONHASHSEED=0"),
        ],
    )
    def test_a_wrong_task_is_one_line(self, task: dict[str, object], said: str) -> None:
        line = complaint(data(tasks=[task]))
        assert line.startswith("data.tasks: ")
        assert said in line


class TestResume:
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(before=st.integers(0, 90), after=st.integers(1, 90))
    @pytest.mark.parametrize("kind", ["file", "tasks"])
    def test_k_prompts_resume_and_m_prompts_are_k_plus_m(self, table: Path, kind: str, before: int, after: int) -> None:
        source = {"path": str(table)} if kind == "file" else {"tasks": TestTasks.MIXTURE}
        chosen = data(**source, eval_size=8)
        unbroken = draw(open_source(chosen, seed=9), before + after)
        first = open_source(chosen, seed=9)
        drawn = draw(first, before)
        state: Mapping[str, object] = json.loads(json.dumps(first.state()))
        second = open_source(chosen, seed=9)
        second.restore(state)  # type: ignore[arg-type]
        assert drawn + draw(second, after) == unbroken

    @pytest.mark.parametrize("change", [{"eval_size": 9}, {"eval_seed": 2}, {"seed": 4}])
    @pytest.mark.parametrize("kind", ["file", "tasks"])
    def test_a_state_of_other_prompts_is_refused(self, table: Path, kind: str, change: dict[str, int]) -> None:
        source = {"path": str(table)} if kind == "file" else {"tasks": TestTasks.MIXTURE}
        values: dict[str, int] = {"eval_size": 8, "eval_seed": 1, "seed": 3}
        changed = values | change
        state = open_source(data(**source, eval_size=8, eval_seed=1), values["seed"]).state()
        other = open_source(
            data(**source, eval_size=changed["eval_size"], eval_seed=changed["eval_seed"]), changed["seed"]
        )
        with pytest.raises(SettingError, match="other prompts or another seed"):
            other.restore(state)

    def test_a_changed_file_is_refused(self, table: Path) -> None:
        state = open_source(data(path=str(table), eval_size=8), seed=3).state()
        table.write_text(table.read_text().replace("What is 5", "What's 5"))
        with pytest.raises(SettingError, match="other prompts"):
            open_source(data(path=str(table), eval_size=8), seed=3).restore(state)


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.jsonl", b"", "a.jsonl is empty"),
            ("a.jsonl", b"\n \n", "has no rows"),
            ("a.jsonl", b'{"question": "a", "answer": "1"}\n{"question": "b"\n', "line 2: not JSON"),
            ("a.jsonl", b'{"question": "a", "answer": "1"}\n\n{"question": \n{}\n', "line 3: not JSON"),
            ("a.jsonl", b'{"question": "a", "answer": "1"}\n42\n', "line 2: not an object"),
            ("a.jsonl", b'{"question": "a", "answer": "1"}\n{"question": "\xff"}\n', "line 2: not UTF-8"),
            ("a.jsonl", b'{"questions": "a", "answer": "1"}\n', "no column 'question', did you mean questions"),
            (
                "a.jsonl",
                b'{"question": "a", "solution": "1"}\n',
                "the columns are question, solution; set data.answer_column",
            ),
            ("a.jsonl", b'{"question": "a", "answer": "1"}\n{"question": null, "answer": "1"}\n', "row 1 has an empty"),
            ("a.json", b'[{"question": "a",\n "answer": }]', "line 2: "),
            ("a.csv", b"question,answer\na,1\nb,2,3\n", "line 3: 3 columns, the first line has 2"),
            ("a.csv", b"question,answer\n", "has no rows"),
            ("a.parquet", b"not parquet at all", "a.parquet cannot be read"),
            ("a.txt", b"hello", "is not one of .jsonl"),
        ],
    )
    def test_a_broken_file_is_one_line_that_names_the_place(
        self, tmp_path: Path, name: str, content: bytes, said: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        line = complaint(data(path=str(tmp_path / name), eval_size=0))
        assert line.startswith("data.")
        assert said in line
        assert name in line or "row 1" in line

    def test_a_missing_file_names_its_neighbour(self, table: Path) -> None:
        assert f"did you mean {table}?" in complaint(data(path=str(table.with_name("sum.jsonl"))))
        assert "does not exist" in complaint(data(path="/nowhere/at/all.jsonl"))

    def test_folders_that_do_not_work(self, tmp_path: Path) -> None:
        assert "holds no" in complaint(data(path=str(tmp_path)))
        (tmp_path / "a.jsonl").write_text("{}")
        (tmp_path / "b.csv").write_text("a")
        assert "files of 2 kinds (.csv, .jsonl)" in complaint(data(path=str(tmp_path)))

    def test_too_large_a_held_out_set_and_a_pattern_that_misses(self, table: Path) -> None:
        assert "leaves none to train on" in complaint(data(path=str(table), eval_size=40))
        assert "does not match the answer of row 0" in complaint(data(path=str(table), answer_pattern="=> (.+)"))

    def test_a_hub_out_of_reach_is_one_line(self, tmp_path: Path) -> None:
        program = textwrap.dedent("""
            import time
            time.sleep = lambda seconds: None  # the client's pauses between attempts
            from orchestrator.errors import SettingError
            from orchestrator.data.prompts import DataSettings, open_source
            try:
                open_source(DataSettings(hub="openai/gsm8k", subset="main"), seed=0)
            except SettingError as error:
                print(error)
        """)
        base = {**os.environ, "PYTHONPATH": os.getcwd(), "HF_HOME": str(tmp_path)}
        base.pop("HF_HUB_OFFLINE", None)
        for cut_off in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=base | cut_off,
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            assert done.stdout.startswith("data.hub: the hub cannot be reached for 'openai/gsm8k'"), done.stdout
            assert done.stdout.count("\n") == 1
            assert done.stderr == ""

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({}, "exactly one of path, hub and tasks, none is given"),
            ({"path": "a", "hub": "b"}, "path and hub are given"),
            ({"tasks": []}, "at least 1 item"),
            ({"path": "a", "subset": "main"}, "subset belongs to hub"),
            ({"path": "a", "system": "be brief"}, "set chat=true"),
            ({"path": "a", "template": "no field {qestion}"}, "neither {question} nor"),
            ({"path": "a", "answer_pattern": "####"}, "needs one group"),
            ({"path": "a", "answer_pattern": "("}, "not a regular expression"),
            ({"path": "a", "questions": "q"}, "Extra inputs"),
            ({"tasks": [{"name": "gcd", "weight": 0}]}, "greater than 0"),
        ],
    )
    def test_settings_that_contradict_themselves(self, values: dict[str, object], said: str) -> None:
        with pytest.raises(ValidationError) as error:
            data(**values)
        assert said in str(error.value)


PROMPT = Prompt("row1@0", 0, "What is {question} 2+2?", "4", {"level": 3, "hint": "{question}"})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; opens plain text with <s> and, as some do, closes it with </s>."""
    special = {"<s>": 0, "</s>": 1, "<unk>": 2}
    vocabulary = special | {chr(code): code - 29 for code in range(32, 127)} | {"\n": 98}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    model.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class TestRendering:
    def test_fields_are_filled_in_and_other_braces_stay(self) -> None:
        template = "{question} (level {metadata[level]}, {metadata[hint]}) Answer in \\boxed{}. {other}"
        filled = prompt_text(PROMPT, template)
        assert filled == "What is {question} 2+2? (level 3, {question}) Answer in \\boxed{}. {other}"

    def test_metadata_that_is_not_there_is_one_line(self) -> None:
        with pytest.raises(SettingError, match=r"data\.template: row1@0 has no metadata 'topic'; .*level, hint"):
            prompt_text(PROMPT, "{question} {metadata[topic]}")

    def test_plain_text_is_opened_and_not_closed(self, tokenizer: PreTrainedTokenizerFast) -> None:
        ids = render(PROMPT, data(path="a"), tokenizer)
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids[1:]).replace(" ", "") == PROMPT.question.replace(" ", "")

    def test_an_end_token_that_the_template_asks_for_stays(self, tokenizer: PreTrainedTokenizerFast) -> None:
        ids = render(PROMPT, data(path="a", template="{question}</s>"), tokenizer)
        assert ids[-1] == tokenizer.eos_token_id

    def test_a_chat_has_its_turns_and_its_special_tokens_once(self, tokenizer: PreTrainedTokenizerFast) -> None:
        turns = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        tokenizer.chat_template = "<s>" + turns + "{% if add_generation_prompt %}A:{% endif %}"
        try:
            ids = render(PROMPT, data(path="a", chat=True, system="Be brief", template="Q {question}"), tokenizer)
        finally:
            tokenizer.chat_template = None
        assert ids.count(tokenizer.bos_token_id) == 1
        assert "".join(tokenizer.convert_ids_to_tokens(list(ids))) == (
            f"<s>system:Be brief\nuser:Q {PROMPT.question}\nA:"
        )

    def test_a_chat_without_a_template_is_one_line(self, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(SettingError, match=r"data\.chat: .* no chat template; set data\.chat=false"):
            render(PROMPT, data(path="a", chat=True), tokenizer)
