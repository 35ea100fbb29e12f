"""A batch whose id was never recorded is found again, and no second one is created."""

from __future__ import annotations

import re
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from tests.batch.conftest import Verb, age, counts, lane, texts
from tests.batch.scripted import Scripted, error


class LateList:
    """Drop the reply to the first request for a batch, and list the batch only after some listings."""

    def __init__(self, scripted: Scripted, looks: int, *left_out: str, says: Any = None) -> None:
        self.scripted, self.looks, self.left_out = scripted, looks, left_out
        self.says = says or (502, error("Bad gateway"))
        self.content: bytes | None = None

    def __call__(self, method: str, path: str) -> Any:
        scripted = self.scripted
        if path != "/v1/batches":
            return None
        if method == "POST" and self.content is None:
            self.content = scripted.content
            scripted.answer(method, path, scripted.content)
            return self.says
        if method == "GET":
            self.looks -= 1
            if self.looks >= 0:
                return 200, {"data": [], "has_more": False}
            listed = [{k: v for k, v in each.items() if k not in self.left_out} for each in scripted.batches.values()]
            return 200, {"data": listed, "has_more": False}
        return None


@pytest.mark.parametrize("left_out", ["nothing", "metadata", "input_file_id"])
def test_a_list_that_lags_behind_or_is_incomplete_is_checked_again(
    scripted: Scripted, submit: Verb, left_out: str
) -> None:
    scripted.on_call = LateList(scripted, 2, left_out)
    assert counts(submit(texts(3))) == {"succeeded": 3}
    assert set(scripted.billed.values()) == {1}


def test_a_batch_created_without_an_id_is_searched_for_too(scripted: Scripted, submit: Verb) -> None:
    scripted.on_call = LateList(scripted, 1, says=(200, {"object": "batch"}))
    assert counts(submit(texts(3))) == {"succeeded": 3}
    assert len(scripted.batches) == 1


def test_without_the_list_no_batch_is_created_twice(scripted: Scripted, submit: Verb, tmp_path: Path) -> None:
    late = LateList(scripted, 0)
    endless = {"data": [{"id": "batch_of_others", "metadata": ["odd"]}, 7], "has_more": True}
    lists = cycle([(200, endless), (200, endless), (404, error("No")), (500, error("No")), (403, error("No"))])
    scripted.on_call = lambda method, path: (
        next(lists) if (method, path) == ("GET", "/v1/batches") else late(method, path)
    )
    client = po.Client(scripted.base_url, api_key="sk-none", max_attempts=1, max_wait=0.1)
    ask = partial(submit, client=client)
    out = ask(texts(3))
    assert out["error_code"].eq("in_batch").all()
    journal = tmp_path / "answers.jsonl"
    age(journal)
    with pytest.raises(po.errors.BatchError, match="would be billed twice") as stopped:
        ask(texts(4))
    assert len(scripted.batches) == 1
    found = re.search(r"forget='([^']+)'", str(stopped.value))
    assert found is not None
    scripted.on_call = lambda method, path: None
    assert counts(ask(texts(4))) == {"succeeded": 4}
    assert set(scripted.billed.values()) == {1}


def test_a_batch_created_before_a_kill_is_found_by_its_file_in_a_list_without_metadata(
    scripted: Scripted, submit: Verb, tmp_path: Path
) -> None:
    journal = tmp_path / "answers.jsonl"
    submit(texts(3), lane=lane(wait=False))
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    age(journal)
    for batch in scripted.batches.values():
        batch["metadata"] = None
    assert counts(submit(texts(3))) == {"succeeded": 3}
    assert set(scripted.billed.values()) == {1}


@pytest.mark.parametrize("status", [403, 404, 500])
def test_while_the_list_is_refused_a_batch_that_may_exist_is_kept(
    scripted: Scripted, submit: Verb, status: int
) -> None:
    late = LateList(scripted, 0)
    scripted.on_call = lambda method, path: (
        (status, error("No")) if (method, path) == ("GET", "/v1/batches") else late(method, path)
    )
    client = po.Client(scripted.base_url, api_key="sk-none", max_attempts=1, max_wait=0.1)
    out = submit(texts(3), client=client, lane=lane(wait=False))
    assert out["error_code"].eq("in_batch").all()
    scripted.on_call = lambda method, path: None
    assert counts(submit(texts(3), client=client)) == {"succeeded": 3}
    assert set(scripted.billed.values()) == {1}
