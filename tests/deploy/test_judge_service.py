"""The judge's service: what is rendered is read by Ray Serve's own schema, and a replica made of it answers."""

import asyncio
import json

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from starlette.requests import Request
from starlette.responses import Response

from deploy.judge_service import Judge, app
from deploy.serving import KEY_VARIABLE, JudgeArguments
from orchestrator.errors import SettingError
from tests.actors.tiny_model import CONTEXT_LENGTH, write_checkpoint
from tests.deploy.rendered import of_kind, rendering

KEY = "key-of-the-judge"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> JudgeArguments:
    """As Serve reads them from the rendered configuration, of a service of two replicas of a tiny model."""
    folder = write_checkpoint(tmp_path_factory.mktemp("judge"), tied=True)
    settings = {"model": folder, "engine": "torch", "dtype": "float32", "context_length": CONTEXT_LENGTH}
    judge = [f"reward.models.judge.{key}={value}" for key, value in settings.items()]
    rendered = rendering("quickstart", "device=cpu", *judge, target="rayservice-judge", replicas=2)
    text = of_kind(rendered, "RayService")["spec"]["serveConfigV2"]
    read = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = read.applications
    assert application.import_path == "deploy.judge_service:app"
    return JudgeArguments.model_validate(application.args)


def test_the_application_asks_ray_for_what_its_pods_offer(arguments: JudgeArguments) -> None:
    deployment = app(arguments)._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment.ray_actor_options["num_cpus"] == 1
    assert deployment.ray_actor_options["resources"] == {"judge-judge": 0.001}


def test_a_replica_answers_who_bears_the_key(arguments: JudgeArguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    async def ask() -> list[Response]:
        judge = Judge.__new__(Judge)
        await judge.__init__(arguments)  # type: ignore[misc]  # as Serve does
        try:
            await judge.check_health()
            asked = [
                ("POST", "/v1/chat/completions", HELLO, KEY),
                ("POST", "/v1/chat/completions", HELLO, "another key"),
                ("POST", "/v1/chat/completions", {}, KEY),
                ("GET", "/v1/models", {}, KEY),
            ]
            return [await judge(request(*one)) for one in asked]
        finally:
            await judge._session.close()

    said, stranger, malformed, elsewhere = asyncio.run(asyncio.wait_for(ask(), 120))
    assert len(json.loads(said.body)["choices"]) == 1
    statuses = [reply.status_code for reply in (said, stranger, malformed, elsewhere)]
    assert statuses == [200, 401, 400, 404]


def test_without_a_key_nothing_is_served(arguments: JudgeArguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(SettingError, match=KEY_VARIABLE):
        asyncio.run(Judge.__new__(Judge).__init__(arguments))  # type: ignore[misc]


def request(method: str, path: str, body: object, key: str) -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    return Request({**scope, "server": ("judge", 8000), "scheme": "http"}, receive)
