"""Requests go where OpenAI's SDK sends them, over real sockets, also for the other URLs that people type."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import APIRequest, Client
from parallel_openai._http.addresses.base_url import find_base_url
from parallel_openai.errors import AuthenticationError, InvalidInputError, ServerUnreachableError
from parallel_openai.local.simulator import Server
from tests.servers.recorder import Asked, Recorder, recorder

MESSAGES: Any = [{"role": "user", "content": "Hi."}]
KEY = "sk-0123456789"
DATED = "2024-10-21"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Whatever host is asked over plain http, this one answers."""
    for name in ("HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with recorder() as running:
        monkeypatch.setenv("http_proxy", running.url)
        yield running


def asked_by_us(proxy: Recorder, path: str = "chat/completions", **options: Any) -> Asked:
    request = APIRequest({"model": "gpt 5/x", "messages": MESSAGES}, path=path)
    with Client(**options) as client:
        response = asyncio.run(request.call_api(client))
    assert response.status == 200, response.error
    return proxy.asked[-1]


def asked_by_the_sdk(proxy: Recorder, client: openai.OpenAI) -> Asked:
    with client:
        client.chat.completions.create(model="gpt 5/x", messages=MESSAGES)
    return proxy.asked[-1]


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.example.com/v1",
        "http://api.example.com/v1/",
        "http://api.example.com:8080/v1",
        "http://api.example.com",
        "http://api.example.com/",
        "http://api.example.com/some/prefix/v2",
        "http://generativelanguage.example.com/v1beta/openai/",
        "http://api.example.com/with%20space/a%2Fb/v1",
        "http://x.openai.azure.com/openai/v1/",
    ],
)
def test_a_base_url_is_understood_as_by_the_sdk(proxy: Recorder, base_url: str) -> None:
    ours = asked_by_us(proxy, base_url=base_url, api_key=KEY)
    theirs = asked_by_the_sdk(proxy, openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0))
    assert ours.whole == theirs.whole
    in_header = {"api-key": KEY} if "azure" in base_url else theirs.credentials
    assert ours.credentials == in_header


@pytest.mark.parametrize(
    "options",
    [
        {"azure_endpoint": "http://x.openai.azure.com", "api_version": DATED},
        {"azure_endpoint": "http://x.openai.azure.com/", "api_version": DATED, "azure_deployment": "mine"},
        {"azure_endpoint": "http://gateway.example.com/team", "api_version": DATED, "azure_deployment": "my one"},
        {"azure_endpoint": "http://gateway.example.com/team", "api_version": DATED},
    ],
    ids=str,
)
def test_an_azure_resource_is_understood_as_by_the_sdk(proxy: Recorder, options: dict[str, str]) -> None:
    ours = asked_by_us(proxy, api_key=KEY, **options)
    theirs = asked_by_the_sdk(proxy, openai.AzureOpenAI(api_key=KEY, max_retries=0, **options))  # type: ignore[call-overload]
    assert ours.whole == theirs.whole
    assert ours.credentials == theirs.credentials == {"api-key": KEY}


def test_azures_environment_variables_are_understood_as_by_the_sdk(
    proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "http://x.openai.azure.com")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_VERSION", DATED)
    ours = asked_by_us(proxy)
    theirs = asked_by_the_sdk(proxy, openai.AzureOpenAI(max_retries=0))
    assert (ours.whole, ours.credentials) == (theirs.whole, theirs.credentials)
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "a.b.c")
    assert asked_by_us(proxy).credentials == {"authorization": "Bearer a.b.c"}


@pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_url_that_azures_portal_shows_is_a_deployment(proxy: Recorder, end: str) -> None:
    base_url = f"http://x.openai.azure.com/openai/deployments/mine{end}?api-version={DATED}"
    ours = asked_by_us(proxy, base_url=base_url, api_key=KEY)
    assert ours.whole == (
        "x.openai.azure.com",
        "/openai/deployments/mine/chat/completions",
        {"api-version": DATED},
    )


def test_endpoints_without_a_deployment_have_their_own_azure_path(proxy: Recorder) -> None:
    options = {"azure_endpoint": "http://x.openai.azure.com", "azure_deployment": "mine", "api_version": DATED}
    assert asked_by_us(proxy, "responses", **options).path == "/openai/responses"
    assert asked_by_us(proxy, "embeddings", **options).path == "/openai/deployments/mine/embeddings"


@pytest.mark.parametrize(
    ("given", "base_url"),
    [
        ("http://h/v1/chat/completions", "http://h/v1"),
        ("http://h/v1/responses?a=1", "http://h/v1?a=1"),
        ("http://h/chat/completions/", "http://h"),
        ("https://x.openai.azure.com", "https://x.openai.azure.com/openai/v1"),
        ("https://x.openai.azure.com/openai/", "https://x.openai.azure.com/openai/v1"),
        ("https://x.services.ai.azure.com/models", "https://x.services.ai.azure.com/models"),
        (
            "https://x.openai.azure.com/openai/deployments/completions?api-version=1",
            "https://x.openai.azure.com/openai?api-version=1",
        ),
    ],
)
def test_urls_pasted_with_extra_parts_are_understood(given: str, base_url: str) -> None:
    assert find_base_url(given, environment={}).base_url == base_url


