"""Collect a run's answers cell by cell, and make the result columns of them at its end."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._printable import printable
from parallel_openai._records import Result, Usage
from parallel_openai._requests.endpoints import Answer, is_simulated, usage_of
from parallel_openai._requests.template import BadPromptError
from parallel_openai._run.spending.budget import PriceOf, cost_of

#: The columns after the answer's, in this order.
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
#: Of these, whole numbers and others; the rest are texts.
_COUNTS, _AMOUNTS = ("prompt_tokens", "completion_tokens", "attempts"), ("cost_usd", "seconds")


@dataclass(frozen=True)
class Reader:
    """How responses become cells."""

    names: tuple[str, ...]  # the columns made of the answers; the first is the main one
    # Turns a response's JSON into its answer, with the value for the row's cell.
    read: Callable[[Mapping[str, Any]], Answer]
    # Turns each row's value and request key into arrays by column name. With several samples both are lists, with None
    # for a sample without an answer.
    columns: Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)  # plain data for the frame's attrs
    # From a row's number and value, whether it is right; None if unknown. None without gold labels.
    judge: Callable[[int, Any], bool | None] | None = None

    def reading(self, response: Mapping[str, Any]) -> Answer:
        """Read a response; an unexpected one that cannot be read only fails its row."""
        try:
            return self.read(response)
        except Exception as error:  # a server may send anything
            why = f"The answer cannot be read ({type(error).__name__}: {error!s:.200})."
            return Answer(None, None, None, "malformed_response", why, repairable=False)

    @classmethod
    def of_one_column(
        cls, name: str, read: Callable[[Mapping[str, Any]], Answer], column: Callable[[Sequence[Any]], Any]
    ) -> Reader:
        """A reader of answers that fill one column, whose array `column` makes."""
        return cls((name,), read, lambda values, _: {name: column(values)})

    @property
    def name(self) -> str:
        return self.names[0]


def of_choices(readings: Sequence[Answer]) -> Answer:
    """The readings of a response's choices as one, whose value is a list of theirs."""
    wrong = next((each for each in readings if each.error_code is not None), readings[0])
    return wrong._replace(value=[each.value for each in readings])


