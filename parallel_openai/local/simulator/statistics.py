"""Counters of the simulator, as `/stats` returns them."""

from __future__ import annotations

from collections import Counter
from typing import Any
from weakref import WeakSet

# Distinct requests that are counted at most; a benchmark of hours must not fill the memory.
MAX_CHARGED = 1_000_000


_NUMBERS = (
    "received accepted answered scripted disconnected in_flight max_in_flight connections tokens_charged prompt_tokens "
    "completion_tokens first_received last_received first_accepted last_accepted"
)


class Ledger:
    """Counts requests, faults and tokens. Times are seconds since the start or the last reset."""

    def __init__(self, max_charged: int = MAX_CHARGED) -> None:
        self.max_charged = max_charged
        self.received = self.accepted = self.answered = self.scripted = self.disconnected = 0
        self.in_flight = self.max_in_flight = 0
        self.tokens_charged: float = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.first_received: float | None = None
        self.last_received: float | None = None
        self.first_accepted: float | None = None
        self.last_accepted: float | None = None
        self.refused: Counter[str] = Counter()
        self.refused_for: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.unknown_paths: Counter[str] = Counter()
        self.charged: Counter[str] = Counter()
        self.charged_undelivered: Counter[str] = Counter()
        self.connections = 0
        self._transports: WeakSet[Any] = WeakSet()
        self._accepted_by_second: Counter[int] = Counter()
        self._tokens_by_second: Counter[int] = Counter()

    def connected(self, transport: Any) -> None:
        if transport is not None and transport not in self._transports:
            self._transports.add(transport)
            self.connections += 1

    def arrive(self, now: float) -> None:
        self.received += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self.first_received is None:
            self.first_received = now
        self.last_received = now

    def leave(self) -> None:
        self.in_flight -= 1

    def accept(self, now: float, tokens: float) -> None:
        self.accepted += 1
        self._accepted_by_second[int(now)] += 1
        if self.first_accepted is None:
            self.first_accepted = now
        self.last_accepted = now
        self.charge_tokens(now, tokens)

    def charge_tokens(self, now: float, tokens: float) -> None:
        self.tokens_charged += tokens
        self._tokens_by_second[int(now)] += round(tokens)

    def refuse(self, code: str, dimension: str | None) -> None:
        self.refused[code] += 1
        if dimension is not None:
            self.refused_for[dimension] += 1

    def bill(self, digest: bytes, *, delivered: bool) -> None:
        """Count one charge for this body, delivered to the client or not."""
        counter, key = self.charged if delivered else self.charged_undelivered, digest.hex()
        if key in counter or len(counter) < self.max_charged:
            counter[key] += 1

    def stats(self, *, with_charged: bool) -> dict[str, Any]:
        stats: dict[str, Any] = {name: getattr(self, name) for name in _NUMBERS.split()}
        for name in ("refused", "refused_for", "statuses", "faults", "unknown_paths"):
            stats[name] = dict(getattr(self, name))
        stats["per_second"] = {
            "accepted": _by_second(self._accepted_by_second),
            "tokens": _by_second(self._tokens_by_second),
        }
        stats["charged_distinct"] = len(self.charged)
        stats["charged_more_than_once"] = sum(times > 1 for times in self.charged.values())
        if with_charged:
            stats["charged"] = dict(self.charged)
            stats["charged_undelivered"] = dict(self.charged_undelivered)
        return stats


def _by_second(counts: Counter[int]) -> list[int]:
    return [counts[second] for second in range(max(counts, default=-1) + 1)]
