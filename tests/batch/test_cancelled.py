"""Cancelled parts are never submitted, and only rows in a batch are reported as in one."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import cli
from parallel_openai.local.simulator import Server
from tests.batch.conftest import Verb, charged, counts, lane, no_batch_ends, texts
from tests.batch.scripted import Asked, Scripted


def full_queue(scripted: Scripted) -> Any:
    """Accept the first batch, which stays in progress, and refuse all others because the queue is full."""

    def end(batch: dict[str, Any], asked: Asked) -> None:
        if len(scripted.batches) > 1:
            scripted.end(batch, 0, 0, "failed")
            message = "Enqueued token limit reached. Limit: 10,000 enqueued tokens."
            batch["errors"] = {"data": [{"code": "token_limit_exceeded", "message": message, "line": None}]}

    return end


def test_a_queued_part_is_not_submitted_by_collecting_after_a_cancel(
    scripted: Scripted, submit: Verb, tmp_path: Path
) -> None:
    scripted.on_end = full_queue(scripted)
    submit(texts(9), lane=lane(wait=False, max_requests=3))
    journal, client = tmp_path / "answers.jsonl", po.Client(scripted.base_url, api_key="sk-none")
    made = len(scripted.batches)
    found = po.cancel_batches(journal, client=client)
    assert [each.status for each in found] == ["cancelled"] * 3
    scripted.on_end = scripted.complete
    status = po.collect_batches(journal, client=client, progress=False, lane=lane())
    assert (status.num_tasks_succeeded, status.ended, len(scripted.batches)) == (0, "finished", made)
    assert po.batch_status(journal, client=client) == []
    assert not (tmp_path / "answers.jsonl.batches").exists()
    assert counts(submit(texts(9))) == {"succeeded": 9}


def test_the_command_cancels_queued_parts_too(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", scripted.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    scripted.on_end = full_queue(scripted)
    bodies = [{"model": f"m{n}", "messages": [{"role": "user", "content": str(n)}]} for n in range(2)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies))
    out = str(tmp_path / "in_results.jsonl")
    assert cli.main(["batch", "submit", "--requests_filepath", str(tmp_path / "in.jsonl")]) == 0
    assert cli.main(["batch", "cancel", "--save_filepath", out]) == 0
    assert capsys.readouterr().out.count("cancelled") == 2
    made = len(scripted.batches)
    scripted.on_end = scripted.complete
    assert cli.main(["batch", "collect", "--save_filepath", out]) == 0
    assert len(scripted.batches) == made


def test_a_failed_row_is_not_submitted_again_after_a_cancel(scripted: Scripted, submit: Verb, tmp_path: Path) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        batch["output_file_id"] = scripted.file(scripted.line(asked[0]))
        batch["error_file_id"] = scripted.file(b"".join(scripted.failed(each) for each in asked[1:]))

    scripted.on_end = end
    submit(texts(3), lane=lane(wait=False))
    journal, client = tmp_path / "answers.jsonl", po.Client(scripted.base_url, api_key="sk-none")
    po.cancel_batches(journal, client=client)
    scripted.end(scripted.batches["batch_1"], 1, 2)  # it had come to its end
    status = po.collect_batches(journal, client=client, progress=False, lane=lane())
    assert (status.num_tasks_succeeded, len(scripted.batches)) == (1, 1)
    scripted.on_end = scripted.complete
    assert counts(submit(texts(3))) == {"succeeded": 3}
    assert set(scripted.billed.values()) == {1}


def test_a_run_that_waits_submits_nothing_more_once_another_process_cancels(
    scripted: Scripted, submit: Verb, tmp_path: Path
) -> None:
    scripted.on_end = full_queue(scripted)
    frames: list[pd.DataFrame] = []
    running = threading.Thread(target=lambda: frames.append(submit(texts(9), lane=lane(max_requests=3))))
    running.start()
    give_up_at = time.monotonic() + 10
    while len(scripted.batches) < 2 and time.monotonic() < give_up_at:
        time.sleep(0.02)
    po.cancel_batches(tmp_path / "answers.jsonl", client=po.Client(scripted.base_url, api_key="sk-none"))
    scripted.on_end = scripted.complete
    running.join(10)
    [out] = frames
    assert counts(out) == {"cancelled": 9}
    assert out["error_code"].isna().all()
    assert not scripted.billed


def test_only_rows_in_a_batch_are_reported_as_in_batch(submit: Verb, scripted: Scripted) -> None:
    scripted.on_end = lambda batch, asked: None
    out = submit(texts(20), lane=lane(wait=False), max_tokens=100, budget_tokens=1100)
    codes = dict(out["error_code"].value_counts())
    assert set(codes) == {"in_batch", "budget"}
    assert codes["in_batch"] == len(scripted.files["file-1"].splitlines())
    assert out["error"][out["error_code"] == "budget"].str.contains("budget").all()
    assert out.attrs["parallel_openai"]["ended"] == "submitted"


def test_other_rows_report_why_they_were_not_sent(ask: Verb, server: Server, tmp_path: Path) -> None:
    server.set(batch_speed=1.0)
    ask(texts(4), lane=lane(wait=False), max_tokens=50)
    out = ask(texts(40), lane="online", max_tokens=50, budget_tokens=300)
    codes = dict(out["error_code"].value_counts())
    assert codes["in_batch"] == 4
    assert codes["budget"] > 10


def test_metadata_is_restored_from_the_frame_if_the_folder_is_lost(ask: Verb, server: Server, tmp_path: Path) -> None:
    df = texts(4).assign(place=[f"row {number}" for number in range(4)])
    with no_batch_ends(server):
        ask(df, lane=lane(wait=False), metadata="place")
    shutil.rmtree(tmp_path / "answers.jsonl.batches")
    assert counts(ask(df, metadata="place")) == {"succeeded": 4}
    beside = po.read_journal(tmp_path / "answers.jsonl")["metadata"]
    assert sorted(each["place"] for each in beside) == df["place"].tolist()
    assert charged(server) == [1]


def test_collecting_without_frame_and_folder_warns_that_metadata_is_lost(
    ask: Verb, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    df = texts(2).assign(place=["a", "b"])
    with no_batch_ends(server):
        ask(df, lane=lane(wait=False), metadata="place")
    shutil.rmtree(tmp_path / "answers.jsonl.batches")
    journal, client = tmp_path / "answers.jsonl", po.Client(server.base_url)
    assert po.collect_batches(journal, client=client, progress=False, lane=lane()).ended == "finished"
    assert "the metadata of the requests" in caplog.text
    caplog.clear()
    with no_batch_ends(server):
        ask(texts(5), lane=lane(wait=False))
    shutil.rmtree(tmp_path / "answers.jsonl.batches")
    po.collect_batches(journal, client=client, progress=False, lane=lane())
    assert caplog.text == ""  # there was none


@pytest.mark.parametrize("forget", ["batch_7", ["batch_1", "batch_7"]])
def test_a_batch_to_forget_must_be_one_of_the_journal(
    scripted: Scripted, submit: Verb, tmp_path: Path, forget: Any
) -> None:
    scripted.on_end = lambda batch, asked: None
    submit(texts(2), lane=lane(wait=False))
    client = po.Client(scripted.base_url, api_key="sk-none")
    with pytest.raises(po.errors.InvalidInputError, match=r"'batch_7' is not a batch of .* its batches are: batch_1"):
        po.cancel_batches(tmp_path / "answers.jsonl", client=client, forget=forget)
    assert len(po.batch_status(tmp_path / "answers.jsonl", client=client)) == 1


def test_a_truncated_input_file_is_not_used(scripted: Scripted, submit: Verb, tmp_path: Path) -> None:
    scripted.on_end = lambda batch, asked: None
    submit(texts(4), lane=lane(wait=False))
    shutil.rmtree(tmp_path / "answers.jsonl.batches")
    asked = [json.loads(line) for line in scripted.files["file-1"].splitlines()]
    scripted.complete(scripted.batches["batch_1"], asked)
    scripted.on_end = scripted.complete
    short = scripted.files["file-1"].splitlines(keepends=True)[0]
    scripted.on_call = lambda method, path: (200, short) if path == "/v1/files/file-1/content" else None
    with pytest.raises(po.errors.BatchError, match="would be billed twice") as stopped:
        submit(texts(4))
    assert counts(stopped.value.partial) == {"cancelled": 4}
    scripted.on_call = lambda method, path: None
    assert counts(submit(texts(4))) == {"succeeded": 4}
    assert set(scripted.billed.values()) == {1}


def test_a_budget_holds_for_an_earlier_calls_batch_that_met_a_full_queue(scripted: Scripted, submit: Verb) -> None:
    def refuse_first(batch: dict[str, Any], asked: Asked) -> None:
        if len(scripted.batches) > 1:
            scripted.complete(batch, asked)
            return
        scripted.end(batch, 0, 0, "failed")
        batch["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "Full.", "line": None}]}

    scripted.on_end = lambda batch, asked: None  # in progress when the first call ends
    submit(texts(10), lane=lane(wait=False), max_tokens=50)
    refuse_first(next(iter(scripted.batches.values())), [])
    scripted.on_end = refuse_first
    out = submit(texts(10), max_tokens=50, budget_tokens=70)
    assert 0 < counts(out)["succeeded"] < 10
    assert sum(scripted.billed.values()) * 8 <= 70
    assert out["error_code"].dropna().eq("budget").all()


@pytest.mark.parametrize("told", [True, False], ids=["each row is told", "no row is told"])
@pytest.mark.parametrize("wait", [True, False])
def test_rows_of_a_batch_that_someone_else_cancelled_say_so(
    scripted: Scripted, submit: Verb, told: bool, wait: bool
) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        batch["output_file_id"] = scripted.file(scripted.line(asked[0]))
        if told:
            batch["error_file_id"] = scripted.file(
                b"".join(scripted.failed(each, "batch_cancelled") for each in asked[1:])
            )
        scripted.end(batch, 1, 0, "cancelled")

    scripted.on_end = end
    out = submit(texts(3).iloc[[0, 1, 2, 1]], lane=lane(wait=wait))
    assert out["status"].tolist() == ["succeeded", "cancelled", "cancelled", "cancelled"]
    assert out["error_code"].fillna("").tolist() == ["", *["batch_cancelled"] * 3]
    assert out["error"][1:].str.contains("batch_1").all()
    scripted.on_end = scripted.complete
    assert counts(submit(texts(3))) == {"succeeded": 3}
    assert set(scripted.billed.values()) == {1}


def test_a_file_run_says_how_many_lines_were_in_a_batch_that_someone_else_cancelled(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.on_end = lambda batch, asked: scripted.end(batch, 0, 0, "cancelled")
    bodies = [{"model": "m", "messages": [{"role": "user", "content": str(n)}]} for n in range(3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        po.process_api_requests_from_file(
            tmp_path / "in.jsonl", client=po.Client(scripted.base_url, api_key="sk-none"), lane=lane()
        )
    assert "3 rows were in batches cancelled at the server; the same call again submits them" in said.getvalue()
