"""Malicious servers and journals: ids, counts, times and files are validated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._batch.batch_state import live_parts
from parallel_openai._batch.collecting.download_bounds import EXTRA_BYTES, MAX_TEXT_BYTES
from parallel_openai._batch.submitting import submit as submit_module
from parallel_openai._batch.under_way import UnderWay
from tests.batch.conftest import Verb, age, counts, lane, texts
from tests.batch.scripted import Asked, Scripted

BAD_IDS = ["..", ".", "", 7, None, ["a"], {"id": "a"}, "a\0b", "a\nb", "x" * 10_000]


@pytest.mark.parametrize("file_id", BAD_IDS, ids=lambda each: repr(each)[:12])
def test_an_output_file_with_an_invalid_id_is_not_downloaded(scripted: Scripted, submit: Verb, file_id: Any) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.complete(batch, asked)
        batch["output_file_id"] = file_id

    scripted.on_end = end
    out = submit(texts(2))
    assert out["error_code"].eq("in_batch").all()
    assert not any(call.endswith("/content") for call in scripted.calls)


@pytest.mark.parametrize("name", ["../../x", "a/b", "..%2f..", "a?b=c", "a#b", "ü ö"])
def test_an_id_stays_one_segment_of_the_path(scripted: Scripted, submit: Verb, name: str) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.complete(batch, asked)
        batch["id"], batch["output_file_id"] = name, name

    scripted.on_end = end
    submit(texts(2))
    asked = [call for call in scripted.calls if call.startswith(("GET /v1/batches/", "GET /v1/files/"))]
    assert asked
    assert all(call.removesuffix("/content").count("/") == 3 and "?" not in call and "#" not in call for call in asked)


FIELDS = ["batch_id", "file_id", "name", "requests", "planned_at", "creating_at", "former", "path", "not_before"]


@pytest.mark.parametrize("field", FIELDS)
def test_an_invalid_step_in_a_journal_does_no_harm(
    scripted: Scripted, submit: Verb, tmp_path: Path, field: str
) -> None:
    scripted.on_end = lambda batch, asked: None
    journal, client = tmp_path / "answers.jsonl", po.Client(scripted.base_url, api_key="sk-none", max_attempts=1)
    out = submit(texts(2), lane=lane(wait=False))
    [key, _] = out["request_key"]
    age(journal)
    written = journal.read_bytes().splitlines()
    folder = {file: file.read_bytes() for file in (tmp_path / "answers.jsonl.batches").iterdir()}
    for value in ("..", "", 7, -1, 1e300, float("nan"), [".."], {"a": 1}, True, "../x", None):
        for file, content in folder.items():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        steps = [json.loads(line) for line in written]
        for step in steps:
            step[2]["batch"][field] = value
        journal.write_text("".join(json.dumps(step, separators=(",", ":")) + "\n" for step in steps))
        scripted.calls.clear()
        po.batch_status(journal, client=client)
        under_way = UnderWay(journal)
        assert under_way.rest() if under_way.meet(key) else True
        with suppress(po.errors.ParallelOpenAIError):
            po.collect_batches(journal, client=client, progress=False, lane=lane(wait=False))
        assert not any(".." in call.split("/") for call in scripted.calls)
        for part in live_parts(journal):
            assert isinstance(part.requests, int)


ODD_BATCHES: dict[str, dict[str, Any]] = {
    "counts as text": {"request_counts": {"total": "2", "completed": "2", "failed": "0"}},
    "counts negative": {"request_counts": {"total": -2, "completed": -2, "failed": -1}},
    "counts a list": {"request_counts": [2, 2, 0]},
    "counts of another": {"request_counts": {"total": 9, "completed": 9, "failed": 0}},
    "times as text": {"created_at": "yesterday", "completed_at": "today"},
    "times endless": {"created_at": 1e308, "completed_at": -1},
    "times a list": {"created_at": [], "completed_at": {}},
    "metadata a list": {"metadata": ["x"]},
    "errors a text": {"errors": "none"},
    "errors of anything": {"errors": {"data": [1, None, {"line": True}, {"line": "x", "code": ["a"], "message": 7}]}},
    "id another": {"id": "batch_9"},
    "id a number": {"id": 9},
    "input file a number": {"input_file_id": 9},
}


@pytest.mark.parametrize("kind", ODD_BATCHES)
def test_a_batch_with_invalid_fields_is_collected(scripted: Scripted, submit: Verb, tmp_path: Path, kind: str) -> None:
    def shown(method: str, path: str) -> Any:
        batch = scripted.batches.get(path.removeprefix("/v1/batches/"))
        return (200, {**batch, **ODD_BATCHES[kind]}) if method == "GET" and batch is not None else None

    scripted.on_call = shown
    submit(texts(2), lane=lane(wait=False))
    po.batch_status(tmp_path / "answers.jsonl", client=po.Client(scripted.base_url, api_key="sk-none"))
    assert counts(submit(texts(2))) == {"succeeded": 2}
    assert set(scripted.billed.values()) == {1}


@pytest.mark.parametrize("step", [1, 2, 3], ids=["planned", "uploaded", "creating"])
@pytest.mark.parametrize("by", ["eve on elsewhere", "", None])
def test_what_somebody_else_planned_and_never_submitted_is_not_paid_for(
    scripted: Scripted,
    submit: Verb,
    tmp_path: Path,
    step: int,
    by: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submit_module, "SEARCH_DELAYS", (0.0, 0.1, 0.1))  # nothing is in transit here
    journal, client = tmp_path / "answers.jsonl", po.Client(scripted.base_url, api_key="sk-none", max_attempts=1)
    scripted.on_end = lambda batch, asked: None
    submit(texts(2), lane=lane(wait=False))
    steps = [json.loads(line) for line in journal.read_bytes().splitlines()[:step]]
    steps[0][2]["batch"] |= {} if by is None else {"writer": by}
    if by is None:
        del steps[0][2]["batch"]["writer"]
    journal.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in steps))
    age(journal)
    scripted.batches.clear()
    scripted.calls.clear()
    assert po.collect_batches(journal, client=client, progress=False, lane=lane()).ended == "submitted"
    assert not [call for call in scripted.calls if call.startswith("POST")]
    assert f"2 rows were planned by {by or 'somebody else'} and never submitted" in caplog.text
    scripted.on_end = scripted.complete
    assert counts(submit(texts(2))) == {"succeeded": 2}
    assert set(scripted.billed.values()) == {1}


def test_what_somebody_else_submitted_is_collected(scripted: Scripted, submit: Verb, tmp_path: Path) -> None:
    journal, client = tmp_path / "answers.jsonl", po.Client(scripted.base_url, api_key="sk-none", max_attempts=1)
    scripted.on_end = lambda batch, asked: None
    submit(texts(2), lane=lane(wait=False))
    journal.write_bytes(re.sub(rb'"writer":"[^"]+"', b'"writer":"anna on laptop"', journal.read_bytes()))
    [batch] = scripted.batches.values()
    scripted.complete(batch, [json.loads(line) for line in scripted.files[batch["input_file_id"]].splitlines()])
    assert po.collect_batches(journal, client=client, progress=False, lane=lane()).num_tasks_succeeded == 2


def test_an_output_longer_than_its_requests_allow_is_cut_and_reported(
    scripted: Scripted, submit: Verb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    most = EXTRA_BYTES + 3 * MAX_TEXT_BYTES

    def end(batch: dict[str, Any], asked: Asked) -> None:
        lines = [scripted.line(each) for each in asked]
        batch["output_file_id"] = scripted.file(lines[0] + b" " * (2 * most) + b"\n" + b"".join(lines[1:]))
        scripted.end(batch, len(asked), 0)

    scripted.on_end = end
    out = submit(texts(3))
    assert counts(out) == {"succeeded": 1, "cancelled": 2}
    assert "longer than the answers to 3 rows of batch batch_1 can be" in caplog.text
    left = list((tmp_path / "answers.jsonl.batches").glob("*.output"))
    assert sum(file.stat().st_size for file in left) < most + 2**20


def test_a_decompression_bomb_is_cut_off(scripted: Scripted, submit: Verb, tmp_path: Path) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        batch["output_file_id"] = scripted.file(b"".join(map(scripted.line, asked)) + b"\n" * 60 * 2**20)
        scripted.end(batch, len(asked), 0)

    scripted.on_end = end
    scripted.compress = True
    assert counts(submit(texts(3))) == {"succeeded": 3}


Change = Callable[[bytes], bytes]
DAMAGE: dict[str, tuple[str, Change]] = {
    "rows torn": ("rows", lambda content: content[:20]),
    "rows short": ("rows", lambda content: content[: content.index(b"\n") + 1]),
    "rows of nothing": ("rows", lambda content: b"[]\n{}\n7\n"),
    "rows elsewhere": ("rows", lambda content: content.replace(b",0,", b",99999,")),
    "input torn": ("jsonl", lambda content: content[:20]),
    "input of nothing": ("jsonl", lambda content: b"7\n" * 20),
    "input body a list": ("jsonl", lambda content: content.replace(b'"body":{', b'"body":[],"x":{')),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_of_a_part_are_reported_and_nothing_is_billed_twice(
    scripted: Scripted, submit: Verb, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.on_end = lambda batch, asked: None
    submit(texts(6), lane=lane(wait=False, max_requests=3))
    ending, change = DAMAGE[kind]
    place = min((tmp_path / "answers.jsonl.batches").glob(f"*.{ending}"))
    place.write_bytes(change(place.read_bytes()))
    scripted.on_end = scripted.complete
    for batch in scripted.batches.values():
        scripted.complete(batch, [json.loads(line) for line in scripted.files[batch["input_file_id"]].splitlines()])
    try:
        out = submit(texts(7))
    except po.errors.BatchError as stopped:
        out = stopped.partial
    assert out["status"][3:6].eq("succeeded").all()
    assert out["error_code"][:3].isin(["in_batch", None]).all()
    assert "is damaged" in caplog.text
    client = po.Client(scripted.base_url, api_key="sk-none")
    po.collect_batches(tmp_path / "answers.jsonl", client=client, progress=False, lane=lane(), forget="batch_1")
    assert counts(submit(texts(7))) == {"succeeded": 7}
    times = [scripted.billed[text] for text in texts(7)["text"]]
    assert set(times[:3]) <= {1, 2}  # as whoever gives a batch up was told
    assert times[3:] == [1] * 4
