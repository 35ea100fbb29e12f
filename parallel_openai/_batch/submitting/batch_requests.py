"""Keeps track of a run's requests in batches, and delivers each result to the call or to the journal."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from typing import Any

from parallel_openai._batch.batch_state import answers_by_part
from parallel_openai._batch.collecting.output_lines import NOT_PROCESSED
from parallel_openai._batch.submitting.input_files import UNKNOWN, Row, RowInfo, row_name
from parallel_openai._journal.answer_counts import AnswerCounts
from parallel_openai._journal.digest_index import digest_of
from parallel_openai._journal.entry import JournalEntry, result_line
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.origins import Origin
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest, Attempt, Response, Result, Ruling, Usage
from parallel_openai._requests.endpoints import path_answering, usage_of
from parallel_openai._run.response_verdict import failed_if_empty
from parallel_openai._run.spending.budget import Budget, PriceOf, cost_of
from parallel_openai._run.spending.funds import Reserve


class BatchRequests:
    """Delivers each result to the call that requested it, or else to the journal.

    Batches of earlier calls may contain rows that this call does not request, or not yet.
    """

    def __init__(
        self,
        *,
        # Returns whether the journal has an answer to a row of that name behind an offset, so that no other is kept.
        # One before the plan of the row's part was of no use.
        known: Callable[[str, int], bool] = lambda name, offset: False,
        journal: Journal,  # receives results that this call did not request
        record: bool,  # whether their lines contain a record, and what it says of their origin
        origin: Origin,
        on_result: Callable[[Result], Ruling | None],  # called once for each finished request
        status: StatusTracker,
        budget: Budget | None,  # the most that may be spent
        price: PriceOf | None = None,  # of unusable answers that are billed; None: not known
    ) -> None:
        self._known = known
        self._journal, self._record, self._origin = journal, record, origin
        self._on_result, self._status, self._budget, self._price = on_result, status, budget, price
        self._keys: Counter[str] = Counter()
        self._earlier: Counter[str] = Counter()  # unclaimed rows in parts of earlier calls, by name
        self._without_metadata: Counter[str] = Counter()  # those whose metadata is unknown, by key
        self._answered_since: set[str] = set()  # the names of earlier rows that were answered after they were submitted
        self._names: dict[str, list[str]] = {}  # by key, the names of earlier rows with metadata
        # Metadata for rows of unknown metadata, by key, and of other metadata, by name, from the requests that claimed
        # them.
        self._claimed_metadata: dict[str, deque[Any]] = defaultdict(deque)
        self._waiting: Counter[str] = Counter()  # rows without a result yet, by name
        self._unclaimed: dict[str, list[Result]] = {}  # results that may still be claimed
        self._kept = AnswerCounts()  # answers in the journal from batches that are read again, by part and line
        self._kept_names: Counter[str] = Counter()  # the same answers, by name
        self._reserves: dict[str, list[Reserve]] = {}
        self._billed: dict[str, list[APIRequest]] = {}  # by key, the requests in the status's billed_in_vain

    def add_earlier(self, infos: Iterable[RowInfo], offset: int = 0) -> None:
        """Register the rows of a part of an earlier call, whose plan is at an offset of the journal."""
        for info in infos:
            is_unknown = info.metadata is UNKNOWN
            name = self._name_of(info.key, None if is_unknown else info.metadata)
            if self._known(name, offset):
                self._answered_since.add(name)
            if is_unknown:
                self._without_metadata[info.key] += 1
                continue
            self._earlier[name] += 1
            if name != info.key:
                self._names.setdefault(info.key, []).append(name)

    def find_kept(self, parts: Set[str]) -> None:
        """Find out which answers of these parts are in the journal already, for their files are read again."""
        for part, line in answers_by_part(self._journal.path) if parts else ():
            entry = JournalEntry.read(line) if part in parts else None
            if entry is None or not entry.is_good:
                continue
            with suppress(TypeError):  # not one of our requests, which could not have been sent
                request = APIRequest(entry.body, path=path_answering(entry.body, entry.answer))
                self._kept_names[self._name_of(request.key, entry.metadata)] += 1
                self._kept.put(_digest(part, line), good=True)

    def claim_earlier(self) -> None:
        """Claim all of these that have no answer in the journal."""
        for key, count in self._without_metadata.items():
            self._earlier[self._name_of(key, None)] += count
        self._without_metadata.clear()
        for name, count in self._earlier.items():
            is_answered = name in self._answered_since
            self._waiting[name] = 0 if is_answered else max(0, count - self._kept_names[name])
        self._earlier.clear()

    def claim(self, request: APIRequest) -> bool:
        """Claim a request that an earlier call submitted, perhaps with other metadata; returns False if none did."""
        name = submitted = self._name(request)
        if self._earlier[name] > 0:
            self._earlier[name] -= 1
        elif self._without_metadata[request.key] > 0:
            self._without_metadata[request.key] -= 1
            self._claimed_metadata[request.key].append(request.metadata)
        elif (other := self._with_other_metadata(request)) is not None:
            submitted = other
            self._earlier[other] -= 1
            self._claimed_metadata[other].append(request.metadata)
        else:
            return False
        self._expect(name)
        if self._unclaimed.get(submitted):  # its result came before the budget allowed requesting it
            self._deliver_unclaimed(submitted)
        return True

    def _with_other_metadata(self, request: APIRequest) -> str | None:
        names = (request.key, *self._names.get(request.key, ()))
        return next((name for name in names if self._earlier[name] > 0), None)

    def _deliver_unclaimed(self, name: str) -> None:
        result = self._unclaimed[name].pop()
        self.restore_metadata(result.request)
        if self._name(result.request) != name:
            result = result._replace(restored=False)  # it is in the journal with other metadata
        self.deliver(result)

    def restore_metadata(self, request: APIRequest) -> None:
        """Give a request the metadata of the one that claimed it."""
        is_unknown = request.metadata is UNKNOWN
        claimed = self._claimed_metadata.get(request.key if is_unknown else self._name(request))
        if is_unknown or claimed:
            request.metadata = claimed.popleft() if claimed else None

    def add(self, request: APIRequest) -> Row | None:
        """Add a new request and reserve its worst case; returns None if the budget does not suffice."""
        if not self.reserve(request):
            return None
        self._expect(self._name(request))
        return Row(self._custom_id(request), request)

    def reserve(self, request: APIRequest) -> bool:
        """Reserve the worst case of a request; returns False if the budget does not suffice."""
        if self._budget is None:
            return True
        reserve = self._budget.reserve(request, in_batch=True)
        if reserve is None:
            return False
        self._reserves.setdefault(self._name(request), []).append(reserve)
        return True

    def give_back(self, request: APIRequest) -> None:
        """Undo a claim, as if no earlier call had submitted the request."""
        self._waiting[self._name(request)] -= 1
        self._status.num_tasks_started -= 1

    def waits_for(self, request: APIRequest) -> bool:
        """Whether the request was claimed and has no result yet."""
        return self._waiting[self._name(request)] > 0

    def deliver(self, result: Result, part: str = "") -> None:
        """Deliver a result to the caller if it was claimed, otherwise to the journal, since it is billed anyway.

        Args:
            part: the name of the part whose batch returned it; empty if none did now.
        """
        name = self._name(result.request)
        if not self._record:
            result = failed_if_empty(result)
        if self._is_kept(result, part):
            return
        if self._waiting[name] <= 0:
            if name not in self._answered_since:
                self._journal.append(self._line(result))
                result = result._replace(restored=True)  # whoever claims it need not write it again
            if self._budget is not None:
                self._unclaimed.setdefault(name, []).append(result)
            return
        self._waiting[name] -= 1
        self._forget_bills(result.request)
        self._count_tokens(result.usage)
        self._status.count(result, self._on_result(result))

    def bill(self, request: APIRequest, attempts: tuple[Attempt, ...]) -> None:
        """Book what was billed for a claimed row's last attempt, whose answer is unusable."""
        bill = attempts[-1].bill or {}
        usage = usage_of(bill) or Usage()
        self._count_tokens(usage)
        if self._price is not None:
            cost, _ = cost_of(self._price, bill, usage, request)
            self._status.cost_usd += 0.0 if math.isnan(cost) else cost
        self._forget_bills(request)
        self._status.billed_in_vain[request] = attempts
        self._billed.setdefault(request.key, []).append(request)

    def _forget_bills(self, request: APIRequest) -> None:
        """Forget what was billed in vain for a row that has its result now, whose attempts hold it."""
        for each in self._billed.pop(request.key, ()):  # other objects, if they were read from a part's file
            self._status.billed_in_vain.pop(each, None)

    def settle(self, request: APIRequest, response: Response) -> None:
        """Replace the reserve of a request by what its batch's answer cost."""
        reserves = self._reserves.get(self._name(request))
        if reserves and self._budget is not None:
            self._budget.settle(reserves.pop(), response)

    def release(self, request: APIRequest) -> None:
        """Release the reserve of a request that is not sent in a batch after all."""
        self.settle(request, NOT_PROCESSED)

    def deliver_sent(self, row: Row, result: Result) -> Ruling | None:
        """Deliver the result of a row sent online, where it was counted and its cost settled."""
        self._waiting[self._name(row.request)] -= 1
        self._forget_bills(row.request)
        return self._on_result(result)

    def _is_kept(self, result: Result, part: str) -> bool:
        """Whether the answer is in the journal since an earlier call; each one there is found once."""
        may_be = bool(self._kept_names) and result.status == "succeeded"
        return may_be and self._kept.take(_digest(part, self._line(result) + b"\n"))

    def _line(self, result: Result) -> bytes:
        return result_line(result, record=self._record, origin=self._origin)

    def _name(self, request: APIRequest) -> str:
        return self._name_of(request.key, request.metadata)

    def _name_of(self, key: str, metadata: Any) -> str:
        return row_name(key, metadata, record=self._record)

    def _expect(self, name: str) -> None:
        self._waiting[name] += 1
        self._status.num_tasks_started += 1

    def _custom_id(self, request: APIRequest) -> str:
        """The key, with a number appended for equal requests after the first."""
        count = self._keys[request.key]
        self._keys[request.key] = count + 1
        return f"{request.key}-{count + 1}" if count else request.key

    def _count_tokens(self, usage: Usage | None) -> None:
        if usage is not None:
            self._status.prompt_tokens += usage.prompt_tokens
            self._status.completion_tokens += usage.completion_tokens


def _digest(part: str, line: bytes) -> int:
    return digest_of(part.encode() + b"\n" + line)
