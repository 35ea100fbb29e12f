"""A run's report as HTML for a notebook: nothing from elsewhere, and the page's own colours, be they light or dark."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from parallel_openai._display.html import facts_in_a_row, number, table, wrap
from parallel_openai._progress.number_format import clock_time, dollars, short

if TYPE_CHECKING:
    from parallel_openai._frames.reporting.report import RunReport

Numbers = npt.NDArray[np.float64]

#: Size of a sparkline and how many points it has at the most.
WIDTH, HEIGHT, POINTS = 320, 64, 160
#: A burst at the start goes out at many times the limit; the line is cut off above so many times it.
TALLEST = 2.0
SHOWN_ERRORS = 8


def page(report: RunReport) -> str:
    parts = [
        _head(report),
        _facts(report),
        f'<div class="po-advice">{escape(report.advice)}.</div>' if report.advice else "",
        _charts(report),
        _time(report),
        _refusals(report),
        _members(report),
        _errors(report),
        _slowest(report),
        f'<div class="po-dim" style="margin-top:10px">Answers: {escape(report.journal)}</div>',
    ]
    return wrap(parts)


def _head(report: RunReport) -> str:
    mark = '<span class="po-mark">SIMULATED answers</span>' if report.simulated else ""
    ended = "" if report.ended == "finished" else f", {escape(report.ended)}"
    return f'<div class="po-head">{mark}{report.rows:,} rows in {_seconds(report.seconds)}{ended}</div>'


def _facts(report: RunReport) -> str:
    facts = [("succeeded", f"{report.succeeded:,}"), ("failed", f"{report.failed:,}")]
    if report.cancelled:
        facts.append(("cancelled", f"{report.cancelled:,}"))
    if report.restored:
        facts.append(("from the journal", f"{report.restored:,}"))
    if report.repairs:
        facts.append(("asked for once more", f"{report.repairs:,}"))
    if report.shared:
        facts.append(("shared an answer", f"{report.shared:,}"))
    facts.append(
        ("requests sent" + (f", {report.retries:,} retries" if report.retries else ""), f"{report.requests_sent:,}")
    )
    facts.append(("prompt + completion tokens", f"{short(report.prompt_tokens)} + {short(report.completion_tokens)}"))
    if report.cost_usd:
        facts.append(("spent", dollars(report.cost_usd)))
    if report.latency:
        facts.append(("median answer", _seconds(report.latency["p50"])))
        facts.append(("90% and 99% within", " and ".join(_seconds(report.latency[name]) for name in ("p90", "p99"))))
    return facts_in_a_row(facts)


def _charts(report: RunReport) -> str:
    timeline = report.timeline
    if len(timeline) < 2:
        return ""
    minutes = timeline["width"].to_numpy() / 60
    # What is charged can be told only where there is a limit to charge it to.
    charged = "tokens_charged" if "tokens" in report.limits else "tokens_used"
    pairs = (
        ("requests", timeline["sent"].to_numpy() / minutes, timeline["max_requests_per_minute"].to_numpy()),
        ("tokens", timeline[charged].to_numpy() / minutes, timeline["max_tokens_per_minute"].to_numpy()),
    )
    ends = clock_time(len(timeline) * float(timeline["width"].iloc[0]))
    charts = "".join(_chart(report, name, rates, limits, ends) for name, rates, limits in pairs)
    return f'<div class="po-charts">{charts}</div>'


def _chart(report: RunReport, name: str, rates: Numbers, limits: Numbers, ends: str) -> str:
    title = f"{name.capitalize()} per minute, {used(report.utilisation.get(name))}"
    return (
        f'<div><h4>{title}</h4>{sparkline(rates, limits, title)}<div class="po-dim" style="display:flex;'
        f'justify-content:space-between;width:{WIDTH}px"><span>0:00</span><span>{ends}</span></div></div>'
    )


def used(share: float | None) -> str:
    """How much of a limit was used, in words.

    >>> used(None), used(0.984), used(6.47)
    ('limit not known', '98% of the limit', '6.5 times the limit (a burst)')
    """
    if share is None:
        return "limit not known"
    # A little above is what any window allows at its edges.
    return f"{share:.0%} of the limit" if share < 1.1 else f"{share:.1f} times the limit (a burst)"


def sparkline(rates: Numbers, limits: Numbers, title: str) -> str:
    """Rates as an area and their limit as a dashed line, over the whole width; the limit's figure stands beside it."""
    rates, limits = _coarser(rates), _coarser(limits)
    known = limits[~np.isnan(limits)]
    highest = max(float(rates.max()), 1.0)
    top = max(min(highest, TALLEST * known.max()), 1.15 * known.max()) if len(known) else 1.1 * highest
    heights = HEIGHT * (1 - np.clip(rates, 0, top) / top)
    edges = np.linspace(0, WIDTH, len(rates) + 1)
    line = " ".join(
        f"{left:.1f},{y:.1f} {right:.1f},{y:.1f}" for left, right, y in zip(edges[:-1], edges[1:], heights, strict=True)
    )
    shapes = (
        f'<polygon points="0,{HEIGHT} {line} {WIDTH},{HEIGHT}" fill="#3b82f6" fill-opacity=".28"/>'
        f'<polyline points="{line}" fill="none" stroke="#3b82f6" stroke-width="1.3"/>'
        f'<line x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}" stroke="currentColor" stroke-opacity=".4"/>'
    )
    if len(known):
        levels = HEIGHT * (1 - limits / top)
        steps = " ".join(
            f"{left:.1f},{y:.1f} {right:.1f},{y:.1f}"
            for left, right, y in zip(edges[:-1], edges[1:], levels, strict=True)
            if y == y
        )
        shapes += f'<polyline points="{steps}" fill="none" stroke="currentColor" stroke-dasharray="4 3"/>'
        shapes += _note(WIDTH, levels[~np.isnan(levels)][-1], f"limit {short(float(known[-1]))}")
    if highest > top or not len(known):
        shapes += _note(0, 0, f"peak {short(highest)}", anchor="start")
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" style="margin-top:13px">{shapes}</svg>'
    )


