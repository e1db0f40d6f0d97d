"""The client against a real server: what it sends, what it makes of replies, when it asks again, and what it keeps to
itself."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from rewards.models.address import Address
from rewards.models.asking import Message, ModelFailed
from rewards.models.client import HttpModel
from rewards.models.connection import LONGEST_REPLY
from rewards.models.patience import patience
from rewards.models.settings import ModelSettings
from tests.rewards.judging.scripted_server import Reply, ScriptedServer, chat, classes, serving, vectors

T = TypeVar("T")
KEY = "sk-very-secret-1234567890"
HELLO = [Message("user", "hello")]


def asked(
    address: Address | None, ask: Callable[[HttpModel], Awaitable[T]], timeout_s: float = 5.0, **settings: object
) -> T:
    async def run() -> T:
        stated = ModelSettings.model_validate({"model": "some/model", "url": "http://127.0.0.1/v1", **settings})
        model = HttpModel("judge", stated, lambda: address, timeout_s)
        try:
            return await ask(model)
        finally:
            await model.close()

    return asyncio.run(run())


def failure(address: Address | None, timeout_s: float = 5.0, **settings: object) -> ModelFailed:
    with pytest.raises(ModelFailed) as caught:
        asked(address, lambda model: model.generate(HELLO), timeout_s, **settings)
    return caught.value


def test_what_is_sent_is_openais_form_and_the_key_its_bearer(server: ScriptedServer) -> None:
    server.saying("one", "two")
    said = asked(
        Address(server.url, KEY),
        lambda model: model.generate(HELLO, n=2, max_tokens=7, temperature=0.5, seed=3),
    )
    assert said == ["one", "two"]
    (request,) = server.asked
    assert (request.path, request.authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert request.body == {
        "model": "some/model",
        "messages": [{"role": "user", "content": "hello"}],
        "n": 2,
        "max_tokens": 7,
        "temperature": 0.5,
        "seed": 3,
    }


def test_classes_and_vectors_have_routes_of_their_own(server: ScriptedServer) -> None:
    server.script = lambda _: classes(0.25, 0.75)
    assert asked(Address(server.url), lambda model: model.classify(HELLO)) == [0.25, 0.75]
    server.script = lambda _: Reply({"data": [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]})
    assert asked(Address(server.url), lambda model: model.embed(["a", "b"])) == [[1.0], [2.0]]
    assert [request.path for request in server.asked] == ["/classify", "/v1/embeddings"]


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[" * 100_000],
)
def test_a_reply_of_another_form_is_malformed(server: ScriptedServer, body: bytes) -> None:
    server.script = lambda _: Reply(body)
    assert failure(Address(server.url)).kind == "malformed"
    assert len(server.asked) == 1


@pytest.mark.parametrize("probabilities", [(), (1.5,), (-0.1,), (float("nan"),)])
def test_classes_that_are_no_probabilities_are_malformed(
    server: ScriptedServer, probabilities: tuple[float, ...]
) -> None:
    server.script = lambda _: classes(*probabilities)
    with pytest.raises(ModelFailed, match="without probabilities"):
        asked(Address(server.url), lambda model: model.classify(HELLO))


@pytest.mark.parametrize("rows", [((1.0,),), ((1.0,), (1.0, 2.0)), ((), ()), ((float("inf"),), (1.0,))])
def test_vectors_that_do_not_fit_the_texts_are_malformed(
    server: ScriptedServer, rows: tuple[tuple[float, ...], ...]
) -> None:
    server.script = lambda _: vectors(*rows)
    with pytest.raises(ModelFailed, match="vectors for 2 texts"):
        asked(Address(server.url), lambda model: model.embed(["a", "b"]))


def test_a_reply_without_end_is_not_read_to_its_end(server: ScriptedServer) -> None:
    server.script = lambda _: Reply(b" " * (LONGEST_REPLY + 1))
    assert "a reply of over" in str(failure(Address(server.url), timeout_s=30))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: ScriptedServer, status: int) -> None:
    replies = iter([Reply(status=status), Reply(status=status), chat("at last")])
    server.script = lambda _: next(replies)
    assert asked(Address(server.url), lambda model: model.generate(HELLO)) == ["at last"]
    assert len(server.asked) == 3


def test_it_is_not_asked_more_often_than_the_recipe_says(server: ScriptedServer) -> None:
    server.script = lambda _: Reply(status=503)
    gone = failure(Address(server.url), retries=1)
    assert (gone.kind, len(server.asked)) == ("unreachable", 2)
    assert "HTTP 503, 2 times" in str(gone)


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_refusal_is_final_and_is_not_followed(server: ScriptedServer, status: int) -> None:
    server.script = lambda _: Reply(status=status)
    refused = failure(Address(server.url, KEY))
    assert (refused.kind, len(server.asked)) == ("refused", 1)


def test_the_key_is_in_no_error_whatever_the_server_repeats(server: ScriptedServer) -> None:
    for status in (200, 401, 500):
        server.script = lambda request, status=status: Reply({"error": f"wrong: {request.authorization}"}, status)
        said = failure(Address(server.url, KEY), retries=0)
        assert KEY not in repr(said) + str(said) + repr(said.__cause__) + repr(said.__context__)
    assert KEY not in repr(Address(server.url, KEY))


def test_nobody_there_is_unreachable_and_counted_so_even_when_time_runs_out() -> None:
    nobody = Address("http://127.0.0.1:9/v1")
    assert failure(nobody, retries=1).kind == "unreachable"
    assert failure(nobody, timeout_s=0.3, retries=50).kind == "unreachable"
    assert failure(None, retries=0).kind == "unreachable"


def test_a_server_that_comes_up_meanwhile_is_found() -> None:
    with serving() as first:
        port = first.port
    where = Address(f"http://127.0.0.1:{port}/v1")

    async def run() -> list[str]:
        model = HttpModel("judge", ModelSettings(model="m", url=where.url), lambda: where, 20.0)
        asking = asyncio.create_task(model.generate(HELLO))
        await asyncio.sleep(0.3)
        with serving(port) as second:
            second.saying("here")
            said = await asyncio.wait_for(asking, 20)
        await model.close()
        return said

    assert asyncio.run(run()) == ["here"]


def test_a_silent_server_costs_the_timeout_and_is_not_asked_again(server: ScriptedServer) -> None:
    server.saying("late", after_s=3.0)
    late = failure(Address(server.url), timeout_s=0.3)
    assert (late.kind, len(server.asked)) == ("timeout", 1)


def test_calls_under_way_are_limited_and_the_line_costs_no_answer_its_deadline(server: ScriptedServer) -> None:
    server.saying("x", after_s=0.2)

    async def ask(model: HttpModel) -> list[list[str]]:
        async def one(number: int) -> list[str]:
            async with patience(0.6):  # far less than the line takes
                return await model.generate([Message("user", str(number))])

        return list(await asyncio.gather(*map(one, range(12))))

    assert asked(Address(server.url), ask, concurrency=2) == [["x"]] * 12
    assert server.most_at_once == 2


def test_the_time_of_a_call_itself_counts(server: ScriptedServer) -> None:
    server.saying("x", after_s=2.0)

    async def ask(model: HttpModel) -> list[str]:
        async with patience(0.3):
            return await model.generate(HELLO)

    with pytest.raises(TimeoutError):
        asked(Address(server.url), ask)


def test_equal_questions_are_asked_once_and_failures_are_not_remembered(server: ScriptedServer) -> None:
    server.saying("same", after_s=0.1)

    async def ask(model: HttpModel) -> None:
        assert await asyncio.gather(*[model.generate(HELLO) for _ in range(5)]) == [["same"]] * 5
        assert await model.generate(HELLO) == ["same"]
        assert len(server.asked) == 1
        assert await model.generate(HELLO, seed=1) == ["same"]
        assert len(server.asked) == 2

    asked(Address(server.url), ask)
    replies = iter([Reply(b"garbage"), chat("fine")])
    server.script = lambda _: next(replies)

    async def twice(model: HttpModel) -> list[str]:
        with pytest.raises(ModelFailed):
            await model.generate(HELLO, n=1)
        return await model.generate(HELLO, n=1)

    assert asked(Address(server.url), twice) == ["fine"]


def test_one_who_gives_up_takes_the_call_from_nobody(server: ScriptedServer) -> None:
    server.saying("there", after_s=0.5)

    async def ask(model: HttpModel) -> list[str]:
        hasty = asyncio.create_task(model.generate(HELLO))
        patient = asyncio.create_task(model.generate(HELLO))
        await asyncio.sleep(0.1)
        hasty.cancel()
        return await patient

    assert asked(Address(server.url), ask) == ["there"]
    assert len(server.asked) == 1


def test_half_a_surrogate_can_be_sent(server: ScriptedServer) -> None:
    asked(Address(server.url), lambda model: model.generate([Message("user", "a\ud800b")]))
    assert server.asked[0].text == "a?b"
    json.dumps(server.asked[0].body).encode()
