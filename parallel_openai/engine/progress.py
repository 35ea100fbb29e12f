"""Showing how a run stands: a tqdm bar in a terminal or a notebook, plain lines elsewhere. The only door to tqdm."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from parallel_openai.engine.status import StatusTracker

#: Seconds between two plain lines where nobody can see a bar move.
LINE_EVERY = 5.0
#: Seconds over which the rates are taken.
RATE_OVER = 15.0


class Limits(Protocol):
    """The account's limits as they are known now, per minute; None while unknown."""

    @property
    def max_requests_per_minute(self) -> float | None: ...
    @property
    def max_tokens_per_minute(self) -> float | None: ...


class Progress:
    """Shows a run's counters while it goes on, from the thread that waits for it.

    Args:
        status: the counters, read only.
        limits: what the rates are shown against.
        show: False shows nothing at all.
        unit: what is counted, for the bar.

    Call `tick` a few times a second, and `close` with the closing line.
    """

    def __init__(
        self,
        status: StatusTracker,
        limits: Limits,
        *,
        show: bool,
        unit: str = "row",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._limits = limits
        self._clock = clock
        self._history: deque[tuple[float, int, int]] = deque([(clock(), 0, 0)])
        self._next_line = clock() + LINE_EVERY
        self._in_notebook = _in_notebook()
        self._bar = _make_bar(status.num_tasks_total, unit, self._in_notebook) if show else None
        self._lines = show and self._bar is None
        self._unit = unit

    def tick(self) -> None:
        now = self._clock()
        if self._bar is not None:
            self._show_bar(now)
        elif self._lines and now >= self._next_line:
            self._next_line = now + LINE_EVERY
            print(self._line(now), file=sys.stderr, flush=True)

    def close(self, closing_line: str = "") -> None:
        if self._bar is not None:
            self._show_bar(self._clock())
            self._bar.close()
        if closing_line and (self._bar is not None or self._lines):
            print(closing_line, file=sys.stdout if self._in_notebook else sys.stderr, flush=True)

    def _show_bar(self, now: float) -> None:
        bar, status = self._bar, self._status
        assert bar is not None
        bar.set_postfix_str(self._counters(now), refresh=False)
        if bar.total != status.num_tasks_total:
            bar.total = status.num_tasks_total
        bar.n = status.num_tasks_done + status.num_tasks_shared
        bar.refresh()

    def _line(self, now: float) -> str:
        status = self._status
        done = status.num_tasks_done + status.num_tasks_shared
        of = f"/{status.num_tasks_total:,}" if status.num_tasks_total is not None else ""
        return f"{done:,}{of} {self._unit}s done, {self._counters(now)}"

    def _counters(self, now: float) -> str:
        """The counters as one line.

        The rates are per minute, over the last seconds; where a limit is known it stands behind them.
        """
        status = self._status
        requests, tokens = self._rates(now)
        parts = []
        if status.num_tasks_failed:
            parts.append(f"failed {status.num_tasks_failed:,}")
        if status.num_tasks_restored:
            parts.append(f"from journal {status.num_tasks_restored:,}")
        if status.num_retries:
            parts.append(f"retried {status.num_retries:,}")
        parts.append(f"in flight {status.num_tasks_in_progress:,}")
        parts.append(f"{short(requests)}{_of(self._limits.max_requests_per_minute)} req/min")
        parts.append(f"{short(tokens)}{_of(self._limits.max_tokens_per_minute)} tok/min")
        if status.cost_usd:
            parts.append(f"${status.cost_usd:,.4g}")
        return ", ".join(parts)

    def _rates(self, now: float) -> tuple[float, float]:
        status = self._status
        history = self._history
        history.append((now, status.num_requests_sent, status.prompt_tokens + status.completion_tokens))
        while len(history) > 2 and history[1][0] < now - RATE_OVER:
            history.popleft()
        then, sent, tokens = history[0]
        minutes = max(now - then, 1e-9) / 60
        return (history[-1][1] - sent) / minutes, (history[-1][2] - tokens) / minutes


def _make_bar(total: int | None, unit: str, in_notebook: bool) -> Any:
    if in_notebook and _has_widgets():
        from tqdm.notebook import tqdm as widget

        return widget(total=total, unit=unit, dynamic_ncols=True)
    if not in_notebook and not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, dynamic_ncols=True, file=sys.stderr, mininterval=0)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


def _has_widgets() -> bool:
    return importlib.util.find_spec("ipywidgets") is not None


def _of(limit: float | None) -> str:
    return f"/{short(limit)}" if limit is not None else ""


def short(number: float) -> str:
    """A number in four characters or so.

    >>> short(598.4), short(28_340), short(2_000_000)
    ('598', '28.3k', '2M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:.0f}"
