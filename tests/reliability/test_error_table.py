"""What each of the API's documented errors means for its row and for the run, over a real socket."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pytest
import trustme

import parallel_openai as po
from parallel_openai.errors import (
    AuthenticationError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    RunStoppedError,
    ServerUnreachableError,
)
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server


def ask(client: po.Client, count: int = 1) -> pd.DataFrame:
    df = pd.DataFrame({"text": [f"Row {number}" for number in range(count)]})
    return po.process_dataframe(df, "text", model="gpt-4o-mini", client=client, progress=False)


FAILS = [
    ({"status": 400, "code": "context_length_exceeded"}, "context_length_exceeded"),
    ({"status": 400}, "invalid_request_error"),
    ({"status": 404}, "model_not_found"),
    ({"status": 413}, "invalid_request_error"),
    ({"status": 422}, "invalid_request_error"),
    ({"status": 400, "code": "content_filter"}, "content_filter"),
    ({"status": 400, "code": "content_policy_violation"}, "content_filter"),
    ({"status": 403, "code": "content_policy_violation"}, "content_filter"),
    ({"status": 500, "headers": {"x-should-retry": "false"}}, "server_error"),
    ({"status": 418, "body": "I am a teapot."}, "http_418"),
]


@pytest.mark.parametrize(("answer", "code"), FAILS, ids=lambda value: str(value)[:60])
def test_a_permanent_error_fails_the_row_without_a_retry(
    server: Server, client: po.Client, answer: Any, code: str
) -> None:
    server.script([answer])
    out = ask(client, 2)
    assert sorted(out["status"]) == ["failed", "succeeded"]
    failed = out[out["status"] == "failed"].iloc[0]
    assert (failed["error_code"], failed["attempts"]) == (code, 1)
    assert failed["error"].startswith(f"HTTP {answer['status']}: ")


SOON = {"retry-after-ms": "50"}
AGAIN = [
    {"status": 408},
    {"status": 409},
    {"status": 500},
    {"status": 502, "body": "<html>Bad gateway</html>"},
    {"status": 503, "headers": {"retry-after": "0.1"}},
    {"status": 504},
    {"status": 200, "body": {"error": {"message": "Overloaded", "type": "server_error"}}},
    {"status": 200, "body": '{"choices": ['},
    {"status": 200, "body": "[]"},
    {"status": 200, "body": b"\xff\xfe"},
    {"status": 200, "body": ""},
    {"status": 404, "headers": {"x-should-retry": "true"}},
]


@pytest.mark.parametrize("answer", AGAIN, ids=lambda answer: f"{answer['status']}-{str(answer.get('body', ''))[:20]}")
def test_a_transient_error_is_retried_and_uses_up_an_attempt(server: Server, client: po.Client, answer: Any) -> None:
    server.script([answer])
    assert ask(client)[["status", "attempts"]].iloc[0].tolist() == ["succeeded", 2]


LATER = [
    {"status": 429, "headers": SOON},
    {"status": 429, "code": "rate_limit_exceeded", "headers": SOON},
    {"status": 429, "code": "429", "headers": SOON},
    {"status": 429, "code": "slow_down", "headers": SOON},
    {"status": 429, "code": "resource_unavailable", "message": "Resource Unavailable", "headers": SOON},
    {"status": 429, "headers": SOON, "body": "Too many requests"},
    {"status": 429, "headers": SOON, "message": "You need a quota increase"},
]


@pytest.mark.parametrize(
    "answer", LATER, ids=lambda answer: f"{answer.get('code')}-{str(answer.get('message', ''))[:20]}"
)
def test_a_rate_limit_uses_up_no_attempt(server: Server, answer: Any) -> None:
    server.set(max_requests_per_minute=600_000)  # it shows a limit, so that nobody has to search for it
    server.script([answer])
    with po.Client(server.base_url, max_attempts=1) as client:
        assert ask(client)[["status", "attempts"]].iloc[0].tolist() == ["succeeded", 2]


STOPS: list[tuple[Any, type[RunStoppedError]]] = [
    ({"status": 401}, AuthenticationError),
    ({"status": 403}, PermissionDeniedError),
    ({"status": 403, "body": "Forbidden by the proxy"}, PermissionDeniedError),
    *(
        ({"status": 429, "code": code}, QuotaExceededError)
        for code in (
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
        )
    ),
    ({"status": 307, "headers": {"location": "https://elsewhere.invalid/v1"}, "body": ""}, ServerUnreachableError),
]


@pytest.mark.parametrize(("answer", "error"), STOPS, ids=lambda value: str(value)[:60])
def test_an_error_of_the_account_stops_the_run(
    server: Server, client: po.Client, answer: Any, error: type[RunStoppedError]
) -> None:
    server.script([answer] * 9)
    with pytest.raises(error) as stopped:
        ask(client, 3)
    assert stopped.value.partial["status"].tolist() == ["cancelled"] * 3
    assert server.stats(charged=False)["received"] <= 3


@pytest.mark.parametrize("asked", [{"retry-after": "90"}, {"retry-after-ms": "90000"}], ids=str)
def test_a_refusal_for_longer_than_the_client_waits_stops_the_run(server: Server, asked: dict[str, str]) -> None:
    server.script([{"status": 429, "headers": asked}] * 9)
    with po.Client(server.base_url, max_wait=60.0) as client, pytest.raises(RateLimitedError) as stopped:
        ask(client, 3)
    assert "It asks to wait 90 s, and nothing waits longer than max_wait, 60 s. Run the same again" in str(
        stopped.value
    )
    assert stopped.value.partial["status"].tolist() == ["cancelled"] * 3


def test_a_broken_server_that_asks_for_longer_than_the_client_waits_fails_the_row(server: Server) -> None:
    server.script([{"status": 500, "headers": {"retry-after": "90"}}])
    with po.Client(server.base_url, max_wait=60.0) as client:
        out = ask(client, 2)
    failed = out[out["status"] == "failed"].iloc[0]
    assert (len(out[out["status"] == "succeeded"]), failed["attempts"]) == (1, 1)
    assert failed["error"].endswith("It asks to wait 90 s more. No request waits longer than max_wait, 60 s.")


@pytest.mark.parametrize("nonsense", ["1e400", "99999999999", "nan", "soon", "-5"])
def test_an_implausible_retry_after_is_ignored(server: Server, client: po.Client, nonsense: str) -> None:
    server.script([{"status": 500, "headers": {"retry-after": nonsense}}])
    assert ask(client)[["status", "attempts"]].iloc[0].tolist() == ["succeeded", 2]


def test_a_stopping_run_keeps_answers_in_flight(server: Server, client: po.Client) -> None:
    server.set(latency=0.5, insufficient_quota_after=20)
    with pytest.raises(QuotaExceededError) as stopped:
        ask(client, 60)
    assert stopped.value.partial["status"].eq("succeeded").sum() == 20
    stats = server.stats()
    assert (stats["charged_distinct"], stats["charged_undelivered"]) == (20, {})


@contextmanager
def bare_server(wrap: Any = None) -> Iterator[int]:
    """A port that takes connections, says nothing sensible and closes them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                try:
                    with connection:
                        (wrap(connection) if wrap else connection).close()
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def stopped_within(seconds: float, base_url: str) -> str:
    began = time.monotonic()
    with po.Client(base_url) as client, pytest.raises(ServerUnreachableError) as stopped:
        ask(client, 50)
    assert time.monotonic() - began < seconds
    assert stopped.value.partial["status"].eq("cancelled").all()
    return str(stopped.value)


