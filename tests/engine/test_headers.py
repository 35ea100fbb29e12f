"""The names that gateways give to their limits, and figures that are no figures."""

from __future__ import annotations

import pytest

from parallel_openai.engine.headers import NAMES, Allowance, allowance, retry_after

SENT = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize("dimension", ["requests", "tokens"])
@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_each_gateways_names_are_read(names: tuple[str, str, str], dimension: str) -> None:
    figures = zip(names, ("600", "599", "2s"), strict=True)
    assert allowance({name.format(dimension): text for name, text in figures}, dimension) == Allowance(600, 599, 2.0)


@pytest.mark.parametrize(
    ("limit", "remaining"),
    [("600", "-1"), ("600", "601"), ("0", "0"), ("-1", "-1"), ("unlimited", "unlimited"), ("600", ""), ("600", "nan")],
)
def test_figures_that_contradict_each_other_say_nothing(limit: str, remaining: str) -> None:
    shown = {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": remaining}
    assert allowance(shown, "requests") is None


def test_names_that_say_nothing_leave_the_word_to_others() -> None:
    shown = {
        "x-ratelimit-limit-tokens": "0",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-api_key-limit-tokens": "9000",
        "x-ratelimit-api_key-remaining-tokens": "8000",
    }
    assert allowance(shown, "tokens") == Allowance(9000, 8000, None)


@pytest.mark.parametrize("local_clock", [0.0, 1792567680.0 - 600, 1792567680.0 + 600])
def test_a_date_to_come_again_is_read_against_the_answers_own_date(local_clock: float) -> None:
    headers = {"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": SENT}
    assert retry_after(headers, now=local_clock) == 10.0


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_without_a_date_of_its_own_the_local_clock_counts(date: str | None) -> None:
    headers = {"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"} | ({} if date is None else {"date": date})
    assert retry_after(headers, now=1792567680.0) == 10.0
