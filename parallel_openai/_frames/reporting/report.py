"""What happened in a run, for people."""

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
from parallel_openai._progress.status_tracker import StatusTracker, about_open_requests
from parallel_openai._progress.timeline import Timeline

if TYPE_CHECKING:
    from parallel_openai._display.charts import Figure

#: How many of the slowest rows are kept, and how much of an example's sentence.
SLOWEST = 5
SENTENCE = 300
#: Rows with the very same seconds that are looked at: most often they share one answer, and there may be a million.
ALIKE = 1000
#: Kept from the summary, which travels in the frame's attrs and stays small.
_LARGE = {"large": True}

_last: RunReport | None = None


@dataclass(frozen=True)
class SlowRow:
    """A row whose answer took long: its label in the frame's index, the last attempt's seconds, and its tokens."""

    label: Any
    seconds: float
    attempts: int
    completion_tokens: int | None


@dataclass(frozen=True)
class RunReport(Display):
    """What happened in a run. `print` it for one line; a notebook shows it as a page; `plot` draws it.

    Attributes:
        rows: rows of the frame.
        succeeded: of these, rows with an answer.
        failed: of these, rows that have none and say why.
        cancelled: of these, rows that were not asked to the end.
        restored: answers that were in the journal already.
        shared: rows that asked what another row asked, and share its answer.
        requests_sent: sends, the first ones and the retries.
        retries: sends beyond the first of each request.
        rate_limit_errors: sends that the server refused with 429.
        prompt_tokens: as billed in this run.
        completion_tokens: as billed in this run.
        cost_usd: as billed in this run, in dollars.
        seconds: how long it took.
        ended: `finished`, `interrupted`, `stopped`, `submitted` if its batches go on at the server, or `budget` or
            `deadline` where these were used up.
        errors: failed rows by error code.
        journal: the file of answers.
        simulated: whether answers came from the simulator and not from a model.
        limits: `requests` and `tokens` per minute, as in force at the end; those that are known.
        utilisation: what was used of them between the first send and the last answer; 1 is all of a limit, and more
            than that what the account had saved up.
        latency: seconds from a send to the end of its answer: `p50`, `p90`, `p99` and `longest`.
        refusals: 429s by why: `requests`, `tokens`, `slow_down`, `quota`, or `unknown` if the server does not say.
        waited: seconds that the next request had to wait, by cause: `requests` and `tokens` (the limits), `refused`
            (the server said to wait), `slots` (it took no more at once), `learning` (the limits were not known yet).
        most_at_once: how many requests at once the server takes, if it refuses more; None if it does not.
        advice: what would have made it faster; None if nothing is known to.
        examples: a sentence for each error code.
        slowest: the rows whose answers took longest.
        repairs: bad answers that were asked for once more.
        unpriced: models that answered and whose price is not known, be it that of their sound or their searches;
            `cost_usd` lacks what they cost.
        priced_as: models that answered under a name without a price, with the model that was asked and whose price
            counts instead.
        untold: answers that do not say what they took; tokens and `cost_usd` lack them, and a budget counts the most.
        members: of a `Client.pool`, how each account did: its `name`, `requests_sent`, `answered`, `rate_limit_errors`,
            `other_errors`, `prompt_tokens`, `completion_tokens`, and why it was put `out`, or None.
        most_open_requests: how many requests could be in flight if the process may open no more files; None: all.
        left_in_flight: requests that a run which was stopped left on the wire, since their answers took too long.
        frame: what a run came to that did not come to its end, also where an exception took the place of what it would
            have returned; None for one that did.
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
    left_in_flight: int = 0
    frame: pd.DataFrame | None = field(default=None, repr=False, compare=False, metadata=_LARGE)
    _timeline: Timeline = field(default_factory=Timeline, repr=False, compare=False, metadata=_LARGE)

    @classmethod
    def of(
        cls, status: StatusTracker, *, index: pd.Index[Any], answers: Mapping[str, Any], seconds: float, **rest: Any
    ) -> RunReport:
        """The report of a run from its counters and its columns, under their own names."""
        counts = Counter(answers["status"].tolist())
        course = status.timeline
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
            prompt_tokens=status.prompt_tokens,
            completion_tokens=status.completion_tokens,
            cost_usd=status.cost_usd,
            seconds=seconds,
            errors=dict(Counter(_codes_of_failed(answers)).most_common()),
            limits=_limits(course),
            utilisation={name: round(share, 4) for name, share in course.utilisation().items()},
            latency=_latency(course),
            refusals=dict(course.refusals.most_common()),
            waited={cause: round(waited, 3) for cause, waited in course.waited.items() if waited >= 0.001},
            most_at_once=course.most_at_once,
            advice=str(course.advice) if course.advice is not None else None,
            examples=_examples(answers),
            slowest=tuple(_slowest(index, answers)),
            unpriced=tuple(_unpriced(answers)),
            untold=int(np.sum(pd.notna(answers["model"]) & np.asarray(pd.isna(answers["prompt_tokens"])))),
            members=tuple(status.members),
            _timeline=course,
            **rest,
        )

    @property
    def timeline(self) -> pd.DataFrame:
        """What happened when: a row for each second, or for each 2, 4, ... seconds of a long run.

        The index is the seconds since the beginning. `tokens_charged` is what the sends of that time cost against the
        token limit, `tokens_used` what the answers of that time say they took, `seconds` those answers' mean latency,
        and the limits are those in force.
        """
        course = self._timeline
        frame = pd.DataFrame(
            {
                "width": course.width,
                **{name: [getattr(each, name) for each in course.slices] for name in _COUNTS},
                "seconds": [each.seconds / each.answered if each.answered else np.nan for each in course.slices],
            },
            index=pd.Index(np.arange(len(course.slices)) * course.width, name="second"),
        )
        limits = list(course.limits())
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
        """The report as plain data, without what grows with the run."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata.get("large")}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    def time_spent(self) -> dict[str, float]:
        """Where the run's seconds went, by cause in words; all together they are the run.

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
        """How the rows ended, and what did not go as it should on the way."""
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
            *_counted("duplicates shared an answer", self.shared),
            *_counted("rate-limit refusals waited out", self.rate_limit_errors),
            *_counted("at once is what this server takes", self.most_at_once or 0),
            *([] if self.most_open_requests is None else [Fact(about_open_requests(self.most_open_requests), "")]),
            *_counted(f"bad answer{'s' if self.repairs > 1 else ''} asked for once more", self.repairs),
            *([Fact(f"put out of the pool: {out}", "")] if out else []),
        ]

    def _spent(self) -> list[Fact]:
        """What it took, and how far that is known."""
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,}"
        spent = dollars(self.cost_usd)
        retries = f"{self.retries:,} {'retry' if self.retries == 1 else 'retries'}" if self.retries else ""
        unpriced = f"cost not known (no price for {', '.join(self.unpriced[:3])})"
        p50, p90, p99 = (duration(self.latency.get(name, 0.0)) for name in ("p50", "p90", "p99"))
        return [
            Fact("prompt + completion tokens", tokens, in_line=f"{tokens} tokens"),
            *([Fact("spent", spent, in_line=spent)] if self.cost_usd else []),
            *([Fact(unpriced, "")] if self.unpriced else []),
            *(Fact(f"{answered} at the price of {asked}", "") for answered, asked in list(self.priced_as.items())[:3]),
            *_counted(f"answer{'s' if self.untold > 1 else ''} that do not say what they took", self.untold),
            *_counted("requests sent", self.requests_sent, retries, in_line=""),
            *([Fact("median answer", p50, f"90% within {p90}, 99% within {p99}", "")] if self.latency else []),
        ]


_ENDINGS = {"budget": "the budget is used up", "deadline": "the deadline came"}


def _counted(name: str, count: int, note: str = "", in_line: str | None = None) -> list[Fact]:
    """A count with its name, and how a line says it behind the count; nothing if there is none."""
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


def _limits(course: Timeline) -> dict[str, float]:
    unknown: tuple[float | None, float | None] = (None, None)
    *_, limits = unknown, *course.limits()
    return {name: limit for name, limit in zip(("requests", "tokens"), limits, strict=True) if limit is not None}


def _latency(course: Timeline) -> dict[str, float]:
    seconds = course.latency
    if not seconds.count:
        return {}
    shares = {f"p{percent}": seconds.percentile(percent / 100) for percent in (50, 90, 99)}
    return {name: float(f"{value:.3g}") for name, value in {**shares, "longest": seconds.longest}.items()}


def _examples(answers: Mapping[str, Any]) -> dict[str, str]:
    """The first sentence of each error code."""
    # By the codes alone, since the sentences are long and the rows many.
    first = pd.Series(answers["error_code"]).drop_duplicates().dropna()
    pairs = zip(first, answers["error"][first.index], strict=True)
    return {str(code): "" if pd.isna(sentence) else str(sentence)[:SENTENCE] for code, sentence in pairs}


def _unpriced(answers: Mapping[str, Any]) -> list[str]:
    """The models that answered and whose price is not known."""
    unknown = np.isnan(answers["cost_usd"]) & np.asarray(pd.notna(answers["prompt_tokens"]))
    return sorted({str(model).removesuffix(" (simulated)") for model in answers["model"][unknown].dropna().unique()})


def _slowest(index: pd.Index[Any], answers: Mapping[str, Any]) -> list[SlowRow]:
    seconds = np.asarray(answers["seconds"])
    longest = np.unique(seconds[~np.isnan(seconds)])[: -SLOWEST - 1 : -1]
    rows: list[SlowRow] = []
    seen: set[tuple[float, str]] = set()
    for place in (each for value in longest for each in np.flatnonzero(seconds == value)[:ALIKE]):
        request = (float(seconds[place]), str(answers["request_id"][place]))
        if request in seen:  # a row that shares another's answer
            continue
        seen.add(request)
        tokens = answers["completion_tokens"][place]
        count = None if pd.isna(tokens) else int(tokens)
        rows.append(SlowRow(index[place], request[0], int(answers["attempts"][place]), count))
    return rows[:SLOWEST]


def remember(report: RunReport) -> None:
    global _last
    _last = report


def last_run() -> RunReport | None:
    """The report of this process's latest run; None before the first."""
    return _last
