"""The run's report as a line, as data, as a page and as a figure."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._display.blocks import Picture
from parallel_openai._frames.reporting.report import RunReport
from parallel_openai._frames.reporting.timeline_pictures import coarser, rates
from parallel_openai.errors import MissingDependencyError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb

PLAIN = RunReport(3, 3, 0, 0, 0, 0, 3, 0, 0, 9, 1, 0.0, 10.0, "finished", {}, "a.jsonl", False)


def report() -> RunReport:
    last = po.last_run()
    assert last is not None
    return last


class Page(HTMLParser):
    """A page's words and tags; fails where a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page(of: RunReport) -> Page:
    return Page(of._repr_html_())


@pytest.fixture
def limited(server: Server) -> Server:
    """An account of 1,200 requests and 60,000 tokens per minute, a second's worth at once."""
    server.set(max_requests_per_minute=1200, max_tokens_per_minute=60_000, burst_seconds=1.0)
    return server


@pytest.fixture
def tried(limited: Server, ask: Verb) -> RunReport:
    """A run of rows that succeed, fail and are not asked at all, longer than a second."""
    limited.set(counting="prompt_plus_max_output", fault_content_filter=0.1, answer_tokens=5)
    texts = [f"row {number}" for number in range(30)]
    ask(pd.DataFrame({"text": [*texts, None]}, index=[f"<i>{n}" for n in range(31)]), "text", max_completion_tokens=90)
    return report()


def test_the_report_has_the_limits_and_their_utilisation(tried: RunReport) -> None:
    assert tried.limits == {"requests": 1200.0, "tokens": 60_000.0}
    assert 0 < tried.utilisation["requests"] < tried.utilisation["tokens"]
    assert tried.waited["tokens"] > 0.5
    assert sum(tried.time_spent().values()) == pytest.approx(tried.seconds)


def test_the_latency_is_reported(server: Server, ask: Verb, reviews: pd.DataFrame) -> None:
    server.set(latency=0.1)
    ask(reviews, "text")
    latency = report().latency
    assert list(latency) == ["p50", "p90", "p99", "longest"]
    assert 0.09 < latency["p50"] <= latency["p99"] <= latency["longest"] < 5


def test_refusals_are_reported_by_cause(server: Server, ask: Verb, reviews: pd.DataFrame) -> None:
    server.set(fault_429=1.0, faulty_attempts=1, fault_429_retry_after=False)
    ask(reviews, "text")
    assert sum(report().refusals.values()) == report().rate_limit_errors == 3


def test_the_closing_line_counts_the_refusals_of_a_busy_server(
    server: Server, ask: Verb, reviews: pd.DataFrame
) -> None:
    server.set(fault_503=1.0, faulty_attempts=1)
    ask(reviews, "text")
    assert report().busy_errors == 3
    assert "3 succeeded, 3 times the server was busy or away, " in str(report())


def test_the_timeline_is_a_frame_of_all_that_was_sent(tried: RunReport) -> None:
    timeline = tried.timeline
    assert timeline.index.name == "second"
    assert timeline["sent"].sum() == tried.requests_sent == 30
    assert timeline["answered"].sum() == 30
    assert timeline["tokens_used"].sum() == tried.prompt_tokens + tried.completion_tokens
    assert timeline["max_tokens_per_minute"].iloc[-1] == 60_000
    assert len(timeline) >= 2


def test_the_summary_is_small_and_plain(tried: RunReport) -> None:
    text = json.dumps(tried.summary())
    assert len(text) < 2000
    assert {"limits", "utilisation", "latency", "refusals", "waited", "advice"} <= tried.summary().keys()
    assert tried.summary().keys().isdisjoint({"timeline", "_timeline", "examples", "slowest"})


def test_a_report_equals_itself_and_its_repr_has_no_histogram(tried: RunReport) -> None:
    assert tried == dataclasses.replace(tried)
    assert len(repr(tried)) < 2000


