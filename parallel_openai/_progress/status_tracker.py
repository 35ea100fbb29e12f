"""Counting what happens to a run's requests. The engine and the run count; whoever shows the counts only reads them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from parallel_openai._progress.timeline import Timeline
from parallel_openai._records import APIRequest, Result, Ruling, as_it_says


def about_open_requests(most: int) -> str:
    """How a limit of the process kept a run slow."""
    return f"only about {most:,} requests at once, since this process may open no more files (ulimit -n)"


@dataclass
class StatusTracker:
    """How a run stands. One is made for a run; it is written by the engine and by the run it belongs to, and whoever
    shows it only reads it.

    Attributes:
        num_tasks_total: requests in the run, if that is known beforehand.
        num_tasks_started: requests taken up.
        num_tasks_in_progress: requests on the wire now.
        num_tasks_succeeded: requests with a complete answer, restored ones included.
        num_tasks_restored: of these, those read from the journal.
        num_tasks_to_restore: answers that the journal is known to hold and that are still to be read.
        num_tasks_shared: rows that ask what another row asks and share its answer.
        num_tasks_failed: requests given up.
        num_tasks_waiting: requests that wait to be sent again.
        num_tasks_judged: answers of rows whose right answer is known.
        num_tasks_right: of these, the right ones.
        num_requests_sent: sends, the first ones and the retries.
        num_retries: sends beyond each request's first.
        num_requests_left: requests on the wire that a run left there, since their answers took too long.
        most_open_requests: how many could be on the wire at once if the process may open no more files; None: all.
        num_repairs: answers that were no good and asked for once more.
        num_rate_limit_errors: 429s; they are not counted in the next two.
        num_api_errors: other HTTP errors, and answers that were no good.
        num_other_errors: broken connections, timeouts.
        time_of_last_rate_limit_error: seconds since 1970; 0 when there was none.
        prompt_tokens: as billed in this run.
        completion_tokens: as billed in this run.
        cost_usd: as billed in this run, in dollars; of models with a known price.
        num_damaged_lines: lines of the journal that could not be read and were passed over.
        errors: failed requests by error code.
        note: how things stand at the server, if there is more to say than the counts.
        stopping: while a run that sends nothing more waits for the answers on their way, how to leave at once.
        members: of a pool, how each account did; filled in at the end.
        timeline: what happened when.
        ended: how a run on files ended: `finished`, `interrupted`, `stopped`, `submitted` if its batches go on at
            the server, or `budget` or `deadline` where these were used up; empty before.

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
    time_of_last_rate_limit_error: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    num_damaged_lines: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    note: str = ""
    stopping: str = ""
    members: list[dict[str, Any]] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline, repr=False, compare=False)
    ended: str = ""

    def count(self, result: Result, ruling: Ruling | None) -> APIRequest | None:
        """Count what a request came to, as those who asked rule, or else as the result says. Gives what is sent in its
        place."""
        if ruling is None and result.status == "succeeded":  # as nearly always
            self.num_tasks_succeeded += 1
            return None
        ruling = ruling or as_it_says(result)
        self.num_tasks_succeeded += ruling.succeeded
        for code, rows in ruling.failed.items():
            self.count_failed(code, rows)
        return ruling.further

    def count_failed(self, code: str, rows: int = 1) -> None:
        self.num_tasks_failed += rows
        self.errors[code] += rows

    def note_open_requests(self) -> None:
        """One more could not be opened beside those on the wire. Many that are begun at once fail together, and the
        least that were left when one failed are those that could be."""
        self.most_open_requests = min(self.num_tasks_in_progress, self.most_open_requests or self.num_tasks_in_progress)

    @property
    def num_tasks_done(self) -> int:
        """Requests that need no more work: succeeded or failed."""
        return self.num_tasks_succeeded + self.num_tasks_failed