def _note(x: float, y: float, text: str, anchor: str = "end") -> str:
    return f'<text x="{x}" y="{y - 3:.1f}" text-anchor="{anchor}" fill="currentColor" font-size="10">{text}</text>'


def _coarser(values: Numbers) -> Numbers:
    """At most so many points; each is the mean of those it stands for."""
    group = -(-len(values) // POINTS)
    if group == 1:
        return values
    padded = np.append(values, [values[-1]] * (-len(values) % group))
    means: Numbers = padded.reshape(-1, group).mean(axis=1)
    return means


def _time(report: RunReport) -> str:
    whole = max(report.seconds, 1e-9)
    rows = []
    for cause, seconds in sorted(report.time_spent().items(), key=lambda pair: -pair[1]):
        share = min(1.0, seconds / whole)
        if share < 0.005:
            continue
        bar = (
            '<span style="display:inline-block;width:160px;border-bottom:1px solid rgba(128,128,128,.35)">'
            f'<span style="display:block;height:8px;width:{160 * share:.0f}px;background:#3b82f6"></span></span>'
        )
        rows.append((escape(cause), number(_seconds(seconds)), number(f"{share:.0%}"), bar))
    return table("Where the time went", (), rows)


def _refusals(report: RunReport) -> str:
    names = {"requests": "the request limit", "tokens": "the token limit", "unknown": "the server did not say why"}
    rows = [(number(f"{count:,}"), escape(names.get(why, why))) for why, count in report.refusals.items()]
    return table("Rate-limit refusals (429)", (), rows)


_MEMBER_COUNTS = ("requests_sent", "answered", "rate_limit_errors", "other_errors")


def _members(report: RunReport) -> str:
    rows = [
        (
            escape(str(each["name"])),
            *(number(f"{each[name]:,}") for name in _MEMBER_COUNTS),
            f'<span class="po-dim">{escape("put out: " + str(each["out"]) if each["out"] else "")}</span>',
        )
        for each in report.members
    ]
    head = ("", number("sent"), number("answered"), number("429s"), number("other errors"), "")
    return table("Accounts of the pool", head, rows)


def _errors(report: RunReport) -> str:
    codes = list(report.errors.items())
    rows = [
        (number(f"{count:,}"), escape(code), f'<span class="po-dim">{escape(report.examples.get(code, ""))}</span>')
        for code, count in codes[:SHOWN_ERRORS]
    ]
    if len(codes) > SHOWN_ERRORS:
        rest = codes[SHOWN_ERRORS:]
        rows.append((number(f"{sum(count for _, count in rest):,}"), f"{len(rest)} other codes", ""))
    return table("Failed rows", ("", "code", "for example"), rows)


def _slowest(report: RunReport) -> str:
    rows = [
        (
            escape(str(row.label)[:60]),
            number(_seconds(row.seconds)),
            number(f"{row.attempts}"),
            number("" if row.completion_tokens is None else f"{row.completion_tokens:,}"),
        )
        for row in report.slowest
    ]
    return table("Slowest rows", ("index", number("seconds"), number("attempts"), number("answer tokens")), rows)


def _seconds(seconds: float) -> str:
    """A span of time as people write it.

    >>> _seconds(0.0421), _seconds(2.345), _seconds(64.2), _seconds(3_725)
    ('42 ms', '2.3 s', '1:04', '1:02:05')
    """
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else clock_time(seconds)
