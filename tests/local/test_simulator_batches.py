"""The simulator's files and batches, through OpenAI's SDK."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from parallel_openai.local import simulator

DAY = 86_400.0


@pytest.fixture
def server() -> Iterator[simulator.Server]:
    with simulator.serve(max_requests_per_minute=None, batch_speed=DAY * 4) as running:
        yield running


@pytest.fixture
def sdk(server: simulator.Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="sk-simulated", max_retries=0) as client:
        yield client


def line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"Say {number}."}]}
    return {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **changes}


def submit(sdk: openai.OpenAI, lines: list[Any], **more: Any) -> Any:
    content = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines)
    file = sdk.files.create(file=("part.jsonl", io.BytesIO(content.encode())), purpose="batch")
    return sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more)


def ended(sdk: openai.OpenAI, batch_id: str) -> Any:
    give_up_at = time.monotonic() + 20
    while (batch := sdk.batches.retrieve(batch_id)).status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < give_up_at, batch
        time.sleep(0.02)
    return batch


def lines_of(sdk: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(each) for each in sdk.files.content(file_id).text.splitlines()] if file_id else []


def test_a_batch_is_answered_in_any_order_and_says_that_it_is_simulated(sdk: openai.OpenAI) -> None:
    batch = submit(sdk, [line(number) for number in range(20)], metadata={"run": "a"})
    assert (batch.status, batch.metadata) == ("validating", {"run": "a"})
    batch = ended(sdk, batch.id)
    assert (batch.status, batch.request_counts.completed, batch.error_file_id) == ("completed", 20, None)
    answers = lines_of(sdk, batch.output_file_id)
    names = [each["custom_id"] for each in answers]
    assert sorted(names) == sorted(f"row-{number}" for number in range(20))
    assert names != [f"row-{number}" for number in range(20)]
    assert all(each["response"]["body"]["system_fingerprint"] == "simulated" for each in answers)


def test_a_share_of_the_requests_expires_with_the_day(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_expire=0.5)
    batch = ended(sdk, submit(sdk, [line(number) for number in range(40)]).id)
    answers, errors = lines_of(sdk, batch.output_file_id), lines_of(sdk, batch.error_file_id)
    assert batch.status == "expired"
    assert batch.expired_at >= batch.created_at + DAY
    assert 0 < len(errors) < 40
    assert len(answers) + len(errors) == 40
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}


def test_a_request_that_is_refused_goes_into_the_error_file(sdk: openai.OpenAI) -> None:
    batch = ended(sdk, submit(sdk, [line(0), line(1, body={"model": "gpt-4o-mini"})]).id)
    [error] = lines_of(sdk, batch.error_file_id)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert (error["custom_id"], error["response"]["status_code"]) == ("row-1", 400)


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ('{"custom_id": "row-1"', "invalid_json_line"),
        (line(0), "duplicate_custom_id"),
        (line(1, url="/v1/embeddings"), "invalid_url"),
        (line(1, method="GET"), "invalid_method"),
        (line(1, custom_id=None), "missing_required_parameter"),
        (line(1, body={"model": "gpt-5-mini", "messages": []}), "mismatched_model"),
    ],
    ids=["not JSON", "the same name twice", "another URL", "another method", "no name", "another model"],
)
def test_an_invalid_line_fails_the_batch_and_is_named(sdk: openai.OpenAI, second: Any, code: str) -> None:
    batch = ended(sdk, submit(sdk, [line(0), second]).id)
    assert batch.status == "failed"
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, 2)]


def test_a_queue_that_is_full_fails_the_batch(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_queued_tokens=10)
    batch = ended(sdk, submit(sdk, [line(number) for number in range(5)]).id)
    [error] = batch.errors.data
    assert (batch.status, error.code, error.line) == ("failed", "token_limit_exceeded", None)


def test_a_cancelled_batch_keeps_what_was_done(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_speed=3600.0, batch_validation_seconds=0.0)
    batch = submit(sdk, [line(number) for number in range(100)])
    while sdk.batches.retrieve(batch.id).request_counts.completed < 10:
        time.sleep(0.01)
    assert sdk.batches.cancel(batch.id).status == "cancelling"
    batch = ended(sdk, batch.id)
    assert batch.status == "cancelled"
    assert 10 <= len(lines_of(sdk, batch.output_file_id)) < 100
    with pytest.raises(openai.ConflictError):
        sdk.batches.cancel(batch.id)


def test_batches_and_files_are_listed_the_newest_first_page_by_page(sdk: openai.OpenAI) -> None:
    made = [submit(sdk, [line(number)]).id for number in range(5)]
    assert [batch.id for batch in sdk.batches.list(limit=2)] == made[::-1]
    files = list(sdk.files.list(purpose="batch"))
    assert len(files) == 5
    assert sdk.files.delete(files[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(files[0].id)


@pytest.mark.parametrize(
    "wrong",
    [{"endpoint": "/v1/nothing"}, {"completion_window": "1h"}, {"input_file_id": "file-none"}],
    ids=["endpoint", "window", "file"],
)
def test_an_invalid_request_for_a_batch_is_refused(sdk: openai.OpenAI, wrong: dict[str, str]) -> None:
    right = submit(sdk, [line(0)])
    asked = {"input_file_id": right.input_file_id, "endpoint": right.endpoint, "completion_window": "24h", **wrong}
    with pytest.raises(openai.APIStatusError):
        sdk.batches.create(**asked)  # type: ignore[arg-type]


def test_a_file_for_a_batch_must_be_jsonl_and_have_a_purpose(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="jsonl"):
        sdk.files.create(file=("part.txt", io.BytesIO(b"{}")), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        sdk.files.create(file=("part.jsonl", io.BytesIO(b"{}")), purpose="nothing")  # type: ignore[arg-type]


def test_statistics_count_batches_and_their_requests(server: simulator.Server, sdk: openai.OpenAI) -> None:
    ended(sdk, submit(sdk, [line(0), line(1)]).id)
    stats = server.stats()
    assert stats["batches"] == {"created": 1, "by_status": {"completed": 1}, "requests": 2, "files_uploaded": 1}
    assert sorted(stats["charged"].values()) == [1, 1]
    server.reset()
    assert server.stats()["batches"]["created"] == 0


def test_files_can_appear_after_the_batch_has_ended(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_late_files=2)
    batch = ended(sdk, submit(sdk, [line(0)]).id)
    looks = [batch, *(sdk.batches.retrieve(batch.id) for _ in range(2))]
    assert [each.output_file_id is None for each in looks] == [True, True, False]
    assert {each.request_counts.completed for each in looks} == {1}


def test_downloads_can_be_short_at_first(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_short_downloads=1)
    batch = ended(sdk, submit(sdk, [line(number) for number in range(4)]).id)
    assert [len(lines_of(sdk, batch.output_file_id)) for _ in range(2)] == [2, 4]


def test_the_first_lines_of_an_output_can_be_malformed(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_odd_lines=["torn", "custom_id_null", "status_ok", "error_first"])
    batch = ended(sdk, submit(sdk, [line(number) for number in range(6)]).id)
    torn, no_id, status, error, answer, *rest = sdk.files.content(batch.output_file_id).text.splitlines()
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    assert json.loads(no_id)["custom_id"] is None
    assert json.loads(status)["response"]["status_code"] == "ok"
    assert json.loads(error)["custom_id"] == json.loads(answer)["custom_id"]
    assert json.loads(error)["error"]["code"] == "server_error"
    assert len(rest) == 2


def test_a_batch_and_its_files_can_be_lost(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_lost=[1], batch_lost_files=[2])
    first, second = (submit(sdk, [line(number)]) for number in range(2))
    with pytest.raises(openai.NotFoundError):
        ended(sdk, first.id)
    batch = ended(sdk, second.id)
    with pytest.raises(openai.NotFoundError):
        sdk.files.content(batch.output_file_id)


def test_lists_can_be_late_and_lack_metadata(server: simulator.Server, sdk: openai.OpenAI) -> None:
    server.set(batch_late_list=1, batch_list_metadata=False)
    batch = submit(sdk, [line(0)], metadata={"run": "a"})
    assert [[each.id for each in sdk.batches.list()] for _ in range(2)] == [[], [batch.id]]
    [shown] = sdk.batches.list()
    assert shown.metadata is None
    assert shown.input_file_id == batch.input_file_id


@pytest.mark.parametrize(
    "setting",
    [{"batch_odd_lines": ["round"]}, {"batch_lost": ["first"]}, {"batch_late_files": -1}, {"batch_lost_files": 2}],
    ids=str,
)
def test_settings_of_batches_are_checked(server: simulator.Server, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        server.set(**setting)
