"""The columns that fill up while a run goes on, and become part of the frame at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._printable import printable
from parallel_openai._records import Result
from parallel_openai._requests.endpoints import Answer, is_simulated, usage_of
from parallel_openai._requests.template import BadPromptError
from parallel_openai._run.spending.budget import cost_of
from parallel_openai._run.spending.caps import prices_at

#: What stands behind the answer, in this order.
COLUMNS = (
    "status",
    "error_code",
    "error",
    "finish_reason",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "attempts",
    "seconds",
    "request_id",
    "request_key",
)


@dataclass(frozen=True)
class Reader:
    """How responses become cells.

    Attributes:
        names: the columns that are made of the answers; the first is the one that everybody looks at.
        read: from a response's JSON to its answer, with the value for the row's cell.
        columns: from the answers' values and the requests' keys, one of each for a row, to the columns' arrays by
            name. Where a row is asked several times both are lists, with None for a sample without an answer.
        about: what the frame's attrs are to say about the answers; plain data.
        judge: from a row's number and its value to whether that is right, where it is known; None where nobody knows.
    """

    names: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Answer]
    columns: Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)
    judge: Callable[[int, Any], bool | None] | None = None

    def reading(self, response: Mapping[str, Any]) -> Answer:
        """What a response says; one that nobody thought of, and that cannot be read, costs its row and no other."""
        try:
            return self.read(response)
        except Exception as error:  # servers answer anything
            why = f"The answer cannot be read ({type(error).__name__}: {error!s:.200})."
            return Answer(None, None, None, "malformed_response", why, repairable=False)

    @classmethod
    def of_one_column(
        cls, name: str, read: Callable[[Mapping[str, Any]], Answer], column: Callable[[Sequence[Any]], Any]
    ) -> Reader:
        """For answers that fill one column; `column` makes its array."""
        return cls((name,), read, lambda values, _: {name: column(values)})

    @property
    def name(self) -> str:
        return self.names[0]


class Answers:
    """One cell for each slot and column; a row has as many slots as samples are asked for.

    Args:
        rows: how many rows.
        samples: how often each is asked.
        reader: how responses become cells.
        base_url: the server, for the price.
    """

    def __init__(self, rows: int, samples: int, reader: Reader, base_url: str) -> None:
        self.rows, self.samples = rows, samples
        self._reader = reader
        self._price = prices_at(base_url)
        slots = rows * samples
        self._values: list[Any] = [None] * slots
        self.simulated = False
        self.priced_as: dict[str, str] = {}  # models that answered and have no price, by whose price counts instead
        self._status: list[str] = ["cancelled"] * slots
        self._cells: dict[str, list[Any]] = {name: [None] * slots for name in COLUMNS[1:]}

    def fill(self, slot: int, result: Result, *, cost: float | None = None) -> bool:
        """Take over a result; gives whether it is an answer after all. `cost` is its response's, if it is known."""
        cells = self._cells
        if cells["request_key"][slot] is not None:
            self.clear(slot)
        cells["request_key"][slot] = result.request.key
        cells["attempts"][slot] = len(result.attempts)
        if result.earlier:
            cells["attempts"][slot] += sum(len(each.attempts) for each in result.earlier)
        if result.attempts:
            last = result.attempts[-1]
            cells["seconds"][slot] = last.seconds
            cells["request_id"][slot] = last.request_id
            if result.earlier or len(result.attempts) > 1 or last.bill is not None:
                self._fill_usage_of_all(slot, result)
        if result.status != "succeeded":
            self._set_error(slot, result.error_code, result.error)
            return False
        if not self.simulated:
            self.simulated = is_simulated(result.response)
        reading = self._reader.reading(result.response)
        self._values[slot] = reading.value
        cells["finish_reason"][slot] = reading.finish_reason
        cells["model"][slot] = reading.model
        if result.usage is not None and cells["prompt_tokens"][slot] is None:
            cells["prompt_tokens"][slot] = result.usage.prompt_tokens
            cells["completion_tokens"][slot] = result.usage.completion_tokens
            cells["cost_usd"][slot] = self.cost(result) if cost is None else cost
        if reading.error_code is not None:
            self._set_error(slot, reading.error_code, reading.error)
            return False
        self._status[slot] = "succeeded"
        return True

    def clear(self, slot: int) -> None:
        """Forget what the slot was filled with."""
        self._values[slot] = None
        self._status[slot] = "cancelled"
        for cells in self._cells.values():
            cells[slot] = None

    def reject(self, slot: int, error: BadPromptError) -> None:
        """The row could not be asked."""
        self._cells["attempts"][slot] = 0
        self._set_error(slot, error.code, str(error))

    def share(self, slot: int, source: int) -> None:
        """Give a row the answer of another that asked the same; what it took is counted once, at the other."""
        self._values[slot] = self._values[source]
        self._status[slot] = self._status[source]
        for cells in self._cells.values():
            cells[slot] = cells[source]
        for name in ("prompt_tokens", "completion_tokens", "cost_usd", "attempts"):
            if self._cells[name][source] is not None:
                self._cells[name][slot] = 0

    def is_right(self, slot: int) -> bool | None:
        """Whether the slot's answer is right, where that is known."""
        judge = self._reader.judge
        return None if judge is None else judge(slot // self.samples, self._values[slot])

    def cancel_rest(self, code: str, error: str) -> None:
        """Say in each slot without a result why the run did not come to it."""
        for slot in range(len(self._status)):
            self.cancel(slot, code, error)

    def cancel(self, slot: int, code: str, error: str) -> None:
        """The same for one slot."""
        if self._status[slot] == "cancelled":
            self._cells["error_code"][slot] = code
            self._cells["error"][slot] = error

    def error_code(self, slot: int) -> str | None:
        """Why the slot has no answer; None when it has one."""
        code: str | None = self._cells["error_code"][slot]
        return code

    @property
    def values(self) -> Sequence[Any]:
        """Each slot's value, as it was read; None where there is none."""
        return self._values

    def cost(self, result: Result) -> float:
        """What a result's own response cost, in dollars; NaN when it is not known."""
        if result.usage is None:
            return math.nan
        asked, answered = str(result.request.model), result.response.get("model")
        cost, model = cost_of(self._price, result.response, result.usage, asked)
        if model != answered and not math.isnan(cost):
            self.priced_as[str(answered)] = model
        return cost

    def columns(self) -> dict[str, Any]:
        """The finished columns, one cell for each row."""
        if self.samples > 1:
            return self._merged_columns()
        cells = self._cells
        return {
            **self._reader.columns(self._values, cells["request_key"]),
            "status": _status_array(self._status),
            "error_code": _text(cells["error_code"]),
            "error": _text(cells["error"]),
            "finish_reason": _text(cells["finish_reason"]),
            "model": _text(cells["model"]),
            "prompt_tokens": _whole(cells["prompt_tokens"]),
            "completion_tokens": _whole(cells["completion_tokens"]),
            "cost_usd": _real(cells["cost_usd"]),
            "attempts": _whole(cells["attempts"]),
            "seconds": _real(cells["seconds"]),
            "request_id": _text(cells["request_id"]),
            "request_key": _text(cells["request_key"]),
        }

    def _merged_columns(self) -> dict[str, Any]:
        """Several samples a row: what is made of their answers, what they took together, what first went wrong."""
        cells = self._cells
        return {
            **self._reader.columns(self._lists(self._values), self._lists(cells["request_key"])),
            "status": _status_array(self._worst()),
            "error_code": _text(self._firsts(cells["error_code"])),
            "error": _text(self._firsts(cells["error"])),
            "finish_reason": _text(self._firsts(cells["finish_reason"])),
            "model": _text(self._firsts(cells["model"])),
            "prompt_tokens": self._whole_sums(cells["prompt_tokens"]),
            "completion_tokens": self._whole_sums(cells["completion_tokens"]),
            "cost_usd": self._sums(cells["cost_usd"]),
            "attempts": self._whole_sums(cells["attempts"]),
            "seconds": self._sums(cells["seconds"]),
            "request_id": _text(self._firsts(cells["request_id"])),
            "request_key": object_column(self._lists(cells["request_key"])),
        }

    # Each of these makes one cell for a row out of those of its slots; by column, since rows come in millions.

    def _lists(self, slots: Sequence[Any]) -> list[list[Any]]:
        return [list(slots[start : start + self.samples]) for start in range(0, len(slots), self.samples)]

    def _firsts(self, slots: Sequence[Any]) -> list[Any]:
        """The first that is there."""
        found = list(slots[:: self.samples])
        for sample in range(1, self.samples):
            later = slots[sample :: self.samples]
            found = [one if one is not None else other for one, other in zip(found, later, strict=True)]
        return found

    def _worst(self) -> list[str]:
        """Succeeded only where all samples are; cancelled where one is."""
        found = self._status[:: self.samples]
        for sample in range(1, self.samples):
            later = self._status[sample :: self.samples]
            # Of the three words, the worse one stands before the better one in the alphabet.
            found = [one if one <= other else other for one, other in zip(found, later, strict=True)]
        return found

    def _sums(self, slots: Sequence[Any]) -> Any:
        """The sum of those that are there; NaN where none is."""
        totals, none = self._totals(slots)
        totals[none] = np.nan
        return totals

    def _whole_sums(self, slots: Sequence[Any]) -> Any:
        totals, none = self._totals(slots)
        return pd.arrays.IntegerArray(np.minimum(totals, _LARGEST).astype("int64"), none)

    def _totals(self, slots: Sequence[Any]) -> tuple[Any, Any]:
        """Each row's sum, and whether there is nothing to sum up."""
        missing = np.array([value is None for value in slots], dtype=bool).reshape(-1, self.samples)
        numbers = np.array([0.0 if value is None else value for value in slots]).reshape(-1, self.samples)
        return numbers.sum(axis=1), missing.all(axis=1)

    def _fill_usage_of_all(self, slot: int, result: Result) -> None:
        """What was billed for the row: this answer, and those before it that were no good or none."""
        results = [each for one in (*result.earlier, result) for each in (*_billed(one), one) if each.usage is not None]
        if not results:
            return
        cells = self._cells
        usages = [each.usage for each in results if each.usage is not None]
        cells["prompt_tokens"][slot] = sum(usage.prompt_tokens for usage in usages)
        cells["completion_tokens"][slot] = sum(usage.completion_tokens for usage in usages)
        cells["cost_usd"][slot] = sum(map(self.cost, results))

    def _set_error(self, slot: int, code: str | None, error: str | None) -> None:
        self._status[slot] = "failed"
        self._cells["error_code"][slot] = code
        self._cells["error"][slot] = printable(error) if error is not None else None


def _billed(result: Result) -> Iterator[Result]:
    """What was billed for its sends that brought no answer."""
    for attempt in result.attempts:
        if attempt.bill is not None:
            yield result._replace(response=attempt.bill, usage=usage_of(attempt.bill))


def text_column(values: Sequence[Any]) -> Any:
    """Answers as text, missing where there is none; lists of them as they are."""
    return object_column(values) if any(isinstance(value, list) for value in values) else _text(values)


def value_column(values: Sequence[Any], dtype: Any = None) -> Any:
    """Answers of any kind: as numbers or text where they are all of one kind, else as they are.

    `dtype` is that of numbers which may be written otherwise: 3 among fractions. No number is rounded for it.

    >>> value_column([1, None]).dtype, value_column([1, 2**63]).dtype, value_column([0.5, 1], "Float64").dtype
    (Int64Dtype(), dtype('O'), Float64Dtype())
    """
    kinds = {type(value) for value in values if value is not None}
    if dtype is None or not kinds <= {int, float}:
        dtype = _DTYPES.get(kinds.pop()) if len(kinds) == 1 else None
    if dtype == "string":
        return _text(values)
    most = {"Int64": 2**63 - 1, "Float64": 2**53}.get(dtype, 0)
    whole = [value for value in values if type(value) is int]
    if dtype is None or (whole and max(max(whole), -min(whole)) > most):
        return object_column(values)
    try:
        return pd.array(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError):  # fractions where whole numbers were asked for
        return object_column(values)


#: The largest whole number of 64 bits that is a float too; a server may make up what it likes.
_LARGEST = float(2**63 - 1024)
_DTYPES: dict[type, Any] = {float: "Float64", int: "Int64", bool: "boolean", str: "string"}


def _text(values: Sequence[Any]) -> Any:
    try:
        return pd.array(values, dtype="string")
    except UnicodeEncodeError:  # lone surrogates, which an answer can hold and Arrow cannot
        return pd.array(values, dtype="string[python]")


def _whole(values: Sequence[Any]) -> Any:
    return value_column(values, "Int64")


def _real(values: Sequence[Any]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype="float64")


def object_column(values: Sequence[Any]) -> Any:
    """Values as they are, also lists of one length."""
    array = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):  # at once, numpy would make lists of one length two-dimensional
        array[position] = value
    return array


def _status_array(values: Sequence[str]) -> Any:
    return pd.Categorical(list(values), categories=["succeeded", "failed", "cancelled"])
