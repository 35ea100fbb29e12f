"""Each answer is read and billed once, whatever the batch's files, counts and status."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from tests.batch.conftest import Verb, counts, lane, texts
from tests.batch.scripted import Asked, Scripted, error, prompt_of


def in_three(submit: Verb, count: int = 9, **options: Any) -> pd.DataFrame:
    return submit(texts(count), lane=lane(max_requests=count // 3, **options))


def shown_later(scripted: Scripted, looks: int) -> Callable[[str, str], Any]:
    """Batches whose files do not appear at the first checks."""
    seen: dict[str, int] = {}

    def on_call(method: str, path: str) -> Any:
        batch = scripted.batches.get(path.removeprefix("/v1/batches/"))
        if method != "GET" or batch is None:
            return None
        seen[path] = seen.get(path, 0) + 1
        hidden = {"output_file_id": None, "error_file_id": None} if seen[path] <= looks else {}
        return 200, {**batch, **hidden}

    return on_call


@pytest.mark.parametrize("looks", [1, 5, 12])
def test_files_that_appear_late_are_waited_for(scripted: Scripted, submit: Verb, looks: int) -> None:
    scripted.on_call = shown_later(scripted, looks)
    assert counts(in_three(submit)) == {"succeeded": 9}
    assert set(scripted.billed.values()) == {1}


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_answers_that_are_counted_but_never_delivered_stay_in_the_batch(
    scripted: Scripted, submit: Verb, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.complete(batch, asked)
        batch["status"] = status
        batch["output_file_id"] = None

    scripted.on_end = end
    out = submit(texts(3))
    assert out["error_code"].eq("in_batch").all()
    assert "its files lack the outcome of 3 of its 3 rows" in out["error"][0]
    assert "forget='batch_1'" in caplog.text
    scripted.batches["batch_1"]["output_file_id"] = "file-2"
    assert counts(submit(texts(3))) == {"succeeded": 3}
    assert set(scripted.billed.values()) == {1}


def short(scripted: Scripted, keep: int, times: int | None = None) -> Callable[[str, str], Any]:
    """Downloads that end after some lines."""
    seen = 0

    def on_call(method: str, path: str) -> Any:
        nonlocal seen
        file_id = path.removeprefix("/v1/files/").removesuffix("/content")
        if path.endswith("/content") and scripted.names[file_id] == "output.jsonl":
            seen += 1
            if times is None or seen <= times:
                return 200, b"".join(scripted.files[file_id].splitlines(keepends=True)[:keep])
        return None

    return on_call


def test_a_download_that_ends_after_a_line_is_repeated(scripted: Scripted, submit: Verb) -> None:
    scripted.on_call = short(scripted, 4, times=2)
    assert counts(submit(texts(9))) == {"succeeded": 9}
    assert set(scripted.billed.values()) == {1}


def test_an_output_that_stays_incomplete_costs_nothing_twice(scripted: Scripted, submit: Verb, tmp_path: Path) -> None:
    scripted.on_call = short(scripted, 4)
    for _ in range(2):
        out = submit(texts(9))
        assert counts(out) == {"succeeded": 4, "cancelled": 5}
        assert out["error_code"].dropna().eq("in_batch").all()
    assert len(po.read_journal(tmp_path / "answers.jsonl")) == 4
    assert len(scripted.batches) == 1
    scripted.on_call = lambda method, path: None
    assert counts(submit(texts(9))) == {"succeeded": 9}
    assert set(scripted.billed.values()) == {1}


def test_rows_counted_as_failed_are_submitted_again_without_an_error_file(scripted: Scripted, submit: Verb) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.on_end = scripted.complete
        batch["output_file_id"] = scripted.file(b"".join(map(scripted.line, asked[:6])))
        scripted.end(batch, 6, 3)

    scripted.on_end = end
    out = submit(texts(9))
    assert counts(out) == {"succeeded": 9}
    assert out["attempts"].tolist() == [1] * 6 + [2] * 3
    assert set(scripted.billed.values()) == {1}


def test_without_counts_only_rows_reported_as_failed_are_submitted_again(scripted: Scripted, submit: Verb) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.on_end = scripted.complete
        batch["output_file_id"] = scripted.file(b"".join(map(scripted.line, asked[:6])))
        batch["error_file_id"] = scripted.file(scripted.failed(asked[6], "server_error"))
        scripted.end(batch, 0, 0)
        batch["request_counts"] = None

    scripted.on_end = end
    out = submit(texts(9))
    assert counts(out) == {"succeeded": 6, "cancelled": 3}
    assert len(scripted.batches) == 1


@pytest.mark.parametrize("how", ["all", "some", "late"])
def test_a_batch_that_failed_halfway_is_collected_first(scripted: Scripted, submit: Verb, how: str) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.on_end = scripted.complete
        done = asked if how == "all" else asked[:5]
        batch["output_file_id"] = scripted.file(b"".join(map(scripted.line, done)))
        scripted.end(batch, len(done), 0, "failed")
        batch["errors"] = {"data": [{"code": "internal_error", "message": "It broke.", "line": None}]}

    scripted.on_end = end
    if how == "late":
        scripted.on_call = shown_later(scripted, 3)
    assert counts(submit(texts(9))) == {"succeeded": 9}
    assert set(scripted.billed.values()) == {1}


@pytest.mark.parametrize("first", [0, 1])
def test_invalid_lines_are_found_whether_the_server_counts_from_zero_or_one(
    scripted: Scripted, submit: Verb, first: int
) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.on_end = scripted.complete
        scripted.end(batch, 0, 0, "failed")
        bad = [{"code": "invalid_request", "message": "No such field.", "line": first + row} for row in (0, 2)]
        batch["errors"] = {"data": bad}

    scripted.on_end = end
    assert submit(texts(5))["status"].tolist() == ["failed", "succeeded", "failed", "succeeded", "succeeded"]


LOST: dict[str, tuple[str, int, Any]] = {
    "the batch is unknown": ("/v1/batches/batch_2", 404, error("No batch found")),
    "the batch is another key's": ("/v1/batches/batch_2", 403, error("Not yours", "forbidden")),
    "its file is unknown": ("/v1/files/file-4/content", 404, error("No such File object")),
    "its file is another key's": ("/v1/files/file-4/content", 403, error("Not yours", "forbidden")),
    "its file has run out": ("/v1/files/file-4/content", 410, error("Gone")),
    "another key is asked for": ("/v1/batches/batch_2", 401, error("Not yours", "invalid_api_key")),
    "no JSON object comes": ("/v1/batches/batch_2", 200, [1]),
    "no status comes": ("/v1/batches/batch_2", 200, {}),
}


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_batch_does_not_affect_the_others(
    scripted: Scripted, submit: Verb, tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    there, status, body = LOST[lost]
    client = po.Client(scripted.base_url, api_key="sk-none", max_attempts=1, max_wait=0.1)
    scripted.on_call = lambda method, path: (status, body) if path == there else None
    out = in_three(partial(submit, client=client))
    assert counts(out) == {"succeeded": 6, "cancelled": 3}
    assert out["error_code"].dropna().eq("in_batch").all()
    assert "batch_2" in caplog.text
    if status == 401:  # with this key nothing can be done about it
        return
    journal = tmp_path / "answers.jsonl"
    [seen] = po.batch_status(journal, client=client)
    [after] = po.cancel_batches(journal, client=client)
    if "/batches/" in there:
        assert (seen.status, seen.id) == ("lost", "batch_2")
    else:
        assert seen.status == after.status == "completed"
    told = po.collect_batches(journal, client=client, progress=False, lane=lane())
    assert told.ended == "submitted"
    assert len(scripted.batches) == 3
    done = po.collect_batches(journal, client=client, progress=False, lane=lane(), forget="batch_2")
    assert done.ended == "finished"
    scripted.on_call = lambda method, path: None
    assert counts(submit(texts(9))) == {"succeeded": 9}
    assert sorted(scripted.billed.values()) == [1] * 6 + [2] * 3  # as whoever gives a batch up was told


def odd_lines(scripted: Scripted, asked: Asked) -> dict[str, bytes]:
    """For the first row, in an output that is complete for the others."""
    first = asked[0]
    good = json.loads(scripted.line(first))
    response = good["response"]

    def line(**changes: Any) -> bytes:
        return json.dumps({**good, **changes}).encode() + b"\n"

    return {
        "torn": line()[:40] + b"\n",
        "an array": b"[1, 2]\n",
        "a number": b"7\n",
        "deep": b"[" * 100_000 + b"\n",
        "no UTF-8": b"\xff\xfe\x00{}\n",
        "custom_id a list": line(custom_id=[first["custom_id"]]),
        "custom_id null": line(custom_id=None),
        "custom_id unknown": line(custom_id="nobody's"),
        "status missing": line(response={"body": response["body"]}),
        "status ok": line(response={**response, "status_code": "ok"}),
        "status text": line(response={**response, "status_code": "200"}),
        "status null": line(response={**response, "status_code": None}),
        "status infinite": line(response={**response, "status_code": float("inf")}),
        "body as text": line(response={**response, "body": json.dumps(response["body"])}),
        "body no JSON": line(response={**response, "body": "Hello."}),
        "body null": line(response={**response, "body": None}),
        "body a list": line(response={**response, "body": [response["body"]]}),
        "response a list": line(response=[response]),
        "response a text": line(response="yes"),
        "request_id a number": line(response={**response, "request_id": 7}),
        "error first": scripted.failed(first) + line(),
        "error behind": line() + scripted.failed(first),
        "twice": line() * 2,
        "blank last": line() + b"\n",
        "blank lines": b"\n \n" + line() + b"\r\n",
        "a BOM": b"\xef\xbb\xbf" + line(),
    }


GOOD = [
    *("status missing", "status ok", "status text", "status null", "status infinite", "body as text"),
    *(
        "body a list",
        "request_id a number",
        "error first",
        "error behind",
        "twice",
        "blank last",
        "blank lines",
        "a BOM",
    ),
]
ODD = list(odd_lines(Scripted(), [{"custom_id": "a", "body": {"messages": [{"content": ""}]}}]))


@pytest.mark.parametrize("has_counts", [True, False], ids=["counted", "uncounted"])
def test_a_malformed_line_affects_only_its_row_and_is_billed_once(
    scripted: Scripted, submit: Verb, has_counts: bool
) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        odd = odd_lines(scripted, asked)[ODD[len(scripted.batches) - 1]]
        scripted.billed[prompt_of(asked[0])] = 1
        batch["output_file_id"] = scripted.file(odd + b"".join(map(scripted.line, asked[1:])))
        scripted.end(batch, len(asked), 0)
        batch["request_counts"] = batch["request_counts"] if has_counts else None

    scripted.on_end = end
    out = submit(texts(3 * len(ODD)), lane=lane(max_requests=3))
    first = out.iloc[::3]
    assert [kind for kind, status in zip(ODD, first["status"], strict=True) if status == "succeeded"] == GOOD
    assert counts(out.drop(first.index)) == {"succeeded": 2 * len(ODD)}
    codes = dict(zip(ODD, first["error_code"], strict=True))
    assert codes.pop("custom_id unknown") == "in_batch"
    assert {code for kind, code in codes.items() if kind not in GOOD} == {"malformed_response"}
    assert len(scripted.batches) == len(ODD)
    assert set(scripted.billed.values()) == {1}


def test_an_error_line_whose_answer_was_cut_off_is_checked_again(scripted: Scripted, submit: Verb) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        batch["output_file_id"] = scripted.file(scripted.failed(asked[0]) + b"".join(map(scripted.line, asked)))
        scripted.end(batch, len(asked), 0)

    scripted.on_end = end
    scripted.on_call = short(scripted, 1, times=5)
    assert counts(submit(texts(1))) == {"succeeded": 1}
    assert set(scripted.billed.values()) == {1}


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_without_counts_an_interrupted_batch_is_checked_again_first(
    scripted: Scripted, submit: Verb, status: str
) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.on_end = scripted.complete
        batch["output_file_id"] = scripted.file(b"".join(map(scripted.line, asked[:2])))
        scripted.end(batch, 2, 0, status)
        batch["request_counts"] = None

    scripted.on_end = end
    scripted.on_call = shown_later(scripted, 6)
    out = submit(texts(4))
    assert counts(out) == ({"succeeded": 2, "cancelled": 2} if status == "cancelled" else {"succeeded": 4})
    assert set(scripted.billed.values()) == {1}
