"""`RunReport`: what happened in a run, and its rendering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from parallel_openai._display.blocks import Advice, Block, Fact, Facts, Heading, Picture, Sentence, counted
from parallel_openai._display.charts import draw
from parallel_openai._display.display import Display
from parallel_openai._display.text import to_line
from parallel_openai._frames.reporting.report_tables import (
    errors_table,
    members_table,
    refusals_table,
    slowest_table,
    time_bars,
)
from parallel_openai._frames.reporting.timeline_pictures import coarser, latencies, rates
from parallel_openai._progress.number_format import dollars, duration
from parallel_openai._progress.status_tracker import StatusTracker, about_busy_server, about_open_requests
from parallel_openai._progress.timeline import Timeline

if TYPE_CHECKING:
    from parallel_openai._display.charts import Figure

#: The number of slowest rows, and the most characters of an example's message.
SLOWEST = 5
SENTENCE = 300
#: The most rows to look at that have the same seconds: most of them share one answer, and there may be a million.
ALIKE = 1000
#: Left out of the summary in the frame's attrs, which has to stay small.
_LARGE = {"large": True}

_last: RunReport | None = None


@dataclass(frozen=True)
class SlowRow:
    """A row with a slow answer: its index label, the last attempt's seconds, and its tokens."""

    label: Any
    seconds: float
    attempts: int
    completion_tokens: int | None


