"""The tables of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_openai._display.blocks import Bar, Bars, Number, Table, number, shortened
from parallel_openai._progress.number_format import duration

SHOWN_ERRORS = 8
#: Smaller shares of the time are omitted.
_MIN_SHARE = 0.005
_LIMITS = {"requests": "the request limit", "tokens": "the token limit", "unknown": "the server did not say why"}
_MEMBER_COUNTS = ("requests_sent", "answered", "rate_limit_errors", "other_errors")


def time_bars(spent: Mapping[str, float], whole: float) -> Bars:
    most = max(whole, 1e-9)
    parts = sorted(spent.items(), key=lambda pair: -pair[1])
    bars = [
        Bar((cause, Number(duration(seconds)), number(min(1.0, seconds / most), ".0%")), seconds)
        for cause, seconds in parts
        if seconds / most >= _MIN_SHARE
    ]
    return Bars("Where the time went", (), bars, most, "seconds")


def refusals_table(refusals: Mapping[str, int]) -> Table:
    rows = [(number(count), _LIMITS.get(why, why)) for why, count in refusals.items()]
    return Table("Rate-limit refusals (429)", (), rows)


def members_table(members: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            str(each["name"]),
            *(number(each[name]) for name in _MEMBER_COUNTS),
            f"put out: {each['out']}" if each["out"] else "",
        )
        for each in members
    ]
    return Table("Accounts of the pool", ("", "sent", "answered", "429s", "other errors", ""), rows)


def errors_table(errors: Mapping[str, int], examples: Mapping[str, str]) -> Table:
    rows = [(number(count), code, examples.get(code, "")) for code, count in list(errors.items())[:SHOWN_ERRORS]]
    if rest := list(errors.values())[SHOWN_ERRORS:]:
        rows.append((number(sum(rest)), f"{len(rest)} other codes", ""))
    return Table("Failed rows", ("", "code", "for example"), rows)


def slowest_table(slowest: Sequence[Any]) -> Table:
    rows = [
        (
            shortened(str(row.label), 60),
            Number(duration(row.seconds)),
            number(row.attempts),
            Number("" if row.completion_tokens is None else f"{row.completion_tokens:,}"),
        )
        for row in slowest
    ]
    return Table("Slowest rows", ("index", "seconds", "attempts", "answer tokens"), rows)