def test_each_error_has_an_example(tried: RunReport) -> None:
    assert tried.examples.keys() == tried.errors.keys() == {"content_filter", "missing_prompt"}
    assert tried.examples["missing_prompt"] == "The prompt is missing (NaN or None)."


def test_the_slowest_rows_are_listed_by_label_and_a_shared_answer_once(server: Server, ask: Verb) -> None:
    server.set(latency=0.05, latency_sigma=0.5)
    texts = ["same", "same", "same", "same", "b", "c", "d", None]
    ask(pd.DataFrame({"text": texts}, index=list("stuvwxyz")), "text")
    slowest = report().slowest
    assert sorted(row.label for row in slowest) == ["s", "w", "x", "y"]
    assert [row.seconds for row in slowest] == sorted((row.seconds for row in slowest), reverse=True)
    assert (slowest[0].attempts, slowest[0].completion_tokens is not None) == (1, True)


def test_several_samples_of_a_row_have_a_report_too(ask: Verb, reviews: pd.DataFrame) -> None:
    ask(reviews, "text", samples=2)
    assert len(report().slowest) == 3
    assert "6" in page(report()).text


def test_the_html_of_a_report_shows_everything(tried: RunReport) -> None:
    text = page(tried).text
    for words in (
        "31 rows in",
        "SIMULATED answers",
        "succeeded",
        "Requests per minute",
        "Tokens per minute",
        "limit 60k",
        "Where the time went",
        "waiting for the token limit",
        "content_filter",
        "Slowest rows",
        tried.journal,
    ):
        assert words in text, words


def test_the_html_of_a_report_escapes_foreign_text(tried: RunReport) -> None:
    bad = "<script>alert('&')</script>"
    shown = page(
        dataclasses.replace(
            tried, journal=bad, errors={bad: 1}, examples={bad: bad}, ended=bad, advice=bad, waited={bad: 1.0}
        )
    )
    assert "script" not in shown.tags
    assert "i" not in shown.tags  # of the index labels
    assert shown.text.count(bad) == 6


def test_the_html_of_a_report_is_self_contained(tried: RunReport) -> None:
    html = tried._repr_html_()
    assert not re.search(r"https?:|src=|url\(|@import|<link|<script", html)


def test_the_report_of_a_run_that_sent_nothing_is_short(ask: Verb) -> None:
    ask(pd.DataFrame({"text": [None]}), "text")
    shown = page(report())
    assert "svg" not in shown.tags
    assert "missing_prompt" in shown.text
    assert report().timeline.empty
    assert (report().latency, report().utilisation, report().slowest) == ({}, {}, ())


def test_the_report_shows_known_shared_and_cancelled_rows() -> None:
    full = dataclasses.replace(
        PLAIN,
        cancelled=4,
        restored=5,
        shared=6,
        repairs=9,
        retries=7,
        cost_usd=0.00002,
        ended="interrupted",
        waited={"learning": 0.01},
        refusals={"unknown": 8, "requests": 2},
        errors={f"code_{number}": 1 for number in range(12)},
    )
    text = page(full).text
    for words in (
        "cancelled",
        "from the journal",
        "shared an answer",
        "asked for once more",
        "7 retries",
        "<$0.0001",
        "interrupted",
    ):
        assert words in text
    assert "the server did not say why" in text
    assert "sending and answering" in text
    assert "until the limits were known" not in text  # it took no time to speak of
    assert "9 bad answers asked for once more" in str(full)
    assert "4 other codes" in text


def requests_of(sent: list[float], limits: list[float], seconds: float = 60.0) -> Picture:
    """The picture of a timeline, each part of it so long."""
    columns = {"width": seconds, "sent": sent, "refused": 0, "max_requests_per_minute": limits}
    timeline = pd.DataFrame(columns, index=seconds * np.arange(len(sent)))
    return rates("requests", coarser(timeline), None)


def test_charts_of_a_long_run_have_few_points() -> None:
    drawn = requests_of(list(np.arange(1800.0)), [900.0] * 1800)
    assert all(len(curve.y) <= 160 for curve in drawn.curves)