@dataclass(frozen=True)
class RunReport(Display):
    """What happened in a run; `print` it for one line, let a notebook show it, or `plot` it.

    Attributes:
        rows: rows of the frame.
        succeeded: of these, rows with an answer.
        failed: of these, rows with an error.
        cancelled: of these, rows whose request was not completed.
        restored: answers that were already in the journal.
        shared: rows with the same request as another row, which share its answer.
        requests_sent: attempts, including retries.
        retries: attempts after each request's first.
        rate_limit_errors: attempts that the server refused with 429.
        prompt_tokens: billed in this run.
        completion_tokens: billed in this run.
        cost_usd: billed in this run, in dollars.
        seconds: the duration.
        ended: `finished`, `interrupted`, `stopped`, `submitted` (its batches continue at the server), or `budget` or
            `deadline` if these were used up.
        errors: failed rows by error code.
        journal: the file of answers.
        simulated: whether answers came from the simulator instead of a model.
        limits: the known ones of `requests` and `tokens` per minute, in force at the end.
        utilisation: the used share of each limit between the first attempt and the last answer; above 1 if the account
            started with unused capacity.
        latency: seconds from sending a request to the end of its answer: `p50`, `p90`, `p99` and `longest`.
        refusals: 429s by reason: `requests`, `tokens`, `slow_down`, `quota`, or `unknown` if the server does not say.
        waited: seconds that the next request had to wait, by cause: `requests` and `tokens` (the limits), `refused`
            (the server asked to wait), `slots` (it accepts no more at once), `learning` (limits not known yet).
        most_at_once: how many concurrent requests the server accepts, if it refused more; otherwise None.
        advice: what would have made the run faster; None if nothing is known.
        examples: a message for each error code.
        slowest: the rows whose answers took longest.
        repairs: invalid answers that were requested once more.
        unpriced: models of answers without a known price, including that of audio and searches; `cost_usd` does not
            include these answers.
        priced_as: models of answers without a price, with the requested model, whose price is used instead.
        untold: answers without usage; tokens and `cost_usd` do not include them, and a budget counts their worst case.
        members: each account of a `Client.pool`: its `name`, `requests_sent`, `answered`, `rate_limit_errors`,
            `other_errors`, `prompt_tokens`, `completion_tokens`, and why it was put `out`, or None.
        most_open_requests: how many requests the process could have in flight, if its limit of open files was reached.
        busy_errors: attempts that failed because the server was busy or away, as with 503.
        left_in_flight: requests in flight that a stopped run abandoned because their answers took too long.
        frame: the partial result of a run that ended early, even if it raised an exception; None if it finished.
    """

    rows: int
    succeeded: int
    failed: int
    cancelled: int
    restored: int
    shared: int
    requests_sent: int
    retries: int
    rate_limit_errors: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    seconds: float
    ended: str
    errors: Mapping[str, int]
    journal: str
    simulated: bool
    limits: Mapping[str, float] = field(default_factory=dict)
    utilisation: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, float] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    waited: Mapping[str, float] = field(default_factory=dict)
    most_at_once: int | None = None
    advice: str | None = None
    examples: Mapping[str, str] = field(default_factory=dict, repr=False, metadata=_LARGE)
    slowest: tuple[SlowRow, ...] = field(default=(), repr=False, metadata=_LARGE)
    repairs: int = 0
    unpriced: tuple[str, ...] = ()
    priced_as: Mapping[str, str] = field(default_factory=dict)
    untold: int = 0
    members: tuple[Mapping[str, Any], ...] = ()
    most_open_requests: int | None = None
    busy_errors: int = 0
    left_in_flight: int = 0
    frame: pd.DataFrame | None = field(default=None, repr=False, compare=False, metadata=_LARGE)
    _timeline: Timeline = field(default_factory=Timeline, repr=False, compare=False, metadata=_LARGE)

    @classmethod
    def of(
        cls, status: StatusTracker, *, index: pd.Index[Any], answers: Mapping[str, Any], seconds: float, **rest: Any
    ) -> RunReport:
        """Make the report from a run's counters and its result columns, named without prefix."""
        counts = Counter(answers["status"].tolist())
        timeline = status.timeline
        return cls(
            rows=len(index),
            succeeded=counts["succeeded"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
            restored=status.num_tasks_restored,
            shared=status.num_tasks_shared,
            requests_sent=status.num_requests_sent,
            retries=status.num_retries,
            repairs=status.num_repairs,
            most_open_requests=status.most_open_requests,
            left_in_flight=status.num_requests_left,
            rate_limit_errors=status.num_rate_limit_errors,
            busy_errors=status.num_busy_errors,
            prompt_tokens=status.prompt_tokens,
            completion_tokens=status.completion_tokens,
            cost_usd=status.cost_usd,
            seconds=seconds,
            errors=dict(Counter(_codes_of_failed(answers)).most_common()),
            limits=_limits(timeline),
            utilisation={name: round(share, 4) for name, share in timeline.utilisation().items()},
            latency=_latency(timeline),
            refusals=dict(timeline.refusals.most_common()),
            waited={cause: round(waited, 3) for cause, waited in timeline.waited.items() if waited >= 0.001},
            most_at_once=timeline.most_at_once,
            advice=str(timeline.advice) if timeline.advice is not None else None,
            examples=_examples(answers),
            slowest=tuple(_slowest(index, answers)),
            unpriced=tuple(_unpriced(answers)),
            untold=int(np.sum(pd.notna(answers["model"]) & np.asarray(pd.isna(answers["prompt_tokens"])))),
            members=tuple(status.members),
            _timeline=timeline,
            **rest,
        )

    @property
    def timeline(self) -> pd.DataFrame:
        """What happened when: a row for each second, or for each 2, 4, ... seconds of a long run.

        The index is seconds since the start. `tokens_charged` is what an interval's attempts cost against the token
        limit, `tokens_used` the usage of its answers, and `seconds` their mean latency.
        """
        timeline = self._timeline
        frame = pd.DataFrame(
            {
                "width": timeline.width,
                **{name: [getattr(each, name) for each in timeline.slices] for name in _COUNTS},
                "seconds": [each.seconds / each.answered if each.answered else np.nan for each in timeline.slices],
            },
            index=pd.Index(np.arange(len(timeline.slices)) * timeline.width, name="second"),
        )
        limits = list(timeline.limits())
        frame["max_requests_per_minute"] = np.array([requests for requests, _ in limits], dtype="float64")
        frame["max_tokens_per_minute"] = np.array([tokens for _, tokens in limits], dtype="float64")
        return frame

    def plot(self) -> Figure:
        """Draw throughput against the limits, latency, and where the time went.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        return draw([self._heading(), *self._pictures(), time_bars(self.time_spent(), self.seconds)])

    def summary(self) -> dict[str, Any]:
        """The report as plain data, without what grows with the number of rows."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata.get("large")}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    def time_spent(self) -> dict[str, float]:
        """The run's seconds by cause, which add up to its duration.

        >>> report = RunReport(1, 1, 0, 0, 0, 0, 1, 0, 0, 9, 1, 0.0, 10.0, "finished", {}, "a.jsonl", False,
        ...                    waited={"tokens": 7.5})
        >>> report.time_spent()
        {'waiting for the token limit': 7.5, 'sending and answering': 2.5}
        """
        waited = {_CAUSES.get(cause, f"waiting ({cause})"): seconds for cause, seconds in self.waited.items()}
        return {**waited, "sending and answering": max(0.0, self.seconds - sum(waited.values()))}

    def __str__(self) -> str:
        return to_line([self._heading(), *self._words()])

    def blocks(self) -> list[Block]:
        facts, *advice, answers = self._words()
        tables = (
            time_bars(self.time_spent(), self.seconds),
            refusals_table(self.refusals),
            members_table(self.members),
            errors_table(self.errors, self.examples),
            slowest_table(self.slowest),
        )
        pictures = self._pictures() if len(self._timeline.slices) > 1 else []
        return [self._heading(), facts, *advice, *pictures, *tables, answers]

    def _heading(self) -> Heading:
        return Heading(f"{counted(self.rows, 'row')} in {self.seconds:,.1f} s", self.simulated)

    def _words(self) -> list[Block]:
        advice = [Advice(f"{self.advice}.")] if self.advice else []
        return [Facts([*self._ends(), *self._spent()]), *advice, Sentence(f"Answers: {self.journal}")]

    def _pictures(self) -> list[Picture]:
        timeline = coarser(self.timeline)
        if timeline.empty:
            return []
        throughput = [rates(name, timeline, self.utilisation.get(name)) for name in ("requests", "tokens")]
        return [*throughput, latencies(timeline, self.latency)]

    def _ends(self) -> list[Fact]:
        kinds = ", ".join(f"{code} {count:,}" for code, count in Counter(self.errors).most_common(4))
        again = "run the same again to go on"
        why = f" ({_ENDINGS[self.ended]})" if self.ended in _ENDINGS else ""
        out = ", ".join(str(each["name"]) for each in self.members if each["out"])
        return [
            Fact("succeeded", f"{self.succeeded:,}"),
            *_counted("failed", self.failed, in_line=f"failed ({kinds})" if kinds else None),
            *_counted("cancelled", self.cancelled, again, in_line=f"cancelled{why}; {again}"),
            *([] if self.ended == "finished" else [Fact("how it ended", self.ended, in_line="")]),
            *_counted("left in flight", self.left_in_flight, "which the server may bill"),
            *_counted("from the journal", self.restored),
            *_counted(f"duplicate{'s' if self.shared > 1 else ''} shared an answer", self.shared),
            *_counted("rate-limit refusals waited out", self.rate_limit_errors),
            *([Fact(about_busy_server(self.busy_errors), "")] if self.busy_errors else []),
            *_counted("at once is what this server takes", self.most_at_once or 0),
            *([] if self.most_open_requests is None else [Fact(about_open_requests(self.most_open_requests), "")]),
            *_counted(f"bad answer{'s' if self.repairs > 1 else ''} asked for once more", self.repairs),
            *([Fact(f"put out of the pool: {out}", "")] if out else []),
        ]

    def _spent(self) -> list[Fact]:
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,}"
        used = self.prompt_tokens or self.completion_tokens
        spent = dollars(self.cost_usd)
        retries = f"{self.retries:,} {'retry' if self.retries == 1 else 'retries'}" if self.retries else ""
        unpriced = f"cost not known (no price for {', '.join(self.unpriced[:3])})"
        p50, p90, p99 = (duration(self.latency.get(name, 0.0)) for name in ("p50", "p90", "p99"))
        return [
            Fact("prompt + completion tokens", tokens, in_line=f"{tokens} tokens" if used else ""),
            *([Fact("spent", spent, in_line=spent)] if self.cost_usd else []),
            *([Fact(unpriced, "")] if self.unpriced and self.requests_sent else []),
            *(Fact(f"{answered} at the price of {asked}", "") for answered, asked in list(self.priced_as.items())[:3]),
            *_counted(f"answer{'s' if self.untold > 1 else ''} that do not say what they took", self.untold),
            *_counted("requests sent", self.requests_sent, retries, in_line=""),
            *([Fact("median answer", p50, f"90% within {p90}, 99% within {p99}", "")] if self.latency else []),
        ]


