"""Each result is delivered once, to the call that claimed it; an unclaimed one, which is billed too, is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parallel_openai._batch.collecting.output_lines import NOT_PROCESSED
from parallel_openai._batch.submitting.batch_requests import BatchRequests
from parallel_openai._batch.submitting.input_files import RowInfo
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.origins import here
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result, Size
from parallel_openai._run.spending.budget import Budget

PLACE = "http://127.0.0.1:9/v1"


class Caller:
    """A call, with the results delivered to it."""

    def __init__(self, journal: Journal, budget: Budget | None = None, *, record: bool = False) -> None:
        self.journal, self.budget = journal, budget
        self.results: list[Result] = []
        self.status = StatusTracker()
        self.requests = BatchRequests(
            journal=journal,
            record=record,
            origin=here(PLACE),
            on_result=self.results.append,  # type: ignore[arg-type]
            status=self.status,
            budget=budget,
        )

    def kept(self) -> int:
        """The number of results in the journal."""
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
    usage = {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55}
    return Result(request, "succeeded", {"choices": [{"message": {"content": "Good."}}], "usage": usage})


def test_a_result_goes_to_the_call_that_claimed_it_and_is_counted(journal: Journal) -> None:
    caller = Caller(journal)
    row = caller.requests.add(request())
    assert row is not None
    caller.requests.deliver(answered(row.request))
    assert (len(caller.results), caller.status.num_tasks_succeeded, caller.kept()) == (1, 1, 0)
    assert not caller.requests.waits_for(row.request)


def test_an_unclaimed_result_is_kept_in_the_journal(journal: Journal) -> None:
    caller = Caller(journal)
    caller.requests.add_earlier([place(request())])
    caller.requests.deliver(answered(request()))
    assert (len(caller.results), caller.status.num_tasks_done, caller.kept()) == (0, 0, 1)


def test_an_unclaimed_result_of_a_frame_is_kept_with_its_origin(journal: Journal) -> None:
    caller = Caller(journal, record=True)
    caller.requests.deliver(answered(request()))
    journal.flush()
    entry = JournalEntry.read(journal.path.read_bytes())
    assert entry is not None
    assert entry.origin == here(PLACE)


def test_an_earlier_row_is_claimed_as_often_as_it_was_submitted(journal: Journal) -> None:
    caller = Caller(journal)
    caller.requests.add_earlier([place(request("a")), place(request("a"))])
    assert [caller.requests.claim(request(each)) for each in ("a", "a", "a", "b")] == [True, True, False, False]


def test_a_result_that_arrives_before_its_claim_is_delivered_with_the_claim(journal: Journal) -> None:
    caller = Caller(journal, Budget(tokens=100))
    caller.requests.add_earlier([place(request())])
    caller.requests.deliver(answered(request()))
    assert caller.requests.claim(request())
    assert [(result.status, result.restored) for result in caller.results] == [("succeeded", True)]
    assert caller.kept() == 1


def test_equal_requests_of_two_rows_have_two_custom_ids(journal: Journal) -> None:
    caller = Caller(journal)
    rows = [caller.requests.add(request(each)) for each in ("a", "b")]
    key = request().key
    assert [row and row.custom_id for row in rows] == [key, f"{key}-2"]


USAGE = {"prompt_tokens": 50, "completion_tokens": 5, "total_tokens": 55}
ANSWERED, UNSAID = (Response(200, {}, b"", data, 0.0) for data in ({"choices": [], "usage": USAGE}, None))


@pytest.mark.parametrize(
    ("come", "spent"), [(ANSWERED, 55), (NOT_PROCESSED, 0), (UNSAID, 110)], ids=["answered", "not processed", "unsaid"]
)
def test_a_budget_pays_for_what_is_or_may_be_billed(journal: Journal, come: Response, spent: int) -> None:
    budget = Budget(tokens=100)
    caller = Caller(journal, budget)
    row = caller.requests.add(request("a"))
    assert row is not None
    assert caller.requests.add(request("b")) is None
    caller.requests.settle(row.request, come)
    assert budget.spent_tokens == spent
