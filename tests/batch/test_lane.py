"""A frame through the Batch API equals that of the online lane, at half the price."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._records import Usage
from parallel_openai._requests.prices import price
from parallel_openai.errors import BatchError, InvalidInputError
from parallel_openai.local.simulator import Server
from tests.batch.conftest import Verb, charged, counts, lane, no_batch_ends, texts
from tests.batch.scripted import Scripted

SAME = [
    "response",
    "status",
    "error_code",
    "finish_reason",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "request_key",
]


def test_the_frame_is_that_of_the_online_lane_at_half_the_price(ask: Verb, tmp_path: Path) -> None:
    df = texts(30)
    batch = ask(df)
    online = ask(df, lane="online", save_to=tmp_path / "online.jsonl")
    pd.testing.assert_frame_equal(batch[SAME], online[SAME])
    assert batch["cost_usd"].sum() == pytest.approx(online["cost_usd"].sum() / 2)
    assert batch["cost_usd"].gt(0).all()
    assert batch["seconds"].gt(3600).all()


def test_answers_of_a_batch_are_known_to_the_online_lane(ask: Verb, server: Server) -> None:
    first = ask(texts(10))
    again = ask(texts(10), lane="online")
    assert again.attrs["parallel_openai"]["restored"] == 10
    assert again["cost_usd"].tolist() == first["cost_usd"].tolist()
    assert server.stats()["received"] == 0


def test_rows_are_divided_by_number_and_model(ask: Verb, server: Server) -> None:
    models = ["gpt-4o-mini", "gpt-5-mini"]
    bodies = [
        {"model": models[number % 2], "messages": [{"role": "user", "content": f"{number}"}]} for number in range(25)
    ]
    out = ask(pd.DataFrame({"text": bodies}), model=None, lane=lane(max_requests=5))
    assert counts(out) == {"succeeded": 25}
    assert server.stats()["batches"]["created"] == 3 + 3


def test_rows_are_divided_by_bytes(ask: Verb, server: Server) -> None:
    assert counts(ask(texts(20), lane=lane(max_bytes=1_000))) == {"succeeded": 20}
    assert server.stats()["batches"]["created"] > 3


def test_a_row_that_no_batch_can_hold_fails_alone(ask: Verb) -> None:
    df = pd.DataFrame({"text": ["short", "long " * 1_000]})
    out = ask(df, lane=lane(max_bytes=1_000))
    assert counts(out) == {"succeeded": 1, "failed": 1}
    assert out["error_code"][1] == "request_too_large"


def test_equal_rows_are_submitted_once(ask: Verb, server: Server) -> None:
    out = ask(pd.DataFrame({"text": ["same", "same", "other"]}))
    assert counts(out) == {"succeeded": 3}
    assert server.stats()["batches"]["requests"] == 2


def test_expired_rows_are_submitted_again_and_nothing_is_billed_twice(ask: Verb, server: Server) -> None:
    server.set(batch_expire=0.3)
    out = ask(texts(100), lane=lane(rounds=20))
    assert counts(out) == {"succeeded": 100}
    assert out["attempts"].max() > 1
    assert charged(server) == [1]


def test_after_the_last_round_a_row_fails_and_says_why(ask: Verb, server: Server) -> None:
    server.set(batch_expire=1.0)
    out = ask(texts(5), lane=lane(rounds=2))
    assert counts(out) == {"failed": 5}
    assert out["error_code"].eq("batch_expired").all()
    assert out["attempts"].eq(2).all()


def test_after_the_last_round_a_row_can_be_sent_online(ask: Verb, server: Server) -> None:
    server.set(batch_expire=0.5)
    out = ask(texts(40), lane=lane(rounds=1, then="online"))
    stats = server.stats()
    assert counts(out) == {"succeeded": 40}
    assert 0 < stats["received"] < 40
    assert out["attempts"].sum() == 40 + stats["received"]
    assert charged(server) == [1]


def test_rows_that_no_batch_answered_are_all_sent_at_once_also_if_they_fill_several_parts(
    server: Server, ask: Verb
) -> None:
    server.set(batch_expire=1.0)
    out = ask(texts(7), lane=lane(rounds=1, then="online", max_requests=3))
    assert counts(out) == {"succeeded": 7}
    assert server.stats()["answered"] == 7


def test_a_call_that_does_not_wait_sends_online_what_no_batch_answered(server: Server, ask: Verb) -> None:
    server.set(batch_expire=1.0)
    while True:
        out = ask(texts(4), lane=lane(rounds=1, then="online", wait=False))
        if not out["error_code"].eq("in_batch").any():
            break
        time.sleep(0.1)
    assert counts(out) == {"succeeded": 4}
    assert server.stats()["batches"]["created"] == 1


def test_a_row_that_the_api_refuses_fails_as_it_does_online(ask: Verb) -> None:
    df = pd.DataFrame({"text": [[{"role": "nobody", "content": "Hi."}], [{"role": "user", "content": "Hi."}]]})
    out = ask(df)
    assert counts(out) == {"succeeded": 1, "failed": 1}
    assert out["error_code"][0] == "invalid_value"
    assert out["attempts"][0] == 1


def test_rows_with_a_server_error_are_submitted_again(ask: Verb, server: Server) -> None:
    server.set(fault_500=0.5, faulty_attempts=1)
    out = ask(texts(30))
    assert counts(out) == {"succeeded": 30}
    assert out["attempts"].max() == 2


def test_a_full_queue_is_waited_for(ask: Verb, server: Server) -> None:
    server.set(batch_queued_tokens=100, batch_seconds=50_000)
    out = ask(texts(40), lane=lane(max_requests=10))
    assert counts(out) == {"succeeded": 40}
    assert server.stats()["batches"]["by_status"]["failed"] > 0
    assert charged(server) == [1]


def test_a_part_larger_than_the_queue_is_divided(ask: Verb, server: Server) -> None:
    server.set(batch_queued_tokens=150)
    assert counts(ask(texts(60))) == {"succeeded": 60}
    assert charged(server) == [1]


def test_an_unknown_model_stops_the_run(ask: Verb, server: Server) -> None:
    server.set(models=["gpt-5-mini"])
    with pytest.raises(BatchError, match="not supported"):
        ask(texts(3))


def test_a_refused_batch_is_dropped_and_its_rows_are_submitted_by_the_next_call(
    ask: Verb, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(models=["gpt-5-mini"])
    with pytest.raises(BatchError) as stopped:
        ask(texts(3), progress=True)
    assert counts(stopped.value.partial) == {"cancelled": 3}
    assert stopped.value.partial["error_code"].isna().all()
    assert "on at the server" not in capsys.readouterr().err
    assert not (tmp_path / "answers.jsonl.batches").exists()
    server.set(models=None)
    assert counts(ask(texts(3))) == {"succeeded": 3}
    assert server.stats()["batches"]["by_status"] == {"failed": 1, "completed": 1}


def test_a_refused_batch_of_a_file_is_not_reported_as_running(
    client: po.Client, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(models=["gpt-5-mini"])
    line = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(BatchError) as stopped:
        po.process_api_requests_from_file(tmp_path / "in.jsonl", client=client, lane=lane())
    assert stopped.value.partial.num_tasks_in_progress == 0
    assert "Stopped: 0 succeeded, 0 failed. Results:" in capsys.readouterr().err


def test_a_line_that_validation_refuses_fails_and_the_others_continue(ask: Verb, server: Server) -> None:
    messages = [{"role": "user", "content": "Hi."}]
    bodies = [{"model": model, "messages": messages} for model in (7, "7")]  # a number is no model's name
    out = ask(pd.DataFrame({"text": bodies}), model=None)
    assert counts(out) == {"succeeded": 1, "failed": 1}
    assert out["error_code"][0] == "missing_required_parameter"
    assert server.stats()["batches"]["by_status"] == {"failed": 1, "completed": 1}


def test_a_server_that_fails_at_every_other_call_gets_nothing_twice(ask: Verb, server: Server) -> None:
    server.set(batch_faults=0.3)
    client = po.Client(server.base_url, max_attempts=20)
    out = ask(texts(60), lane=lane(max_requests=20), client=client)
    stats = server.stats()
    assert counts(out) == {"succeeded": 60}
    assert stats["batches"]["created"] == 3
    assert charged(server) == [1]


def test_a_budget_is_reserved_at_the_batch_price_and_the_rest_is_spent_later(ask: Verb, server: Server) -> None:
    options: dict[str, Any] = {"max_tokens": 100, "lane": lane()}
    once = ask(texts(1), **options)["cost_usd"].sum()
    out = ask(texts(200), budget_usd=once * 100, **options)
    assert set(counts(out)) == {"succeeded", "cancelled"}
    assert out["error_code"].dropna().eq("budget").all()
    assert out["cost_usd"].sum() <= once * 101
    assert counts(out)["succeeded"] > 50
    assert counts(ask(texts(200), **options)) == {"succeeded": 200}
    assert charged(server) == [1]


@pytest.mark.parametrize("way", ["whole", "total_alone", "missing"])
def test_a_budget_holds_in_batches_whatever_the_format_of_usage(ask: Verb, server: Server, way: str) -> None:
    server.set(usage=way, written_share=1.0)
    out = ask(texts(60), model="gpt-5.6-luna", max_completion_tokens=100, budget_usd=0.001, lane=lane())
    stats = server.stats(charged=False)
    usage = Usage(
        int(stats["prompt_tokens"]), int(stats["completion_tokens"]), cache_write_tokens=stats["prompt_tokens"]
    )
    assert 0 < price("gpt-5.6-luna", usage, tier="batch") <= 0.001
    assert out["error_code"].dropna().eq("budget").all()


@pytest.mark.parametrize("thoughts", [30, 100])
@pytest.mark.parametrize("way", ["beside", "in_total"])
def test_reasoning_tokens_beyond_the_cap_stay_within_a_batchs_budget(
    ask: Verb, server: Server, thoughts: int, way: str
) -> None:
    server.set(thoughts=thoughts, usage=way)
    out = ask(texts(200), max_tokens=100, budget_tokens=10_000, lane=lane())
    stats = server.stats(charged=False)
    assert 5000 < stats["prompt_tokens"] + stats["completion_tokens"] <= 10_000
    assert out["error_code"].dropna().eq("budget").all()


def test_a_waiting_part_is_not_submitted_if_earlier_answers_used_up_the_budget(ask: Verb, server: Server) -> None:
    server.set(thoughts=500, usage="beside", batch_queued_tokens=250, batch_speed=6000.0)
    out = ask(texts(40), max_tokens=100, budget_tokens=9_500, lane=lane(max_requests=10))
    stats = server.stats(charged=False)
    assert stats["batches"]["by_status"]["completed"] < 4
    assert counts(out)["cancelled"] >= 10
    assert out["error_code"].dropna().eq("budget").all()
    assert counts(ask(texts(40), max_tokens=100, lane="online")) == {"succeeded": 40}
    assert charged(server) == [1]


def test_the_online_fallback_stays_within_the_budget(ask: Verb, server: Server) -> None:
    server.set(batch_expire=1.0)
    out = ask(texts(20), max_tokens=100, budget_tokens=5000, lane=lane(rounds=1, then="online"))
    assert counts(out) == {"succeeded": 20}
    assert server.stats()["received"] == 20


def test_a_budget_holds_for_what_is_sent_again_of_an_earlier_calls_batch(ask: Verb, server: Server) -> None:
    server.set(batch_expire=1.0)
    ask(texts(20), max_tokens=100, lane=lane(wait=False))
    server.set(batch_expire=0.0)
    out = ask(texts(30), max_tokens=100, lane=lane(), budget_tokens=500)
    stats = server.stats(charged=False)
    assert 0 < stats["prompt_tokens"] + stats["completion_tokens"] <= 500
    assert set(counts(out)) == {"succeeded", "cancelled"}
    assert out["error_code"].dropna().eq("budget").all()
    assert counts(ask(texts(30), max_tokens=100)) == {"succeeded": 30}
    assert charged(server) == [1]


def test_rows_that_no_batch_answers_are_sent_online_with_a_budget_for_a_part_of_them(ask: Verb, server: Server) -> None:
    server.set(batch_expire=1.0)
    out = ask(texts(20), max_tokens=100, budget_tokens=700, lane=lane(rounds=1, then="online"))
    assert counts(out)["succeeded"] >= 6  # the worst case of six of them is below the budget
    assert server.stats()["batches"]["created"] > 1  # what they really cost left room for others
    assert out["prompt_tokens"].sum() + out["completion_tokens"].sum() <= 700


def test_expired_rows_cost_nothing_of_the_budget(ask: Verb, server: Server) -> None:
    server.set(batch_expire=1.0)
    out = ask(texts(20), max_tokens=100, budget_tokens=1500, lane=lane(rounds=1))
    assert server.stats()["batches"]["created"] > 1
    assert out["error_code"].eq("batch_expired").all()


@pytest.mark.parametrize(
    "options",
    [{"deadline": 10.0}, {"repair": True}, {"lane": "slow"}, {"service_tier": "flex"}],
    ids=["a deadline", "repairs", "an unknown lane", "a service tier"],
)
def test_an_option_that_the_lane_does_not_support_is_an_error_before_anything_is_sent(
    ask: Verb, server: Server, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        ask(texts(3), **options)
    assert server.stats()["batches"]["files_uploaded"] == 0


def test_labels_come_through_the_batch_lane_too(client: po.Client) -> None:
    out = po.label_dataframe(
        texts(5), "{text}", labels=["good", "bad"], model="gpt-4o-mini", lane=lane(), client=client, progress=False
    )
    assert counts(out) == {"succeeded": 5}
    assert out["label"].isin(["good", "bad"]).all()


def test_no_key_reaches_the_disk(server: Server, ask: Verb, tmp_path: Path) -> None:
    client = po.Client(server.base_url, api_key="sk-very-secret-0123456789")
    with no_batch_ends(server):
        ask(texts(3), client=client, lane=po.BatchLane(wait=False))
    held = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.suffix == ".rows" for file in held)
    assert all(b"very-secret" not in file.read_bytes() for file in held)


def test_the_folder_of_parts_is_removed_when_all_is_collected(ask: Verb, tmp_path: Path) -> None:
    ask(texts(5))
    assert not (tmp_path / "answers.jsonl.batches").exists()


def test_read_journal_shows_the_answers_and_not_the_steps(ask: Verb, tmp_path: Path) -> None:
    ask(texts(5))
    assert len(po.read_journal(tmp_path / "answers.jsonl")) == 5


@pytest.mark.parametrize("ended", [3, 1], ids=["all end", "the first ends sooner"])
def test_a_comparison_that_does_not_wait_submits_all_variants_in_one_call(
    scripted: Scripted, ended: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = {"v1": "Happy? {text}", "v2": "Angry? {text}", "v3": {"prompt": "Sad? {text}", "system": "Be short."}}
    with po.Client(scripted.base_url, api_key="sk-none", max_attempts=2) as client:
        options: dict[str, Any] = {"labels": ["yes", "no"], "model": "m", "client": client, "progress": False}
        scripted.on_end = lambda batch, asked: None
        found = po.compare(texts(3), prompts, **options, lane=lane(wait=False))
        assert (len(scripted.batches), found.ended) == (3, "submitted")
        assert all(set(out["error_code"]) == {"in_batch"} for out in found.frames.values())
        for batch in list(scripted.batches.values())[:ended]:
            lines = [scripted.line(json.loads(each)) for each in scripted.files[batch["input_file_id"]].splitlines()]
            batch["output_file_id"] = scripted.file(b"".join(lines).replace(b"To: ", b"yes: "))
            scripted.end(batch, 3, 0)
        again = po.compare(texts(3), prompts, **options, lane=lane(wait=False))
    assert (len(scripted.batches), again.ended) == (3, "finished" if ended == 3 else "submitted")
    assert [len(set(out["status"]) - {"cancelled"}) for out in again.frames.values()] == [1] * ended + [0] * (3 - ended)
