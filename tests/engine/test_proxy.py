"""The environment's proxy is used, and left out where the environment says so."""

from __future__ import annotations

import asyncio

import pytest

from parallel_openai import APIRequest, Client
from parallel_openai.local.simulator import Server

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The simulator answers whoever sends it a whole URL, as a proxy is asked."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
    return server


def ask(**options: bool) -> int:
    with Client("http://nowhere.invalid/v1", **options) as client:  # type: ignore[arg-type]
        return asyncio.run(APIRequest(HELLO).call_api(client)).status


def test_the_environments_proxy_is_used(proxy: Server) -> None:
    assert ask() == 200
    assert proxy.stats()["received"] == 1


def test_a_host_that_needs_no_proxy_is_asked_itself(proxy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    assert ask() == 0


def test_trust_env_false_leaves_the_proxy_out(proxy: Server) -> None:
    assert ask(trust_env=False) == 0
