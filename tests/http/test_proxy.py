"""The environment's proxy is used, unless the environment excludes the server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import pytest

from parallel_openai import APIRequest, Client, process_dataframe
from parallel_openai._records import Response
from parallel_openai.errors import AuthenticationError, InvalidInputError, ServerUnreachableError
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


def test_a_host_excluded_from_the_proxy_is_contacted_directly(proxy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    assert ask() == 0


def test_with_trust_env_false_no_proxy_is_used(proxy: Server) -> None:
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
def test_a_refusal_by_the_proxy_names_the_proxy(scheme: str, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    response = response_through(scheme + tunnel.address, monkeypatch)
    assert response.error_code == "proxy_error"
    assert f"{tunnel.address}, which the environment names, gives no connection to api.example" in str(response.error)
    assert "HTTP 407. It wants a name and a password, and right ones" in str(response.error)
    assert str(response.error).endswith("Client(trust_env=False) leaves it out.")
    assert "secret" not in str(response.error)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:3128"])
def test_an_unreachable_proxy_is_reported(address: str, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    response = response_through(f"http://{address}", monkeypatch)
    assert response.error_code == "proxy_error"
    assert f"The proxy http://{address}, which the environment names, gives no connection" in str(response.error)


@pytest.mark.parametrize("proxy", ["quic://h:1", "socks://h:1", "http://h:port", "http://", "socks5:///"])
def test_an_unsupported_kind_of_proxy_is_refused(proxy: str, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("ALL_PROXY", proxy)
    with pytest.raises(InvalidInputError, match=f"names the proxy {proxy}"):
        ask()


def test_a_socks_proxy_without_its_library_is_refused_and_says_what_to_install(clean: pytest.MonkeyPatch) -> None:
    clean.setitem(sys.modules, "aiohttp_socks", None)
    clean.setenv("ALL_PROXY", "socks5://ann:secret@127.0.0.1:9")
    with pytest.raises(InvalidInputError, match=r"\*@127.0.0.1:9, for which.*'parallel-openai\[socks\]'"):
        ask()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy"])
def test_all_proxy_is_used(name: str, server: Server, clean: pytest.MonkeyPatch) -> None:
    clean.setenv(name, server.base_url.removesuffix("/v1"))
    assert ask() == 200
    assert server.stats()["received"] == 1


@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTP_PROXY"])
def test_nothing_bypasses_a_dead_proxy(name: str, server: Server, clean: pytest.MonkeyPatch) -> None:
    clean.setenv(name, "http://127.0.0.1:9")
    with (
        Client(server.base_url) as client,
        pytest.raises(ServerUnreachableError, match=r"The proxy http://127.0.0.1:9"),
    ):
        process_dataframe(TWO, "text", model="m", client=client, progress=False)
    assert server.stats(charged=False)["received"] == 0


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ("127.0.0.0/8", 200),
        ("10.0.0.0/8, 127.0.0.1", 200),
        ("127.0.0.1:{port}", 200),
        ("127.0.0.1:1", 0),
        ("127.0.0.0/8:{port}", 200),
        ("127.0.0.0/8:1", 0),
        ("10.0.0.0/8", 0),
        ("[::1]:{port},fe80::/10", 0),
        ("*", 200),
        ("*.0.0.1", 200),
        ("nonsense/8,:,[", 0),
    ],
)
def test_no_proxy_matches_networks_and_ports(
    names: str, status: int, server: Server, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv("ALL_PROXY", "http://127.0.0.1:9")
    clean.setenv("NO_PROXY", names.format(port=server.base_url.removesuffix("/v1").rpartition(":")[2]))
    with Client(server.base_url) as client:
        assert asyncio.run(APIRequest(HELLO).call_api(client)).status == status


TWO = pd.DataFrame({"text": ["one", "two"]})


@pytest.mark.parametrize(
    ("status", "body"), [(407, ""), (407, '{"error": "no"}'), (401, "<h1>Unauthorized</h1>"), (403, "<h1>Denied</h1>")]
)
def test_a_refusal_by_the_proxy_without_tls_stops_the_run_and_names_the_proxy(
    status: int, body: str, server: Server, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv("ALL_PROXY", server.base_url.removesuffix("/v1").replace("//", "//ann:swordfish@"))
    server.script([{"status": status, "body": body}] * 20)
    with (
        Client("http://nowhere.invalid/v1", api_key="sk-0123456789") as client,
        pytest.raises(ServerUnreachableError, match=f"The proxy .*HTTP {status}") as stopped,
    ):
        process_dataframe(TWO, "text", model="m", client=client, progress=False)
    assert ("a name and a password" in str(stopped.value)) == (status != 403)
    assert not any(word in str(stopped.value) for word in ("swordfish", "API key", "sk-0"))
    assert server.stats(charged=False)["received"] <= 2


def test_an_error_of_a_server_behind_a_proxy_is_not_blamed_on_the_proxy(
    server: Server, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv("ALL_PROXY", server.base_url.removesuffix("/v1"))
    server.script([{"status": 401}] * 9)
    with Client("http://nowhere.invalid/v1", api_key="sk-0123456789") as client, pytest.raises(AuthenticationError):
        process_dataframe(TWO, "text", model="m", client=client, progress=False)


class _Socks(socketserver.StreamRequestHandler):
    """Speaks SOCKS5, and leads to where `server.to` says, whatever name it is given."""

    def handle(self) -> None:
        _, count = self.rfile.read(2)
        self.rfile.read(count)
        password: bytes | None = self.server.password  # type: ignore[attr-defined]
        self.wfile.write(b"\x05\x02" if password else b"\x05\x00")
        if password:
            _, length = self.rfile.read(2)
            self.rfile.read(length)
            given = self.rfile.read(self.rfile.read(1)[0])
            self.wfile.write(b"\x01\x00" if given == password else b"\x01\x01")
            if given != password:
                return
        self.rfile.read(4)
        self.server.asked.append(self.rfile.read(self.rfile.read(1)[0]))  # type: ignore[attr-defined]
        self.rfile.read(2)
        with socket.create_connection(("127.0.0.1", self.server.to)) as there:  # type: ignore[attr-defined]
            self.wfile.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            threading.Thread(target=_pass_on, args=(there, self.request), daemon=True).start()
            _pass_on(self.request, there)


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := one.recv(2**16):
            other.sendall(piece)
        other.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("given", ["", "swordfish", "wrong"])
def test_a_socks_proxy_is_used_and_looks_up_the_name(
    scheme: str, given: str, server: Server, clean: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp_socks", reason="the extra socks")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Socks) as socks:
        socks.daemon_threads = True
        socks.to = int(server.base_url.removesuffix("/v1").rpartition(":")[2])  # type: ignore[attr-defined]
        socks.asked, socks.password = [], b"swordfish" if given else None  # type: ignore[attr-defined]
        threading.Thread(target=socks.serve_forever, args=(0.01,), daemon=True).start()
        clean.setenv("ALL_PROXY", f"{scheme}://{f'ann:{given}@' if given else ''}127.0.0.1:{socks.server_address[1]}")
        with Client("http://nowhere.invalid/v1", api_key="sk-0123456789") as client:
            if given == "wrong":
                with pytest.raises(ServerUnreachableError, match=r"The proxy .*a name and a password") as stopped:
                    process_dataframe(TWO, "text", model="m", client=client, progress=False)
                assert "API key" not in str(stopped.value)
            else:
                out = process_dataframe(TWO, "text", model="m", client=client, progress=False)
                assert out["status"].eq("succeeded").all()
                assert set(socks.asked) == {b"nowhere.invalid"}  # type: ignore[attr-defined]
        socks.shutdown()