@pytest.mark.parametrize(
    ("environment", "base_url"),
    [
        ({}, "https://api.openai.com/v1"),
        ({"AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com"}, "https://x.openai.azure.com/openai/v1"),
        ({"AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com", "OPENAI_API_KEY": "k"}, "https://api.openai.com/v1"),
        ({"AZURE_OPENAI_ENDPOINT": "https://x.openai.azure.com", "OPENAI_BASE_URL": "http://h/v1"}, "http://h/v1"),
        ({"OPENAI_BASE_URL": "http://h/v1", "OPENAI_API_VERSION": "1"}, "http://h/v1"),
    ],
    ids=str,
)
def test_azure_is_used_only_if_the_environment_names_nothing_else(environment: dict[str, str], base_url: str) -> None:
    assert find_base_url(None, environment=environment).base_url == base_url


def test_an_empty_openai_base_url_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="OPENAI_BASE_URL in the environment is empty"):
        find_base_url(None, environment={"OPENAI_BASE_URL": ""})
    assert find_base_url("http://h/v1", environment={"OPENAI_BASE_URL": ""}).base_url == "http://h/v1"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"base_url": "http://h", "azure_endpoint": "http://h"}, "Give base_url or azure_endpoint, not both"),
        ({"azure_deployment": "mine"}, "need Azure's address too"),
        ({"azure_deployment": "mine", "azure_endpoint": "http://h"}, "deployments need the API's version"),
        ({"base_url": "https://x.openai.azure.com/openai/deployments/mine"}, "deployments need the API's version"),
        ({"base_url": "https://x.openai.azure.com/openai/v1", "azure_deployment": "a"}, "pass model='a' instead"),
        (
            {"base_url": "https://x.openai.azure.com/openai/deployments/a?api-version=1", "azure_deployment": "b"},
            "the URL names the deployment 'a'",
        ),
    ],
    ids=str,
)
def test_contradicting_arguments_are_refused(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        Client(**options)  # type: ignore[arg-type]


def test_query_and_headers_are_sent_with_every_request(proxy: Recorder) -> None:
    asked = asked_by_us(
        proxy,
        base_url="http://h/v1?a=1&b=2",
        query={"b": "3 &", "key": "secret"},
        headers={"X-Team": "blue", "authorization": "Basic mine"},
        api_key=KEY,
    )
    assert asked.query == {"a": "1", "b": "3 &", "key": "secret"}
    assert asked.headers["x-team"] == "blue"
    assert asked.credentials == {"authorization": "Basic mine"}
    assert "secret" not in repr(Client("http://h/v1", query={"key": "secret"}))


def test_azure_needs_a_key() -> None:
    with pytest.raises(AuthenticationError, match="AZURE_OPENAI_API_KEY"):
        Client("https://x.openai.azure.com").check_key()


def test_the_journals_name_does_not_depend_on_the_api_version() -> None:
    places = {
        Client("https://x.openai.azure.com", azure_deployment="a", api_version=version).place
        for version in ("2024-10-21", "2025-01-01")
    }
    assert places == {"https://x.openai.azure.com/openai/deployments/a"}


# Where nothing is.


def stopped(client: Client) -> str:
    df = pd.DataFrame({"text": [str(n) for n in range(50)]})
    with pytest.raises(ServerUnreachableError) as error, client:
        po.process_dataframe(df, "text", model="m", client=client, progress=False)
    return str(error.value)


def test_a_base_url_without_v1_stops_the_run_and_says_what_to_write(server: Server) -> None:
    root = server.base_url.removesuffix("/v1")
    sentence = stopped(Client(root))
    assert f"There is nothing at {root}/chat/completions (HTTP 404)." in sentence
    assert f"base_url='{root}/v1'" in sentence
    assert server.stats()["unknown_paths"]["/chat/completions"] <= 16


def test_a_base_url_with_a_wrong_path_stops_the_run(server: Server) -> None:
    assert "Is base_url right?" in stopped(Client(server.base_url + "/v1"))


def test_a_missing_deployment_stops_the_run() -> None:
    body = b'{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}'
    with recorder(lambda asked: (404, body)) as azure:
        options = {"azure_deployment": "mine", "api_version": DATED}
        assert "no deployment 'mine'" in stopped(Client(azure.url, **options))  # type: ignore[arg-type]


def test_a_missing_model_fails_the_row(server: Server) -> None:
    server.script([{"status": 404, "code": "model_not_found", "message": "The model `m` does not exist."}])
    out = po.process_dataframe(
        pd.DataFrame({"text": ["a"]}), "text", model="m", client=Client(server.base_url), progress=False
    )
    assert out["error_code"].tolist() == ["model_not_found"]


def test_a_404_during_a_run_fails_the_row(server: Server) -> None:
    server.script([200, 404, 200])
    client = Client(server.base_url, max_concurrent_requests=1)
    out = po.process_dataframe(pd.DataFrame({"text": list("abc")}), "text", model="m", client=client, progress=False)
    assert out["status"].tolist() == ["succeeded", "failed", "succeeded"]
