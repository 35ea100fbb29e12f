"""What happened in a run, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parallel_openai.engine.status import StatusTracker

_last: RunReport | None = None


@dataclass(frozen=True)
class RunReport:
    """What happened in a run. `print` it for one line.

    Attributes:
        rows, succeeded, failed, cancelled: rows of the frame by how they ended.
        restored: answers that were in the journal already.
        shared: rows that asked what another row asked, and share its answer.
        requests_sent, retries, rate_limit_errors: what went over the wire.
        prompt_tokens, completion_tokens, cost_usd: as billed in this run; dollars.
        seconds: how long it took.
        ended: `finished`, `interrupted` or `stopped`.
        errors: failed rows by error code.
        journal: the file of answers.
        simulated: whether answers came from the simulator and not from a model.
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

    @classmethod
    def of(cls, status: StatusTracker, *, rows: int, statuses: Any, error_codes: Any, **rest: Any) -> RunReport:
        """The report of a run from its counters, and its rows' statuses and error codes as arrays."""
        counts = Counter(statuses.tolist())
        return cls(
            rows=rows,
            succeeded=counts["succeeded"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
            restored=status.num_tasks_restored,
            shared=status.num_tasks_shared,
            requests_sent=status.num_requests_sent,
            retries=status.num_retries,
            rate_limit_errors=status.num_rate_limit_errors,
            prompt_tokens=status.prompt_tokens,
            completion_tokens=status.completion_tokens,
            cost_usd=status.cost_usd,
            errors=dict(Counter(error_codes.dropna().tolist()).most_common()),
            **rest,
        )

    def summary(self) -> dict[str, Any]:
        """The report as plain data."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        parts = [f"{self.rows:,} rows in {self.seconds:.1f} s: {self.succeeded:,} succeeded"]
        if self.failed:
            kinds = ", ".join(f"{code} {count:,}" for code, count in Counter(self.errors).most_common(4))
            parts.append(f"{self.failed:,} failed" + (f" ({kinds})" if kinds else ""))
        if self.cancelled:
            parts.append(f"{self.cancelled:,} cancelled; run the same again to go on")
        if self.restored:
            parts.append(f"{self.restored:,} from the journal")
        if self.shared:
            parts.append(f"{self.shared:,} duplicates shared an answer")
        if self.rate_limit_errors:
            parts.append(f"{self.rate_limit_errors:,} rate-limit refusals waited out")
        parts.append(f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens")
        if self.cost_usd:
            parts.append(f"${self.cost_usd:,.4g}")
        mark = "SIMULATED answers. " if self.simulated else ""
        return f"{mark}{', '.join(parts)}. Answers: {self.journal}"


def remember(report: RunReport) -> None:
    global _last
    _last = report


def last_run() -> RunReport | None:
    """The report of this process's latest run; None before the first."""
    return _last