_ENDINGS = {"budget": "the budget is used up", "deadline": "the deadline came"}


def _counted(name: str, count: int, note: str = "", in_line: str | None = None) -> list[Fact]:
    """A count with its name, and what follows the count in a one-line report; nothing for 0."""
    line = f"{count:,} {in_line}" if in_line else in_line
    return [Fact(name, f"{count:,}", note, line)] if count else []


def _codes_of_failed(answers: Mapping[str, Any]) -> list[str]:
    failed = np.asarray(answers["status"] == "failed")
    codes: list[str] = answers["error_code"][failed].dropna().tolist()
    return codes


_COUNTS = ("sent", "answered", "refused", "failed", "tokens_charged", "tokens_used")
_CAUSES = {
    "requests": "waiting for the request limit",
    "tokens": "waiting for the token limit",
    "refused": "waiting because the server said so",
    "slots": "waiting because the server takes no more at once",
    "learning": "waiting until the limits were known",
}


def _limits(timeline: Timeline) -> dict[str, float]:
    unknown: tuple[float | None, float | None] = (None, None)
    *_, limits = unknown, *timeline.limits()
    return {name: limit for name, limit in zip(("requests", "tokens"), limits, strict=True) if limit is not None}


def _latency(timeline: Timeline) -> dict[str, float]:
    seconds = timeline.latency
    if not seconds.count:
        return {}
    shares = {f"p{percent}": seconds.percentile(percent / 100) for percent in (50, 90, 99)}
    return {name: float(f"{value:.3g}") for name, value in {**shares, "longest": seconds.longest}.items()}


