"""The environment's proxy is used, and left out where the environment says so."""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from parallel_openai import APIRequest, Client
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from parallel_openai.records import Response

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


@pytest.fixture
def tunnel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tunnel]:
    """A proxy for TLS, which only refuses."""
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socketserver.TCPServer(("127.0.0.1", 0), _Refuse) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        heads = server.heads = []  # type: ignore[attr-defined]
        yield Tunnel(f"127.0.0.1:{server.server_address[1]}", heads)
        server.shutdown()


class Tunnel(NamedTuple):
    """Where it is, and what it was asked."""

    address: str
    heads: list[bytes]


class _Refuse(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        self.server.heads.append(head)  # type: ignore[attr-defined]
        self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")


def response_through(proxy: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Response:
    monkeypatch.setenv("https_proxy", proxy)
    with Client("https://api.example.com/v1", **options) as client:
        return asyncio.run(APIRequest(HELLO).call_api(client))


@pytest.mark.parametrize(
    "account",
    [
        {"api_key": "sk-0123456789"},
        {"api_key": "", "headers": {"api-key": "0123456789abcdef"}},
        {"api_key": lambda: "sk-0123456789"},
    ],
    ids=["a key", "Azure's header", "a function"],
)
def test_no_key_is_shown_to_a_proxy(account: dict[str, Any], tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for TLS is asked without it, and gets to see only bytes that it cannot read."""
    response_through(f"http://{tunnel.address}", monkeypatch, organization="org-1", **account)
    assert tunnel.heads
    assert not any(told in head for head in tunnel.heads for told in (b"0123456789", b"org-1", b"uthorization"))


@pytest.mark.parametrize("scheme", ["http://", "http://ann:secret@", ""])
def test_a_proxy_that_refuses_is_named(scheme: str, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    response = response_through(scheme + tunnel.address, monkeypatch)
    assert response.error_code == "proxy_error"
    assert f"{tunnel.address}, which the environment names, gives no connection to api.example" in str(response.error)
    assert "HTTP 407. It wants a name and a password, and right ones" in str(response.error)
    assert str(response.error).endswith("Client(trust_env=False) leaves it out.")
    assert "secret" not in str(response.error)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:3128"])
def test_a_proxy_that_is_not_there_is_named(address: str, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    response = response_through(f"http://{address}", monkeypatch)
    assert response.error_code == "proxy_error"
    assert f"The proxy http://{address}, which the environment names, gives no connection" in str(response.error)


def test_a_kind_of_proxy_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="names the proxy socks5://h:1, and only http:// and https://"):
        response_through("socks5://h:1", monkeypatch)
