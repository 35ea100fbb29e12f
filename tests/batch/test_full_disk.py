"""A full disk during a batch run: one message, and the results so far."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from tests.batch.conftest import Verb, counts, lane, texts
from tests.batch.scripted import Asked, Scripted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Limit the size of this process's files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def long_answers(scripted: Scripted, size: int) -> Any:
    """Make the last batch's output longer than the limit, outside of the answers."""

    def end(batch: dict[str, Any], asked: Asked) -> None:
        padding = b" " * size if len(scripted.batches) == 3 else b""
        batch["output_file_id"] = scripted.file(b"".join(scripted.line(each)[:-1] + padding + b"\n" for each in asked))
        scripted.end(batch, len(asked), 0)

    return end


def test_a_full_disk_during_a_download_stops_the_call_and_keeps_the_answers_so_far(
    scripted: Scripted, submit: Verb, tmp_path: Path
) -> None:
    scripted.on_end = long_answers(scripted, 40_000)
    with files_up_to(30_000), pytest.raises(po.errors.JournalWriteError, match=r"File too large.*make room") as stopped:
        submit(texts(6), lane=lane(max_requests=2))
    assert counts(stopped.value.partial) == {"succeeded": 4, "cancelled": 2}
    assert stopped.value.partial["error_code"].dropna().tolist() == ["in_batch"] * 2
    assert sum(call.endswith("/content") for call in scripted.calls) == 3
    assert not list(tmp_path.glob("*.batches/*.output"))
    assert counts(submit(texts(6))) == {"succeeded": 6}
    assert set(scripted.billed.values()) == {1}


def test_a_full_disk_while_requests_are_written_stops_the_call_with_its_frame(scripted: Scripted, submit: Verb) -> None:
    df = pd.DataFrame({"text": [f"{number} " * 5_000 for number in range(30)]})
    with files_up_to(150_000), pytest.raises(po.errors.JournalWriteError, match=r"\.batches.*make room") as stopped:
        submit(df)
    assert counts(stopped.value.partial) == {"cancelled": 30}
    assert not scripted.batches
    assert counts(submit(df)) == {"succeeded": 30}


def test_a_full_disk_while_answers_are_written_stops_the_call_with_all_answers(
    scripted: Scripted, submit: Verb
) -> None:
    with files_up_to(9_000), pytest.raises(po.errors.JournalWriteError, match="make room") as stopped:
        submit(texts(40), lane=lane(max_requests=10))
    assert counts(stopped.value.partial)["succeeded"] >= 10
    assert counts(submit(texts(40))) == {"succeeded": 40}
    assert set(scripted.billed.values()) == {1}


def test_a_full_disk_ends_collecting_with_the_same_message(scripted: Scripted, submit: Verb, tmp_path: Path) -> None:
    scripted.on_end = lambda batch, asked: None
    submit(texts(6), lane=lane(max_requests=2, wait=False))
    journal, client = tmp_path / "answers.jsonl", po.Client(scripted.base_url, api_key="sk-none")
    for number, batch in enumerate(scripted.batches.values()):
        asked = [json.loads(line) for line in scripted.files[batch["input_file_id"]].splitlines()]
        padding = b" " * 40_000 if number == 2 else b""
        batch["output_file_id"] = scripted.file(b"".join(scripted.line(each)[:-1] + padding + b"\n" for each in asked))
        scripted.end(batch, len(asked), 0)
    with files_up_to(30_000), pytest.raises(po.errors.JournalWriteError, match="make room"):
        po.collect_batches(journal, client=client, progress=False, lane=lane())
    status = po.collect_batches(journal, client=client, progress=False, lane=lane())
    assert (status.num_tasks_succeeded, status.ended) == (2, "finished")