def _examples(answers: Mapping[str, Any]) -> dict[str, str]:
    # Deduplicates only the codes: messages are long and rows are many.
    first = pd.Series(answers["error_code"]).drop_duplicates().dropna()
    pairs = zip(first, answers["error"][first.index], strict=True)
    return {str(code): "" if pd.isna(sentence) else str(sentence)[:SENTENCE] for code, sentence in pairs}


def _unpriced(answers: Mapping[str, Any]) -> list[str]:
    unknown = np.isnan(answers["cost_usd"]) & np.asarray(pd.notna(answers["prompt_tokens"]))
    return sorted({str(model).removesuffix(" (simulated)") for model in answers["model"][unknown].dropna().unique()})


def _slowest(index: pd.Index[Any], answers: Mapping[str, Any]) -> list[SlowRow]:
    seconds = np.asarray(answers["seconds"])
    longest = np.unique(seconds[~np.isnan(seconds)])[: -SLOWEST - 1 : -1]
    rows: list[SlowRow] = []
    seen: set[tuple[float, str]] = set()
    for position in (each for value in longest for each in np.flatnonzero(seconds == value)[:ALIKE]):
        request = (float(seconds[position]), str(answers["request_id"][position]))
        if request in seen:  # the row shares another's answer
            continue
        seen.add(request)
        tokens = answers["completion_tokens"][position]
        count = None if pd.isna(tokens) else int(tokens)
        rows.append(SlowRow(index[position], request[0], int(answers["attempts"][position]), count))
    return rows[:SLOWEST]


def remember(report: RunReport) -> None:
    global _last
    _last = report


def last_run() -> RunReport | None:
    """The report of this process's latest run; None before the first."""
    return _last
