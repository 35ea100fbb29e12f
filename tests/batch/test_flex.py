"""The flex tier: the same request with `service_tier`, at the price of batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai._json import dumps
from parallel_openai._records import request_key
from parallel_openai.local.simulator import Server
from tests.batch.conftest import Verb, counts, texts

MODEL = "gpt-4o-mini"


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


def lines(rows: int, **more: str) -> None:
    bodies = ({"model": MODEL, "messages": [{"role": "user", "content": text}], **more} for text in texts(rows)["text"])
    Path("in.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies), "utf-8")


def by_file(server: Server, save_to: Path) -> po.StatusTracker:
    return po.process_api_requests_from_file(
        "in.jsonl", save_to, f"{server.base_url}/chat/completions", "sk-none", progress=False
    )


@pytest.mark.parametrize("lane", ["flex", "online"])
def test_a_line_that_names_its_tier_and_a_row_of_a_frame_that_asks_the_same_share_one_answer(
    server: Server, ask: Verb, tmp_path: Path, lane: str
) -> None:
    journal = tmp_path / "answers.jsonl"
    lines(4, service_tier="flex")
    assert by_file(server, journal).num_tasks_succeeded == 4
    assert counts(ask(texts(8), lane=lane)) == {"succeeded": 8}
    lines(8, service_tier="flex")
    assert by_file(server, journal).num_tasks_restored == 8
    assert counts(ask(texts(8), lane="online", service_tier="flex")) == {"succeeded": 8}
    assert server.stats()["received"] == 8


def test_answers_with_a_service_tier_parameter_are_known_to_the_flex_lane_and_vice_versa(
    server: Server, ask: Verb
) -> None:
    ask(texts(4), lane="online", service_tier="flex", save_to=None)
    ask(texts(8), lane="flex", save_to=None)
    ask(texts(8), lane="online", save_to=None)
    ask(texts(8), lane="online", service_tier="priority", save_to=None)
    assert server.stats()["received"] == 8


def test_an_answer_under_a_former_key_with_the_tier_is_not_paid_for_again(
    server: Server, ask: Verb, tmp_path: Path
) -> None:
    ask(texts(4), lane="online", service_tier="flex")
    journal = tmp_path / "answers.jsonl"
    entries = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    for body, _, _, record in entries:
        record["key"] = request_key("chat/completions", dumps(body, sort_keys=True))
    journal.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in entries), "utf-8")
    assert counts(ask(texts(4), lane="flex")) == {"succeeded": 4}
    assert server.stats()["received"] == 4
