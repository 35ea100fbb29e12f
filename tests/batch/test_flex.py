"""The flex tier: the same request with `service_tier`, at the price of batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.batch.conftest import Verb, counts, texts


def test_flex_is_requested_and_costs_half(ask: Verb, tmp_path: Path) -> None:
    flex = ask(texts(5), lane="flex")
    usual = ask(texts(5), lane="online", save_to=tmp_path / "usual.jsonl")
    sent = [json.loads(line)[0] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {body["service_tier"] for body in sent} == {"flex"}
    assert flex["cost_usd"].sum() == pytest.approx(usual["cost_usd"].sum() / 2)
    assert flex["request_key"].tolist() == usual["request_key"].tolist()


def test_a_tier_without_capacity_is_waited_for_without_using_up_attempts(server: Server, ask: Verb) -> None:
    server.set(flex_unavailable=0.3)
    out = ask(texts(8), lane="flex", client=po.Client(server.base_url, max_attempts=1))
    assert counts(out) == {"succeeded": 8}
    assert server.stats()["refused"]["resource_unavailable"] > 0
    assert server.stats()["charged_more_than_once"] == 0


def test_an_answer_of_the_flex_tier_may_take_longer_than_the_timeout(server: Server, ask: Verb) -> None:
    server.set(latency=0.5)
    client = po.Client(server.base_url, timeout=0.1, max_attempts=1)
    assert counts(ask(texts(2), lane="flex", client=client)) == {"succeeded": 2}
    assert counts(ask(texts(3).tail(1), lane="online", client=client)) == {"failed": 1}
