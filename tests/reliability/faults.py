"""A run that meets every kind of fault at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parallel_openai as po
from parallel_openai.local import simulator
from tests.reliability.worker import rows

FAULTS = {
    "fault_500": 0.05,
    "fault_502": 0.01,
    "fault_503": 0.01,
    "fault_429": 0.004,
    "fault_slow_down": 0.001,
    "fault_reset": 0.02,
    "fault_truncated": 0.01,
    "fault_malformed": 0.01,
    "fault_hang": 0.005,
    "fault_error_in_200": 0.01,
    "fault_wrong_type": 0.01,
    "fault_redirect": 0.01,
    "fault_close_keepalive": 0.02,
}


@dataclass
class Outcome:
    """What became of the rows."""

    rows: int
    injected: dict[str, int]
    statuses: dict[str, int]
    failures: dict[str, int]
    unnamed: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether each row has an answer or a named error, and no more failed than would by chance."""
        lost = self.rows - sum(self.statuses.values()) + self.statuses["cancelled"]
        return lost == self.unnamed == 0 and self.statuses["failed"] <= 2 + self.rows * 0.001 + self.huge

    @property
    def huge(self) -> int:
        """Answers that would fill the memory; such a row fails, and is not asked again."""
        return sum(self.injected.get(name, 0) for name in ("gzip_bomb", "endless"))

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows, {sum(self.injected.values()):,} faults injected {self.injected}: {self.statuses}, "
            f"failures {self.failures}, {self.unnamed} without a name, in {self.seconds:.1f} s."
        )


def run_with_faults(folder: Path, count: int, *, huge: float = 0.0, timeout: float = 3.0, **settings: Any) -> Outcome:
    """Ask about so many rows; `huge` is the share of bodies that would fill the memory."""
    settings = {"max_requests_per_minute": 600_000, "latency": 0.02, **FAULTS, **settings}
    settings |= {"fault_gzip_bomb": huge, "fault_endless": huge}
    began = time.monotonic()
    with (
        simulator.serve(separate_process=True, **settings) as server,
        po.Client(server.base_url, timeout=timeout, max_concurrent_requests=50) as client,
    ):
        out = po.process_dataframe(
            rows(count), "text", model="gpt-4o-mini", client=client, progress=False, save_to=folder / "faults.jsonl"
        )
        injected = server.stats(charged=False)["faults"]
    failed = out[out["status"] == "failed"]
    return Outcome(
        count,
        injected,
        {name: int(number) for name, number in out["status"].value_counts().items()},
        {name: int(number) for name, number in failed["error_code"].value_counts().items()},
        int((failed["error_code"].isna() | failed["error"].fillna("").eq("")).sum()),
        time.monotonic() - began,
    )
