"""A web page instead of an answer is reported by its title, and a wrong URL scheme is recognised."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._records import Response
from parallel_openai._run.response_verdict import judge
from parallel_openai.errors import RunStoppedError, ServerUnreachableError
from parallel_openai.local.simulator import Server

NGINX = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"
)
STYLE = "<style>" + "body{margin:0}" * 400 + "</style>"
PAGES = {
    "nginx": (NGINX, "'502 Bad Gateway'"),
    "haproxy": (
        "<html><body><h1>503 Service Unavailable</h1>\nNo server is available.\n</body></html>",
        "'503 Service",
    ),
    "a long head": (f"<!DOCTYPE html><html><head>{STYLE}<title>\n Just a\n moment&hellip;</title>", "'Just a moment…'"),
    "a comment first": (f"\ufeff <!-- [if IE] --><html><title>Access denied</title>{STYLE}", "'Access denied'"),
    "no title": (f"<html><head>{STYLE}</head><body><p>Go <b>away</b>.</p></body></html>", "'Go away .'"),
    "xml": (
        '<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>',
        "'AccessDenied No.'",
    ),
    "nothing but marks": ("<html><body></body></html>", "without a title"),
}


@pytest.mark.parametrize(("page", "title"), PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("status", [200, 400, 403, 502])
def test_a_web_page_is_reported_by_its_title_in_one_line(page: str, title: str, status: int) -> None:
    response = Response(status, {"content-type": "text/html"}, page.encode(), None, 0.1)
    said = str(judge(response, reached=True, path="chat/completions").message)
    assert f"HTTP {status}" in said
    assert title in said
    assert "a web page" in said
    assert "<" not in said
    assert len(said) < 250


@pytest.mark.parametrize(
    "error", [{"message": f"APIError: {NGINX}"}, f"APIError: {NGINX}", {"metadata": {"raw": NGINX}}]
)
def test_a_web_page_within_an_error_is_reported_by_its_title(error: object) -> None:
    body = json.dumps({"error": error}).encode()
    said = str(judge(Response(502, {}, body, json.loads(body), 0.1), reached=True).message)
    assert "<" not in said
    if "metadata" not in str(error):
        assert said.startswith("HTTP 502: APIError: a web page")


@pytest.mark.parametrize("status", [403, 429])
def test_the_content_of_a_web_page_does_not_determine_the_error_code(status: int) -> None:
    page = b"<html><title>Access denied: billing.example.com, daily news</title></html>"
    verdict = judge(Response(status, {}, page, None, 0.1), reached=True)
    assert verdict.code in ("http_403", "rate_limit_exceeded")
    assert verdict.kind != "stop"


def test_the_error_names_the_server_that_sent_a_web_page() -> None:
    headers = {"content-type": "text/html", "server": "squid/5.7"}
    response = Response(403, headers, b"<html><title>ERROR: Access Denied</title>", None, 0.1)
    assert "of squid/5.7" in str(judge(response, reached=True).message)


@pytest.mark.parametrize("text", ["Say 'a < b' and <b>bold</b>.", "The tag <script> is not allowed.", "no page"])
def test_text_that_is_not_a_web_page_is_reported_unchanged(text: str) -> None:
    data = {"error": {"message": text}}
    assert judge(Response(400, {}, b"", data, 0.1), reached=True).message == f"HTTP 400: {text}"


def test_the_text_of_a_web_page_appears_nowhere_in_a_run(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script([{"status": 502, "body": NGINX, "headers": {"content-type": "text/html"}}] * 40)
    journal, df = tmp_path / "out.jsonl", pd.DataFrame({"text": ["one", "two"]})
    with (
        caplog.at_level(logging.DEBUG),
        po.Client(server.base_url, give_up_after=0.3) as client,
        pytest.raises(RunStoppedError, match=r"HTTP 502.*502 Bad Gateway") as stopped,
    ):
        po.process_dataframe(df, "text", model="m", client=client, save_to=journal)
    shown = capsys.readouterr()
    told = [str(stopped.value), *caplog.messages, shown.out, shown.err, journal.read_text(), str(po.last_run())]
    assert not any("<html" in each or "<h1" in each for each in told)


def _reset(connection: socket.socket) -> None:
    connection.recv(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _end(connection: socket.socket) -> None:
    connection.recv(10_000)
    connection.close()


def _refuse(connection: socket.socket) -> None:
    connection.recv(10_000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad")
    connection.close()


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    answer(connection)
                except OSError:
                    if listener.fileno() < 0:
                        return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    ("answer", "scheme", "words"),
    [
        (_reset, "http", "https:// in base_url"),
        (_end, "http", "https:// in base_url"),
        (_reset, "https", "http:// in base_url"),
        (_end, "https", "http:// in base_url"),
        (_refuse, "https", "http:// in base_url"),
    ],
)
def test_a_connection_closed_at_once_suggests_the_other_url_scheme(
    answer: Callable[[socket.socket], None], scheme: str, words: str
) -> None:
    df = pd.DataFrame({"text": [f"Row {number}" for number in range(20)]})
    with (
        serving(answer) as port,
        po.Client(f"{scheme}://127.0.0.1:{port}/v1", timeout=5.0) as client,
        pytest.raises(ServerUnreachableError, match=words) as stopped,
    ):
        po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert stopped.value.partial["status"].eq("cancelled").all()


def test_a_web_page_of_a_proxy_is_reported_by_title_with_the_proxys_name(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", server.base_url.removesuffix("/v1"))
    server.script([{"status": 403, "body": "<html><title>ERROR: Access Denied</title></html>"}] * 20)
    with (
        po.Client("http://nowhere.invalid/v1", api_key="sk-0123456789") as client,
        pytest.raises(ServerUnreachableError, match=r"The proxy .* HTTP 403.*'ERROR: Access Denied'"),
    ):
        po.process_dataframe(pd.DataFrame({"text": ["one"]}), "text", model="m", client=client, progress=False)
