"""Count what happens to a run's requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parallel_openai._progress.timeline import Timeline
from parallel_openai._records import APIRequest, Attempt, Result, Ruling, ruling_of


def about_open_requests(most: int) -> str:
    """A sentence on how the process's limit of open files slowed down a run."""
    return f"only about {most:,} requests at once, since this process may open no more files (ulimit -n)"


def about_busy_server(times: int) -> str:
    """A phrase on how often a server was overloaded or away."""
    return f"{times:,} time{'' if times == 1 else 's'} the server was busy or away"


@dataclass
class StatusTracker:
    """The counters of one run. The runner and the run update them; everything else only reads them.

    Attributes:
        num_tasks_total: requests in the run; None if unknown.
        num_tasks_started: requests started.
        num_tasks_in_progress: requests in flight.
        num_tasks_succeeded: requests with a complete answer, including restored ones.
        num_tasks_restored: of these, those read from the journal.
        num_tasks_to_restore: answers in the journal that are still to be read.
        num_tasks_shared: rows with the same request as another row, which share its answer.
        num_tasks_failed: requests given up.
        num_tasks_waiting: requests waiting for a retry.
        num_tasks_judged: answers of rows with a gold label.
        num_tasks_right: of these, the right ones.
        num_requests_sent: attempts, including retries.
        num_retries: attempts after each request's first.
        num_requests_left: requests in flight that the run abandoned because their answers took too long.
        most_open_requests: how many requests the process could have in flight, if its limit of open files was reached.
        num_repairs: invalid answers that were requested once more.
        num_rate_limit_errors: 429s; they are not counted in the next two.
        num_api_errors: other HTTP errors, and unusable answers.
        num_other_errors: broken connections, timeouts.
        num_busy_errors: of the last two, those of a server that was busy or away.
        time_of_last_rate_limit_error: seconds since 1970; 0 if there was none.
        prompt_tokens: billed in this run.
        completion_tokens: billed in this run.
        cost_usd: billed in this run, in dollars; of models with a known price.
        num_damaged_lines: unreadable lines of the journal, which were skipped.
        billed_in_vain: the attempts of requests that were billed for no answer and have no result yet.
        errors: failed requests by error code.
        note: a remark on the server's state.
        stopping: how to leave at once, while a stopping run waits for answers in flight.
        members: each account's share, for a pool; filled in at the end.
        timeline: what happened when.
        ended: how a file run ended: `finished`, `interrupted`, `stopped`, `submitted` (its batches continue at the
            server), or `budget` or `deadline` if these were used up; empty before.

    >>> status = StatusTracker(num_tasks_total=10)
    >>> status.num_tasks_succeeded += 3; status.num_tasks_failed += 1
    >>> status.num_tasks_done
    4
    """

    num_tasks_total: int | None = None
    num_tasks_started: int = 0
    num_tasks_in_progress: int = 0
    num_tasks_succeeded: int = 0
    num_tasks_restored: int = 0
    num_tasks_to_restore: int = 0
    num_tasks_shared: int = 0
    num_tasks_failed: int = 0
    num_tasks_waiting: int = 0
    num_tasks_judged: int = 0
    num_tasks_right: int = 0
    num_requests_sent: int = 0
    num_retries: int = 0
    num_requests_left: int = 0
    most_open_requests: int | None = None
    num_repairs: int = 0
    num_rate_limit_errors: int = 0
    num_api_errors: int = 0
    num_other_errors: int = 0
    num_busy_errors: int = 0
    time_of_last_rate_limit_error: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    num_damaged_lines: int = 0
    billed_in_vain: dict[APIRequest, Sequence[Attempt]] = field(default_factory=dict, repr=False, compare=False)
    errors: Counter[str] = field(default_factory=Counter)
    note: str = ""
    stopping: str = ""
    members: list[dict[str, Any]] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline, repr=False, compare=False)
    ended: str = ""

    def count(self, result: Result, ruling: Ruling | None) -> APIRequest | None:
        """Count a result by the ruling, or if there is none by its status; return the request to send in its place."""
        if ruling is None and result.status == "succeeded":  # fast path
            self.num_tasks_succeeded += 1
            return None
        ruling = ruling or ruling_of(result)
        self.num_tasks_succeeded += ruling.succeeded
        for code, rows in ruling.failed.items():
            self.count_failed(code, rows)
        return ruling.further

    def count_failed(self, code: str, rows: int = 1) -> None:
        self.num_tasks_failed += rows
        self.errors[code] += rows

    def note_open_requests(self) -> None:
        """Note that no more connection could be opened. When many fail at once, the least number that was in flight is
        what the process could open.
        """
        self.most_open_requests = min(self.num_tasks_in_progress, self.most_open_requests or self.num_tasks_in_progress)

    @property
    def num_tasks_done(self) -> int:
        """Requests that need no more work: succeeded or failed."""
        return self.num_tasks_succeeded + self.num_tasks_failed
