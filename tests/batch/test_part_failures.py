"""A server that is unavailable for one batch holds up neither the others nor the call forever."""

from __future__ import annotations

import time
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._batch.batch_state import Part
from parallel_openai._batch.disk_writes import TooSlowError, download_to
from parallel_openai._batch.part_failures import (
    MAX_INCOMPLETE_CHECKS,
    MAX_LOST_CHECKS,
    IncompleteError,
    LostError,
    PartFailures,
    UnavailableError,
)
from parallel_openai.errors import RunStoppedError
from tests.batch.conftest import Verb, age, counts, lane, texts
from tests.batch.scripted import Asked, Scripted, error


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def looks_until_over(troubles: PartFailures, clock: Clock, *errors: RunStoppedError) -> tuple[int, float]:
    """The number of checks of a part that fails in these ways in turn, and the seconds they take."""
    part = Part("run-0001", "m", "chat/completions", 1, 10, 5, 1, 0.0, record=True, batch_id="batch_1")
    for look in range(10_000):
        troubles.add(part, errors[look % len(errors)])
        if part.is_over:
            return look + 1, clock.now - Clock.now
        while not troubles.is_due(part):
            clock.now += 0.5
    raise AssertionError("for ever")


@pytest.mark.parametrize(
    ("errors", "looks", "seconds"),
    [
        ([LostError("?")], MAX_LOST_CHECKS, 5),
        ([IncompleteError("?")], MAX_INCOMPLETE_CHECKS, 700),
        ([UnavailableError("?")], 3600, 3610),
        ([UnavailableError("?"), IncompleteError("?")], 2 * MAX_INCOMPLETE_CHECKS, 1500),
        ([po.errors.AuthenticationError("?")], 1, 0),
    ],
    ids=["lost", "not whole", "not now", "in turns", "of the account"],
)
def test_a_failing_part_is_checked_a_limited_number_of_times(
    errors: list[RunStoppedError], looks: int, seconds: float
) -> None:
    clock = Clock()
    counted, passed = looks_until_over(PartFailures(60.0, 3600.0, wait=True, clock=clock), clock, *errors)
    assert counted <= looks + 2
    assert seconds / 2 <= passed <= seconds


def test_a_call_that_does_not_wait_checks_three_times() -> None:
    clock = Clock()
    for kind in (LostError, IncompleteError, UnavailableError):
        assert looks_until_over(PartFailures(60.0, 3600.0, wait=False, clock=clock), clock, kind("?"))[0] == 3


def test_a_batch_that_always_fails_does_not_hold_up_the_others(scripted: Scripted, submit: Verb) -> None:
    def on_call(method: str, path: str) -> Any:
        if path.endswith("/batch_1"):
            return 500, error("Broken")
        return None

    scripted.on_call = on_call
    client = po.Client(scripted.base_url, api_key="sk-none", max_wait=1.0)
    began = time.monotonic()
    out = submit(texts(6), client=client, lane=lane(max_requests=2))
    assert time.monotonic() - began < 6
    assert counts(out) == {"succeeded": 4, "cancelled": 2}
    assert "did not show batch_1: HTTP 500: Broken" in out["error"].dropna().iloc[0]


def test_a_long_retry_after_of_one_batch_does_not_hold_up_the_others(scripted: Scripted, submit: Verb) -> None:
    scripted.on_call = lambda method, path: (429, error("Later")) if path.endswith("/batch_1") else None
    scripted.headers = {"retry-after": "3000"}
    client = po.Client(scripted.base_url, api_key="sk-none", max_wait=1.0)
    began = time.monotonic()
    assert counts(submit(texts(4), client=client, lane=lane(max_requests=2))) == {"succeeded": 2, "cancelled": 2}
    assert time.monotonic() - began < 6


def test_a_download_that_is_too_slow_is_given_up(tmp_path: Any) -> None:
    def drop_by_drop() -> None:
        with download_to(tmp_path / "x", 100, 0.05) as write:
            for _ in range(10):
                write(b"x")
                time.sleep(0.02)

    with pytest.raises(TooSlowError):
        drop_by_drop()


def test_a_batch_that_never_ends_is_reported(
    scripted: Scripted, submit: Verb, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.on_end = lambda batch, asked: None
    submit(texts(2), lane=lane(wait=False))
    journal = tmp_path / "answers.jsonl"
    age(journal)
    assert submit(texts(2), lane=lane())["error_code"].eq("in_batch").all()
    assert "Batch batch_1 is in_progress" in caplog.text


def test_an_account_that_refuses_keeps_what_earlier_batches_answered(scripted: Scripted, submit: Verb) -> None:
    def hold(batch: dict[str, Any], asked: Asked) -> None:
        scripted.complete(batch, asked)
        batch["status"] = "in_progress"

    scripted.on_end = hold
    submit(texts(2), lane=lane(wait=False))
    scripted.batches["batch_1"]["status"] = "completed"
    quota = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    scripted.on_call = lambda method, path: (429, quota) if method == "POST" else None
    with pytest.raises(po.errors.QuotaExceededError) as stopped:
        submit(texts(4))
    assert counts(stopped.value.partial) == {"succeeded": 2, "cancelled": 2}


def test_a_refused_part_does_not_stop_the_others(scripted: Scripted, submit: Verb) -> None:
    def end(batch: dict[str, Any], asked: Asked) -> None:
        scripted.complete(batch, asked)
        if len(scripted.batches) == 1:
            scripted.billed.clear()
            batch["output_file_id"] = None
            scripted.end(batch, 0, 0, "failed")
            batch["errors"] = {"data": [{"code": "model_not_found", "message": "No such model.", "line": None}]}

    scripted.on_end = end
    with pytest.raises(po.errors.BatchError, match="No such model") as stopped:
        submit(texts(6), lane=lane(max_requests=2))
    assert counts(stopped.value.partial) == {"succeeded": 4, "cancelled": 2}
    submit(texts(6))
    assert set(scripted.billed.values()) == {1}
