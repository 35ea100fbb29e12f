"""Each result goes to the caller who asked for it, once; what nobody has asked for is paid for, and is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parallel_openai._batch.manage import identity_in_files
from parallel_openai._batch.submitting.batch_requests import BatchRequests
from parallel_openai._batch.submitting.input_files import RowInfo
from parallel_openai._journal.journal import Journal
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Result, Size
from parallel_openai._run.spending.budget import Budget


class Caller:
    """Who asks, with the results that came to it."""

    def __init__(self, journal: Journal, budget: Budget | None = None) -> None:
        self.journal, self.budget = journal, budget
        self.results: list[Result] = []
        self.status = StatusTracker()
        self.asked = BatchRequests(
            identity=identity_in_files,
            known=lambda name: 0,
            journal=journal,
            record=False,
            on_result=self.results.append,  # type: ignore[arg-type]
            status=self.status,
            budget=budget,
        )

    def kept(self) -> int:
        """How many results the journal holds."""
        self.journal.flush()
        return len(self.journal.path.read_bytes().splitlines())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "answers.jsonl") as journal:
        yield journal


def request(metadata: Any = None) -> APIRequest:
    made = APIRequest({"model": "m", "max_tokens": 10}, metadata)
    made.size = Size(50, 200, 10, 1)
    return made


def place(request: APIRequest) -> RowInfo:
    return RowInfo(0, request.key, 0, request.metadata, [])


def answered(request: APIRequest) -> Result:
    return Result(request, "succeeded", {"usage": {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55}})


def failed(request: APIRequest) -> Result:
    return Result(request, "failed", None, "batch_expired")


def test_a_result_goes_to_who_asked_and_is_counted(journal: Journal) -> None:
    caller = Caller(journal)
    row = caller.asked.add(request())
    assert row is not None
    caller.asked.deliver(answered(row.request))
    assert (len(caller.results), caller.status.num_tasks_succeeded, caller.kept()) == (1, 1, 0)
    assert not caller.asked.waits_for(row.request)


def test_a_result_that_nobody_asked_for_is_kept(journal: Journal) -> None:
    caller = Caller(journal)
    caller.asked.add_earlier([place(request())])
    caller.asked.deliver(answered(request()))
    assert (len(caller.results), caller.status.num_tasks_done, caller.kept()) == (0, 0, 1)


def test_what_an_earlier_call_submitted_is_claimed_as_often_as_that(journal: Journal) -> None:
    caller = Caller(journal)
    caller.asked.add_earlier([place(request("a")), place(request("a"))])
    assert [caller.asked.claim(request(each)) for each in ("a", "a", "a", "b")] == [True, True, False, False]


def test_what_comes_before_a_budget_let_it_be_asked_for_is_handed_over_then(journal: Journal) -> None:
    caller = Caller(journal, Budget(tokens=100))
    caller.asked.add_earlier([place(request())])
    caller.asked.deliver(answered(request()))
    assert caller.asked.claim(request())
    assert [result.status for result in caller.results] == ["succeeded"]


def test_the_same_asked_for_two_rows_has_two_names_in_a_batch(journal: Journal) -> None:
    caller = Caller(journal)
    rows = [caller.asked.add(request(each)) for each in ("a", "b")]
    key = request().key
    assert [row and row.custom_id for row in rows] == [key, f"{key}-2"]


@pytest.mark.parametrize(("come", "spent"), [(answered, 55), (failed, 0)], ids=["answered", "failed"])
def test_a_budget_pays_for_answers_alone(journal: Journal, come: Any, spent: int) -> None:
    budget = Budget(tokens=100)
    caller = Caller(journal, budget)
    row = caller.asked.add(request("a"))
    assert row is not None
    assert caller.asked.add(request("b")) is None
    caller.asked.deliver(come(row.request))
    assert budget.spent_tokens == spent