def test_a_chart_without_a_limit_shows_its_peak() -> None:
    [sent] = requests_of([600.0, 300.0], [np.nan, np.nan]).curves
    assert sent.label == "peak 600"


def test_a_burst_does_not_flatten_the_chart() -> None:
    drawn = requests_of([36_000.0, 600.0], [600.0, np.nan])
    assert [curve.label for curve in drawn.curves] == ["peak 36k", "limit 600"]
    assert drawn.y.high == 1200


def test_the_closing_line_proposes_a_smaller_cap(limited: Server, ask: Verb) -> None:
    limited.set(counting="prompt_plus_max_output", answer_tokens=5)
    ask(pd.DataFrame({"text": [f"row {number}" for number in range(40)]}), "text", max_tokens=90)
    advice = report().advice
    assert advice is not None
    assert re.match(r"max_tokens=20 would have been about \d\.\d times as fast \(the longest answer had \d", advice)
    assert f" {advice}. Answers: " in str(report())
    assert advice in page(report()).text


def test_a_tiny_cost_is_not_shown_as_zero() -> None:
    assert ", <$0.0001. Answers: a.jsonl" in str(dataclasses.replace(PLAIN, cost_usd=0.00002))


def test_the_closing_line_counts_interrupted_and_known_rows() -> None:
    line = str(dataclasses.replace(PLAIN, cancelled=4, restored=5, shared=6, rate_limit_errors=7))
    for words in ("4 cancelled", "5 from the journal", "6 duplicates shared an answer", "7 rate-limit refusals"):
        assert words in line
    assert "1 duplicate shared an answer" in str(dataclasses.replace(PLAIN, shared=1))


def test_the_closing_line_of_a_run_that_sent_nothing_speaks_of_no_tokens() -> None:
    assert "tokens" in str(PLAIN)
    assert "tokens" not in str(dataclasses.replace(PLAIN, restored=3, prompt_tokens=0, completion_tokens=0))


@pytest.fixture
def _no_windows() -> Iterator[None]:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


@pytest.mark.usefixtures("_no_windows")
def test_the_plot_shows_throughput_latency_and_time(tried: RunReport) -> None:
    figure = tried.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("Requests per minute, ")
    assert titles[1].startswith("Tokens per minute, ")
    assert titles[2:] == ["Seconds for an answer", "Where the time went"]
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["charged", "used", "limit"]
    figure.canvas.draw()


@pytest.mark.usefixtures("_no_windows")
def test_the_plot_shows_refusals(server: Server, ask: Verb, reviews: pd.DataFrame) -> None:
    server.set(fault_429=1.0, faulty_attempts=1, fault_429_retry_after=False)
    ask(reviews, "text")
    legend = report().plot().axes[0].get_legend()
    assert legend is not None
    assert "refused" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.usefixtures("_no_windows")
def test_a_run_that_sent_nothing_can_be_plotted() -> None:
    PLAIN.plot().canvas.draw()


@pytest.mark.usefixtures("_no_windows")
def test_a_notebook_shows_the_plot_once(tried: RunReport) -> None:
    pytest.importorskip("matplotlib_inline")
    from matplotlib import pyplot

    pyplot.switch_backend("module://matplotlib_inline.backend_inline")
    try:
        figure = tried.plot()
        assert not pyplot.fignum_exists(figure.number)
    finally:
        pyplot.switch_backend("agg")


def test_plotting_without_matplotlib_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        PLAIN.plot()


def test_a_model_without_a_price_is_mentioned_once(ask: Verb) -> None:
    out = ask(pd.DataFrame({"text": list("abc")}), "text", model="my-own-model")
    assert out["cost_usd"].isna().all()
    assert report().unpriced == ("my-own-model",)
    assert str(report()).count("cost not known (no price for my-own-model)") == 1


def test_a_run_of_known_answers_only_does_not_mention_prices(ask: Verb) -> None:
    for _ in range(2):
        ask(pd.DataFrame({"text": list("abc")}), "text", model="my-own-model")
    assert report().requests_sent == 0
    assert "cost not known" not in str(report())