class Answers:
    """The result cells of a run, by column and slot; a row has a slot for each sample."""

    def __init__(self, rows: int, samples: int, reader: Reader, price: PriceOf) -> None:
        self.rows, self.samples = rows, samples
        self._reader = reader
        self._price = price
        slots = rows * samples
        self._values: list[Any] = [None] * slots
        self.simulated = False
        self.priced_as: dict[str, str] = {}  # models of answers without a price, and the model whose price is used
        self._status: list[str] = ["cancelled"] * slots
        self._cells: dict[str, list[Any]] = {name: [None] * slots for name in COLUMNS[1:]}

    def fill(self, slot: int, result: Result, *, cost: float | None = None) -> bool:
        """Store a result; returns whether it is a valid answer. `cost` is its response's, if known."""
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

    def add_billed(self, slot: int, result: Result) -> None:
        """Add to a slot's tokens and cost what was billed for a result's failed attempts."""
        for each in _billed(result):
            usage = each.usage or Usage()
            amounts = (usage.prompt_tokens, usage.completion_tokens, self.cost(each))
            for name, amount in zip(("prompt_tokens", "completion_tokens", "cost_usd"), amounts, strict=True):
                self._cells[name][slot] = (self._cells[name][slot] or 0) + amount

    def clear(self, slot: int) -> None:
        self._values[slot] = None
        self._status[slot] = "cancelled"
        for cells in self._cells.values():
            cells[slot] = None

    def reject(self, slot: int, error: BadPromptError) -> None:
        self._cells["attempts"][slot] = 0
        self._set_error(slot, error.code, str(error))

    def share(self, slot: int, source: int) -> None:
        """Copy the answer of another slot with the same request; usage is counted only there."""
        self._values[slot] = self._values[source]
        self._status[slot] = self._status[source]
        for cells in self._cells.values():
            cells[slot] = cells[source]
        for name in ("prompt_tokens", "completion_tokens", "cost_usd", "attempts"):
            if self._cells[name][source] is not None:
                self._cells[name][slot] = 0

    def is_right(self, slot: int) -> bool | None:
        judge = self._reader.judge
        return None if judge is None else judge(slot // self.samples, self._values[slot])

    def cancel_rest(self, code: str, error: str) -> None:
        for slot in range(len(self._status)):
            self.cancel(slot, code, error)

    def cancel(self, slot: int, code: str, error: str) -> None:
        """Set the reason in the slot, if it has no result."""
        if self._status[slot] == "cancelled":
            self._cells["error_code"][slot] = code
            self._cells["error"][slot] = error

    def error_code(self, slot: int) -> str | None:
        code: str | None = self._cells["error_code"][slot]
        return code

    @property
    def values(self) -> Sequence[Any]:
        """Each slot's value as it was read; None without an answer."""
        return self._values

    def cost(self, result: Result) -> float:
        """The cost of a result's response in dollars, without earlier attempts; NaN if unknown."""
        if result.usage is None:
            return math.nan
        answered = result.response.get("model")
        cost, model = cost_of(self._price, result.response, result.usage, result.request)
        if model != answered and not math.isnan(cost):
            self.priced_as[str(answered)] = model
        return cost

    def columns(self) -> dict[str, Any]:
        """The result columns, one cell per row; of several samples the worst status, the first error, and the sums."""
        cells, several = self._cells, self.samples > 1
        rows = self._lists if several else list
        makers: dict[str, Callable[[list[Any]], Any]] = {
            **dict.fromkeys(_COUNTS, self._whole_sums if several else _whole),
            **dict.fromkeys(_AMOUNTS, self._sums if several else _real),
            "request_key": (lambda keys: object_column(rows(keys))) if several else _text,
        }
        columns = {**self._reader.columns(rows(self._values), rows(cells["request_key"]))}
        columns["status"] = status_column(self._worst())
        for name in COLUMNS[1:]:
            make = makers.get(name)
            columns[name] = _text(self._firsts(cells[name])) if make is None else make(cells[name])
        return columns

    # These merge the slots of each row; column by column, because there may be millions of rows.

    def _lists(self, slots: Sequence[Any]) -> list[list[Any]]:
        return [list(slots[start : start + self.samples]) for start in range(0, len(slots), self.samples)]

    def _firsts(self, slots: Sequence[Any]) -> list[Any]:
        found = list(slots[:: self.samples])
        for sample in range(1, self.samples):
            later = slots[sample :: self.samples]
            found = [one if one is not None else other for one, other in zip(found, later, strict=True)]
        return found

    def _worst(self) -> list[str]:
        """`succeeded` if all samples are; `cancelled` if one is."""
        found = self._status[:: self.samples]
        for sample in range(1, self.samples):
            later = self._status[sample :: self.samples]
            # In alphabetical order the worse status comes first.
            found = [one if one <= other else other for one, other in zip(found, later, strict=True)]
        return found

    def _sums(self, slots: Sequence[Any]) -> Any:
        """Each row's sum; NaN if all values are missing."""
        totals, none = self._totals(slots)
        totals[none] = np.nan
        return totals

    def _whole_sums(self, slots: Sequence[Any]) -> Any:
        totals, none = self._totals(slots)
        return pd.arrays.IntegerArray(np.minimum(totals, _LARGEST).astype("int64"), none)

    def _totals(self, slots: Sequence[Any]) -> tuple[Any, Any]:
        """Each row's sum, and whether all its values are missing."""
        missing = np.array([value is None for value in slots], dtype=bool).reshape(-1, self.samples)
        numbers = np.array([0.0 if value is None else value for value in slots]).reshape(-1, self.samples)
        return numbers.sum(axis=1), missing.all(axis=1)

    def _fill_usage_of_all(self, slot: int, result: Result) -> None:
        """Store all that was billed for the row: this answer, invalid ones before it, and failed attempts."""
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
    for attempt in result.attempts:
        if attempt.bill is not None:
            yield result._replace(response=attempt.bill, usage=usage_of(attempt.bill))


def text_column(values: Sequence[Any]) -> Any:
    """A string column; lists of strings make an object column."""
    return object_column(values) if list in map(type, values) else _text(values)


def value_column(values: Sequence[Any], dtype: Any = None) -> Any:
    """A column of numbers, booleans or strings if all values have one type, otherwise of objects.

    `dtype` applies to a mix of integers and floats, such as 3 among fractions. No number is rounded for it.

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
    except (TypeError, ValueError, OverflowError):  # fractions although integers were expected
        return object_column(values)


#: The largest 64-bit integer that is a float too; a server may send any number.
_LARGEST = float(2**63 - 1024)
_DTYPES: dict[type, Any] = {float: "Float64", int: "Int64", bool: "boolean", str: "string"}


def _text(values: Sequence[Any]) -> Any:
    try:
        return pd.array(values, dtype="string")
    except UnicodeEncodeError:  # lone surrogates, which JSON can hold but Arrow cannot
        return pd.array(values, dtype="string[python]")


def _whole(values: Sequence[Any]) -> Any:
    return value_column(values, "Int64")


def _real(values: Sequence[Any]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype="float64")


def object_column(values: Sequence[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):  # one by one: NumPy would make lists of equal length two-dimensional
        array[position] = value
    return array


def status_column(values: Sequence[str]) -> Any:
    return pd.Categorical(list(values), categories=["succeeded", "failed", "cancelled"])


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For making millions of cells: looking for garbage among them again and again takes as long as making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