def test_https_to_an_http_port_is_reported(server: Server) -> None:
    said = stopped_within(5, server.base_url.replace("http:", "https:"))
    assert "No secure connection to 127.0.0.1" in said
    assert "plain http" in said


def test_a_self_signed_certificate_is_reported() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with bare_server(lambda connection: context.wrap_socket(connection, server_side=True)) as port:
        said = stopped_within(5, f"https://127.0.0.1:{port}/v1")
    assert "No secure connection" in said
    assert "certificate" in said


def test_a_refused_connection_is_reported() -> None:
    with simulator.serve() as gone:
        pass
    assert "Is base_url right and the server up?" in stopped_within(5, gone.base_url)


def test_a_host_name_that_does_not_resolve_is_reported() -> None:
    assert "No address is known for 'nowhere.invalid'" in stopped_within(10, "http://nowhere.invalid/v1")


def test_an_address_that_never_answers_is_reported() -> None:
    with socket.socket() as listening:  # its queue is full, so the next connection gets no answer
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        base_url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        began = time.monotonic()
        with po.Client(base_url, timeout=1.0) as client, pytest.raises(ServerUnreachableError, match=r"within 0\.8 s"):
            ask(client)
        for filler in fillers:
            filler.close()
        assert time.monotonic() - began < 4
