"""haproxy and tinyproxy in front of the simulator: each row gets its own answer, exactly once."""

from __future__ import annotations

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.local import simulator
from tests.servers.haproxy import haproxy, needs_haproxy
from tests.servers.tinyproxy import needs_tinyproxy, tinyproxy

pytestmark = pytest.mark.servers

TEXTS = [f"Review {number}: fine." for number in range(60)]


def model_server() -> simulator.Server:
    return simulator.serve(max_requests_per_minute=None, headers="none", latency=0.02)


def check(base_url: str, server: simulator.Server) -> None:
    with po.Client(base_url, "key") as client:
        out = po.process_dataframe(pd.DataFrame({"text": TEXTS}), "text", model="m", client=client, progress=False)
    assert set(out["status"]) == {"succeeded"}
    assert all(text in answer for text, answer in zip(out["text"], out["response"], strict=True))
    assert list(server.stats()["charged"].values()) == [1] * len(TEXTS)


@needs_haproxy
def test_rows_that_wait_in_the_queue_of_haproxy_are_answered_once() -> None:
    with model_server() as server, haproxy(server.base_url, server="maxconn 4") as base_url:
        check(base_url, server)


@needs_tinyproxy
def test_rows_go_through_tinyproxy_which_closes_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with model_server() as server, tinyproxy(most_clients=10) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("http_proxy", url)
        check(server.base_url, server)
        assert server.stats()["connections"] == len(TEXTS)
