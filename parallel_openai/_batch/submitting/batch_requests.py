"""What is asked of a run through the Batch API, and to whom each result goes."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

from parallel_openai._batch.submitting.input_files import UNKNOWN, Place, Row
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Response, Result, Ruling
from parallel_openai._run.spending.budget import Budget, Reserve

#: A refusal, which releases a reserve without a cost; a 408 may have been billed.
_NOTHING = Response(400, {}, b"", None, 0.0)


class BatchRequests:
    """Brings each result to the caller who asked for it, or into the journal where nobody has.

    Batches of earlier calls may hold rows that this call does not ask for, or not yet.

    Args:
        identity: the name by which a row is known, from its request's key and its metadata.
        known: how many good answers the journal has under such a name.
        journal: where a result goes that nobody asked for.
        record: whether its line is written with a record.
        on_result: called once for each request that came to its end.
        status: where requests are counted.
        budget: what may be spent.
    """

    def __init__(
        self,
        *,
        identity: Callable[[str, Any], str],
        known: Callable[[str], int],
        journal: Journal,
        record: bool,
        on_result: Callable[[Result], Ruling | None],
        status: StatusTracker,
        budget: Budget | None,
    ) -> None:
        self._identity, self._known = identity, known
        self._journal, self._record = journal, record
        self._on_result, self._status, self._budget = on_result, status, budget
        self._keys: Counter[str] = Counter()
        self._earlier: Counter[str] = Counter()  # rows in parts of earlier calls that nobody has asked for yet
        self._nameless: Counter[str] = Counter()  # the same for rows of unknown metadata, by their keys
        self._lent: dict[str, deque[Any]] = defaultdict(deque)  # the metadata of those who asked for these
        self._waiting: Counter[str] = Counter()  # rows that wait for their result
        self._unasked: dict[str, Result] = {}  # results that may still be asked for
        self._reserves: dict[str, list[Reserve]] = {}

    def add_earlier(self, places: Iterable[Place]) -> None:
        """These rows are in a part of an earlier call."""
        for place in places:
            if place.metadata is UNKNOWN:
                self._nameless[place.key] += 1
            else:
                self._earlier[self._identity(place.key, place.metadata)] += 1

    def ask_for_earlier(self) -> None:
        """Ask for all of them that have no answer yet."""
        for key, count in self._nameless.items():
            self._earlier[self._identity(key, None)] += count
        self._nameless.clear()
        for name, count in self._earlier.items():
            self._waiting[name] = max(0, count - self._known(name))
        self._earlier.clear()

    def claim(self, request: APIRequest) -> bool:
        """Ask for a request that an earlier call has submitted; False where none has."""
        name = self._name(request)
        if self._earlier[name] > 0:
            self._earlier[name] -= 1
        elif self._nameless[request.key] > 0:
            self._nameless[request.key] -= 1
            self._lent[request.key].append(request.metadata)
        else:
            return False
        self._expect(name)
        if name in self._unasked:  # it came before the source, held up by a budget, came to ask for it
            self.deliver(self._unasked.pop(name))
        return True

    def name_again(self, request: APIRequest) -> None:
        """Give a request of unknown metadata those of somebody who asked for it."""
        if request.metadata is UNKNOWN:
            lent = self._lent[request.key]
            request.metadata = lent.popleft() if lent else None

    def take_up(self, request: APIRequest) -> Row | None:
        """Ask for a new request, with its worst case set aside; None where the budget does not suffice."""
        name = self._name(request)
        if self._budget is not None:
            reserve = self._budget.reserve(request, in_batch=True)
            if reserve is None:
                return None
            self._reserves.setdefault(name, []).append(reserve)
        self._expect(name)
        return Row(self._custom_id(request), request)

    def waits_for(self, request: APIRequest) -> bool:
        """Whether somebody who asked for it has no result yet."""
        return self._waiting[self._name(request)] > 0

    def deliver(self, result: Result) -> None:
        """To the caller where it asked for it; else, since it is paid for, into the journal all the same."""
        name = self._name(result.request)
        if self._waiting[name] <= 0:
            if not self._known(name):
                self._journal.append(result_line(result, record=self._record))
            if self._budget is not None:
                self._unasked[name] = result
            return
        self._waiting[name] -= 1
        self._count_tokens(result)
        self._settle(name, result.response)
        self._status.count(result, self._on_result(result))

    def release(self, row: Row) -> None:
        """The row is sent the usual way, where its worst case is set aside anew."""
        self._settle(self._name(row.request), None)

    def deliver_sent(self, row: Row, result: Result) -> Ruling | None:
        """To the caller, of a row that was sent, counted and paid the usual way."""
        self._waiting[self._name(row.request)] -= 1
        return self._on_result(result)

    def _name(self, request: APIRequest) -> str:
        return self._identity(request.key, request.metadata)

    def _expect(self, name: str) -> None:
        self._waiting[name] += 1
        self._status.num_tasks_started += 1

    def _custom_id(self, request: APIRequest) -> str:
        """The key; with a number behind it where the same is asked several times."""
        count = self._keys[request.key]
        self._keys[request.key] = count + 1
        return f"{request.key}-{count + 1}" if count else request.key

    def _count_tokens(self, result: Result) -> None:
        if result.usage is not None:
            self._status.prompt_tokens += result.usage.prompt_tokens
            self._status.completion_tokens += result.usage.completion_tokens

    def _settle(self, name: str, answer: Any) -> None:
        reserves = self._reserves.get(name)
        if reserves and self._budget is not None:
            response = _NOTHING if answer is None else Response(200, {}, b"", answer, 0.0)
            self._budget.settle(reserves.pop(), response)


class Source:
    """The requests; one of them can be put back."""

    def __init__(self, requests: Iterable[APIRequest | None]) -> None:
        self._requests = iter(requests)
        self._back: list[APIRequest] = []

    def put_back(self, request: APIRequest) -> None:
        self._back.append(request)

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> APIRequest | None:
        return self._back.pop() if self._back else next(self._requests)
