"""The batch lane against all failures of the simulator at once."""

from __future__ import annotations

from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.batch.conftest import Verb, charged, counts, lane, texts


def test_late_truncated_and_failed_replies_cost_nothing_twice(ask: Verb, server: Server) -> None:
    server.set(batch_late_files=3, batch_short_downloads=4, batch_expire=0.2, batch_list_metadata=False)
    assert counts(ask(texts(40), lane=lane(max_requests=10, rounds=20))) == {"succeeded": 40}
    assert charged(server) == [1]


def test_malformed_lines_affect_only_their_rows(ask: Verb, server: Server) -> None:
    odd = ["blank", "torn", "array", "custom_id_list", "custom_id_null"]
    server.set(batch_odd_lines=[*odd, "status_ok", "status_missing", "body_text", "error_first"])
    out = ask(texts(20))
    assert counts(out) == {"succeeded": 16, "failed": 4}
    assert out["error_code"].dropna().eq("malformed_response").all()
    assert charged(server) == [1]


@pytest.mark.parametrize("what", ["batch_lost", "batch_lost_files"])
def test_one_lost_batch_of_three_leaves_the_other_two(
    ask: Verb, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    server.set(**{what: [2]})
    out = ask(texts(9), lane=lane(max_requests=3))
    assert counts(out) == {"succeeded": 6, "cancelled": 3}
    assert "forget=" in caplog.text
    lost = out["error"].dropna().iloc[0].partition("forget='")[2].partition("'")[0]
    client = po.Client(server.base_url)
    assert not po.cancel_batches(tmp_path / "answers.jsonl", client=client, forget=[lost])
    assert counts(ask(texts(9))) == {"succeeded": 9}
