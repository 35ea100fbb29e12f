"""nginx as a gateway: it refuses without numbers, closes connections, and answers errors with web pages."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from itertools import pairwise

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import RunStoppedError
from tests.servers.nginx import Nginx, needs_nginx, nginx

pytestmark = [
    pytest.mark.servers,
    needs_nginx,
]


def ask(gateway: Nginx, texts: list[str], **options: float) -> pd.DataFrame:
    with po.Client(gateway.base_url, **options) as client:
        return po.process_dataframe(
            pd.DataFrame({"text": texts}), "Say hello to {text}.", model="m", client=client, progress=False
        )


def names(count: int) -> list[str]:
    return [f"guest {number}" for number in range(count)]


def seconds_between_answers(gateway: Nginx) -> list[float]:
    times = [entry.at for entry in gateway.log() if entry.status == 200]
    return [after - before for before, after in pairwise(times)]


def limited(rate: int, burst: int) -> AbstractContextManager[Nginx]:
    return nginx(
        http=f"limit_req_zone $binary_remote_addr zone=clients:1m rate={rate}r/s;",
        server="add_header Retry-After 1 always;",
        location=f"limit_req zone=clients burst={burst} nodelay; limit_req_status 429;",
    )


@pytest.mark.parametrize("limits", [{}, {"max_requests_per_minute": 2400}], ids=["nothing given", "limits given"])
def test_a_rate_limit_without_headers_loses_and_stalls_no_row(limits: dict[str, float]) -> None:
    with limited(rate=40, burst=20) as gateway:
        out = ask(gateway, names(300), **limits)
    assert set(out["status"]) == {"succeeded"}
    assert gateway.statuses.count(200) == 300
    assert gateway.statuses.count(429) <= 60
    assert max(seconds_between_answers(gateway)) < 5


def test_a_run_that_gets_only_error_pages_stops_and_the_next_call_answers_its_rows() -> None:
    with nginx(upstream=False) as gateway:
        with pytest.raises(RunStoppedError, match="502 Bad Gateway"):
            ask(gateway, names(20), give_up_after=0.3)
        gateway.start_upstream()
        out = ask(gateway, names(20))
    assert set(out["status"]) == {"succeeded"}


def test_an_outage_behind_the_gateway_is_waited_out_and_uses_up_no_attempts() -> None:
    with nginx(upstream=False) as gateway:
        back = threading.Timer(1.0, gateway.start_upstream)
        back.start()
        out = ask(gateway, names(20), max_attempts=1)
        back.join()
    assert set(out["status"]) == {"succeeded"}
    assert gateway.statuses.count(200) == 20
    assert 502 in gateway.statuses


@pytest.mark.parametrize(
    "server",
    ["keepalive_requests 5;", "keepalive_timeout 20ms;", "keepalive_timeout 0;"],
    ids=["after five requests", "when it was idle", "at once"],
)
def test_connections_closed_by_the_server_lose_nothing_and_pay_nothing_twice(server: str) -> None:
    with nginx(server=server) as gateway:
        out = ask(gateway, names(60), max_requests_per_minute=1200, burst=0.5)
    assert set(out["status"]) == {"succeeded"}
    assert gateway.statuses == [200] * 60
    assert len(gateway.connections) > 10


@pytest.mark.parametrize("size", [5_000, 900_000], ids=["5 kB", "900 kB"])
def test_a_body_too_large_for_the_gateway_fails_its_row_only(size: int) -> None:
    texts = [*names(10), "x" * size]
    with nginx(server="client_max_body_size 1k;") as gateway:
        out = ask(gateway, texts)
    assert list(out["status"]) == ["succeeded"] * 10 + ["failed"]
    assert out["error_code"].iloc[-1] == "http_413"
    assert gateway.statuses.count(413) == 1


def test_compressed_answers_are_read() -> None:
    with nginx(server="gzip on; gzip_types application/json; gzip_min_length 1; gzip_proxied any;") as gateway:
        out = ask(gateway, names(20))
    assert set(out["response"]) == {"Hello."}
    assert gateway.compressed == 20
