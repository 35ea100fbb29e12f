"""Each of several identical lines gets its own answer, however often its batch's files are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from tests.batch.conftest import lane
from tests.batch.scripted import Asked, Scripted
from tests.batch.test_files import results

Run = Callable[..., po.StatusTracker]


@pytest.fixture
def run(scripted: Scripted, tmp_path: Path) -> Run:
    """Runs a file whose batch numbers its answers, three of its lines being identical."""
    prompts = ["twin", "other", "twin", "twin"]
    lines = [
        {"model": "gpt-4o-mini", "max_tokens": 10, "messages": [{"role": "user", "content": text}]} for text in prompts
    ]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ordinary = scripted.body

    def numbered(asked: dict[str, Any]) -> dict[str, Any]:
        return {"id": f"answer-{scripted.billed.total()}", **ordinary(asked)}

    scripted.body = numbered  # type: ignore[method-assign]

    def call(verb: str = "run", **options: Any) -> po.StatusTracker:
        out = tmp_path / "results.jsonl"
        with po.Client(scripted.base_url, api_key="sk-none", max_attempts=2) as client:
            if verb == "collect":
                return po.collect_batches(out, client=client, progress=False, lane=lane(**options))
            budget = {"budget_usd": options.pop("budget_usd", None)}
            return po.process_api_requests_from_file(
                tmp_path / "requests.jsonl", out, client=client, progress=False, lane=lane(**options), **budget
            )

    return call


def kept(tmp_path: Path) -> list[str]:
    return sorted(entry[1]["id"] for entry in results(tmp_path / "results.jsonl"))  # type: ignore[call-overload, index]


ALL = ["answer-1", "answer-2", "answer-3", "answer-4"]


@pytest.mark.parametrize("order", [1, -1], ids=["as asked", "reversed"])
@pytest.mark.parametrize("verb", ["run", "collect"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_answers_missing_in_a_file_at_first_are_read_by_the_next_call(
    scripted: Scripted, run: Run, tmp_path: Path, rows: int, verb: str, order: int
) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        batch["output_file_id"] = scripted.file(b"".join(list(map(scripted.line, asked))[::order]))
        scripted.end(batch, len(asked), 0)

    def short(method: str, path: str) -> Any:
        file_id = path.removeprefix("/v1/files/").removesuffix("/content")
        if not path.endswith("/content") or scripted.names[file_id] != "output.jsonl":
            return None
        return 200, b"".join(scripted.files[file_id].splitlines(keepends=True)[:rows])

    scripted.on_end, scripted.on_call = end, short
    assert run(wait=False).ended == "submitted"
    assert len(kept(tmp_path)) == rows
    scripted.on_call = lambda method, path: None
    assert run(verb).ended == "finished"
    assert kept(tmp_path) == ALL
    assert run().num_tasks_restored == 4
    assert scripted.billed.total() == 4


@pytest.mark.parametrize("says", ["the same", "numbered"])
@pytest.mark.parametrize("verb", ["run", "collect"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_each_batch_gives_its_own_answers_to_identical_lines_after_a_stop(
    scripted: Scripted, run: Run, tmp_path: Path, done: int, verb: str, says: str
) -> None:
    if says == "the same":
        numbered = scripted.body
        scripted.body = lambda asked: {**numbered(asked), "id": "answer"}  # type: ignore[method-assign]
    waiting: list[Any] = []

    def end(batch: dict[str, Any], asked: Asked) -> None:
        if len(scripted.batches) <= done:
            scripted.complete(batch, asked)
        else:
            waiting.append((batch, asked))

    scripted.on_end = end
    run(wait=False, max_requests=1)
    assert len(kept(tmp_path)) == done
    for batch, asked in waiting:
        scripted.complete(batch, asked)
    assert run(verb).ended == "finished"
    assert kept(tmp_path) == (["answer"] * 4 if says == "the same" else ALL)
    assert run().num_tasks_restored == 4
    assert scripted.billed.total() == 4


def test_answers_that_come_before_their_lines_are_asked_for_are_all_counted(
    scripted: Scripted, run: Run, tmp_path: Path
) -> None:
    submitted: list[Any] = []
    scripted.on_end = lambda batch, asked: submitted.append((batch, asked))
    run(wait=False)
    scripted.complete(*submitted[0])
    requests = tmp_path / "requests.jsonl"
    new = [
        {"model": "gpt-4o-mini", "max_tokens": 9_000, "messages": [{"role": "user", "content": text}]}
        for text in ("before the others", "once the first is paid")
    ]
    requests.write_text("".join(json.dumps(line) + "\n" for line in new) + requests.read_text())
    scripted.on_end = scripted.complete
    status = run(budget_usd=0.004)  # which covers the worst case of one of them
    assert (status.ended, status.num_tasks_succeeded, len(scripted.batches)) == ("finished", 6, 3)
    assert kept(tmp_path) == [*ALL, "answer-5", "answer-6"]


ONE_TO_FOUR = [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1, 2, 3, 4], [5, 6, 7, 8]),
        ([None] * 4, [1, 2, 3, 4]),
        ([1, 2, 3, 4], [None] * 4),
        ([1, 2, 3, 4], [4, 2, 5, 1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("budget_usd", [None, 1.0], ids=["", "with a budget"])
def test_changed_metadata_submits_nothing_again(
    scripted: Scripted, run: Run, tmp_path: Path, before: list[Any], after: list[Any], budget_usd: float | None
) -> None:
    requests = tmp_path / "requests.jsonl"
    lines = [json.loads(line) for line in requests.read_bytes().splitlines()]
    held: list[Any] = []
    scripted.on_end = lambda batch, asked: held.extend((batch, asked))
    for metadata, options in ((before, {"wait": False}), (after, {"budget_usd": budget_usd}), (after, {})):
        written = [json.dumps({**line, "metadata": each}) for line, each in zip(lines, metadata, strict=True)]
        requests.write_text("".join(f"{line}\n" for line in written))
        status = run(**options)
        scripted.on_end = scripted.complete
        if metadata is before:
            scripted.complete(*held)
    assert status.num_tasks_succeeded == 4
    assert scripted.billed.total() == 4
    assert set(kept(tmp_path)) == set(ALL)
