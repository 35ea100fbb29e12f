"""Showing how a run stands: a tqdm bar in a terminal or a notebook, plain lines elsewhere. The only door to tqdm."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from parallel_openai.engine.status import StatusTracker

#: Seconds between two plain lines where nobody can see a bar move; they come further apart as the run gets longer.
LINE_EVERY = 5.0
LINE_AT_LEAST_EVERY = 60.0
#: Seconds over which the rates are taken, and how long a run must have lasted before they say anything.
RATE_OVER = 15.0
RATE_AFTER = 2.0

# The bar itself keeps this many columns at least, and the end of the line stays free, so that the terminal's echo of
# Ctrl-C does not push it into a second line.
_BAR_COLUMNS = 10
_FREE_COLUMNS = 3
# A notebook does not tell its width.
_NOTEBOOK_COLUMNS = 100


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
        unit: what is counted.

    Call `tick` a few times a second, and `close` with the closing line. Where the screen is gone (a closed pipe, say),
    the run goes on without it.
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
        self._counters = Counters(status, limits, unit, clock)
        self._screen: _Screen = _find_screen(status.num_tasks_total, unit) if show else _Nothing()

    def tick(self) -> None:
        self._try(lambda: self._screen.show(self._counters))

    def close(self, closing_line: str = "") -> None:
        self._counters.finish()
        self._try(lambda: self._screen.close(self._counters, closing_line))
        self._screen = _Nothing()

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError):  # ValueError: the stream was closed. The answers are worth more than the bar.
            self._screen = _Nothing()


class Part(NamedTuple):
    """A piece of the counters' line; where there is no room for all, those of the highest rank go."""

    text: str
    rank: int


class Counters:
    """A run's counters as text."""

    def __init__(self, status: StatusTracker, limits: Limits, unit: str, clock: Callable[[], float]) -> None:
        self._status, self._limits, self._unit, self._clock = status, limits, unit, clock
        self._began = clock()
        self._ended: float | None = None
        # When, requests sent, tokens used, requests answered by the server.
        self._history: deque[tuple[float, int, int, int]] = deque([(self._began, 0, 0, 0)])

    @property
    def done(self) -> int:
        return self._status.num_tasks_done + self._status.num_tasks_shared

    @property
    def total(self) -> int | None:
        return self._status.num_tasks_total

    @property
    def any_failed(self) -> bool:
        return self._status.num_tasks_failed > 0

    @property
    def percent(self) -> int:
        """Rounded down: 100 means that nothing is left."""
        return 100 * self.done // self.total if self.total else 100

    @property
    def elapsed(self) -> float:
        return (self._ended or self._clock()) - self._began

    def finish(self) -> None:
        """From now on this is about a run that is over."""
        self._ended = self._clock()

    def line(self, room: int | None = None) -> str:
        """The counters in the order they are read, as many as there is room for.

        The rates are per minute, over the last seconds; where a limit is known it stands behind them.
        """
        return ", ".join(fit(self._parts(), room))

    def _parts(self) -> list[Part]:
        status, over = self._status, self._ended is not None
        parts = [Part(f"{self._count()} [{self._times()}]", 0)]
        if status.note and not over:
            parts.append(Part(status.note, 1))
        if self.any_failed:
            parts.append(Part(f"{status.num_tasks_failed:,} failed", 1))
        if status.num_tasks_judged:
            parts.append(Part(f"{status.num_tasks_right / status.num_tasks_judged:.0%} right", 1))
        if status.num_retries:
            parts.append(Part(f"{status.num_retries:,} retried", 6))
        if status.num_tasks_in_progress and not over:
            parts.append(Part(f"{status.num_tasks_in_progress:,} in flight", 4))
        requests, tokens, _ = self._rates() if self.elapsed >= RATE_AFTER else (0, 0, 0)
        # Nothing is sent any more at the end, while the last answers are awaited; a zero would look like a fault.
        if requests:
            parts.append(Part(f"{short(requests)}{_of(self._limits.max_requests_per_minute)} req/min", 3))
        if tokens:
            parts.append(Part(f"{short(tokens)}{_of(self._limits.max_tokens_per_minute)} tok/min", 5))
        if status.cost_usd:
            parts.append(Part(dollars(status.cost_usd), 2))
        if status.num_tasks_restored:
            parts.append(Part(f"{status.num_tasks_restored:,} from the journal", 7))
        return parts

    def _count(self) -> str:
        return f"{self.done:,} {self._unit}s" if self.total is None else f"{self.done:,}/{self.total:,}"

    def _times(self) -> str:
        """Elapsed and left, as tqdm writes them."""
        elapsed = clock_time(self.elapsed)
        if self._ended is not None or self.total is None:
            return elapsed
        left = self._left()
        return f"{elapsed}<{'?' if left is None else clock_time(left)}"

    def _left(self) -> float | None:
        """Seconds, at the pace of late, but never faster than the limit allows: a run may begin with a burst.

        None while it is not known how many rows the journal answers: they take no time to speak of.
        """
        assert self.total is not None
        if self._status.num_tasks_to_restore:
            return None
        left = self.total - self.done
        answered_per_minute = self._rates()[2]
        if self.elapsed < RATE_AFTER or not answered_per_minute:
            return None
        return 60 * left / min(answered_per_minute, self._limits.max_requests_per_minute or answered_per_minute)

    def _rates(self) -> tuple[float, float, float]:
        """Requests sent, tokens used and requests finished, per minute: of late, or over all when it is over."""
        now, status, history = self._ended or self._clock(), self._status, self._history
        answered = status.num_tasks_done - status.num_tasks_restored
        latest = (now, status.num_requests_sent, status.prompt_tokens + status.completion_tokens, answered)
        if history[-1][0] < now:
            history.append(latest)
        while len(history) > 2 and history[1][0] <= now - RATE_OVER:
            history.popleft()
        start = (self._began, 0, 0, 0) if self._ended is not None else history[0]
        minutes = max(now - start[0], 1e-9) / 60
        return (latest[1] - start[1]) / minutes, (latest[2] - start[2]) / minutes, (latest[3] - start[3]) / minutes


class _Screen(Protocol):
    """Where the counters are seen."""

    def show(self, counters: Counters) -> None: ...
    def close(self, counters: Counters, closing_line: str) -> None: ...


def _find_screen(total: int | None, unit: str) -> _Screen:
    if _in_notebook():  # pragma: no cover - the same
        return _Widget(total, unit) if importlib.util.find_spec("ipywidgets") else _TextBar(total, unit, sys.stdout)
    if sys.stderr is None:  # a program without a console
        return _Nothing()
    return _TextBar(total, unit, sys.stderr) if sys.stderr.isatty() else _Lines()


class _Nothing:
    def show(self, counters: Counters) -> None:
        pass

    def close(self, counters: Counters, closing_line: str) -> None:
        pass


class _Lines:
    """Plain lines, for logs and pipes. A short run gets the closing line only."""

    def __init__(self) -> None:
        self._next = LINE_EVERY

    def show(self, counters: Counters) -> None:
        elapsed = counters.elapsed
        if elapsed >= self._next:
            self._next = elapsed + min(max(LINE_EVERY, elapsed / 10), LINE_AT_LEAST_EVERY)
            print(counters.line(), file=sys.stderr, flush=True)

    def close(self, counters: Counters, closing_line: str) -> None:
        if closing_line:
            print(closing_line, file=sys.stderr, flush=True)


class _TextBar:
    """tqdm's bar of characters; the counters get what is left of the line."""

    def __init__(self, total: int | None, unit: str, file: Any) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._file = file
        # It takes itself off the screen at the end; what stays is written then, above bars of other runs.
        self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True, file=file, leave=False, bar_format=" ")
        _logs.go_around_bars()
        weakref.finalize(self, _logs.go_straight)  # however this bar comes to its end

    def show(self, counters: Counters) -> None:
        columns = self._bar.format_dict["ncols"] or _NOTEBOOK_COLUMNS
        head = f"{counters.percent:3d}%|{{bar}}| " if counters.total is not None else ""
        room = columns - _FREE_COLUMNS - (len("100%|| ") + _BAR_COLUMNS if head else 0)
        text = counters.line(room)
        bar_columns = columns - _FREE_COLUMNS - len("100%|| ") - len(text)
        self._bar.bar_format = (head + text).replace("{bar}", f"{{bar:{max(bar_columns, 1)}}}")
        self._bar.total, self._bar.n = counters.total, counters.done
        self._bar.refresh()

    def close(self, counters: Counters, closing_line: str) -> None:
        self.show(counters)
        last = str(self._bar)
        self._bar.close()
        # From the first column on: a bar below another one leaves the cursor where it was.
        self._tqdm.write("\r" + "\n".join(filter(None, (last, closing_line))), file=self._file)


class _Widget:  # pragma: no cover - the tests of the browser and the notebooks run it, in a kernel
    """tqdm's bar of ipywidgets: green at the end, orange when rows failed, red when it did not get there."""

    def __init__(self, total: int | None, unit: str) -> None:
        from IPython.display import display
        from tqdm.notebook import tqdm

        self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True, display=False)
        self._place = display(self._bar.container, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]

    def show(self, counters: Counters) -> None:
        # tqdm would turn all spaces into wide ones; here a narrow page can break the line, but not within a counter.
        text = counters.line().replace(", ", ",\u2005").replace(" ", "\u00a0")
        self._bar.bar_format = f"{counters.percent:3d}%|{{bar}}| {text}" if counters.total is not None else text
        if counters.total is not None and counters.total != self._bar.total:  # a file's lines are counted meanwhile
            self._bar.reset(counters.total)
        self._bar.n = counters.done
        self._bar.refresh()

    def close(self, counters: Counters, closing_line: str) -> None:
        self.show(counters)
        self._bar.close()
        if counters.any_failed:
            self._bar.display(bar_style="warning", check_delay=False)
        # Once more, since the text beside the widget is all that is left of it where the notebook is read on a page.
        self._place.update(self._bar.container)
        if closing_line:
            print(closing_line, flush=True)


class _Logs:
    """Sends the log's lines to the terminal above the bars and not through them, while there are any."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._bars = 0

    def go_around_bars(self) -> None:
        with self._guard:
            if not self._bars:
                _change_handlers(_above_the_bars)
            self._bars += 1

    def go_straight(self) -> None:
        with self._guard:
            self._bars -= 1
            if not self._bars:
                _change_handlers(_as_before)


class _AboveTheBars(logging.Handler):
    """Has another handler write its lines while the bars are off the screen.

    tqdm's own `logging_redirect_tqdm` writes them in the handler's place: it forgets the handler's level, and writes
    also where no handler does.
    """

    def __init__(self, handler: logging.StreamHandler[Any]) -> None:
        super().__init__(handler.level)
        self.handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            with tqdm.external_write_mode(self.handler.stream):
                self.handler.handle(record)
        except (OSError, ValueError):
            # The bars' stream is closed, or takes nothing now; the run goes on, as it does without its bar.
            pass


def _change_handlers(change: Callable[[logging.Handler], logging.Handler]) -> None:
    for logger in (logging.getLogger(), logging.getLogger("parallel_openai")):
        logger.handlers = [change(handler) for handler in logger.handlers]
    if logging.lastResort is not None:  # it writes where nobody has set up anything
        logging.lastResort = change(logging.lastResort)


def _above_the_bars(handler: logging.Handler) -> logging.Handler:
    if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
        return _AboveTheBars(handler)
    return handler


def _as_before(handler: logging.Handler) -> logging.Handler:
    return handler.handler if isinstance(handler, _AboveTheBars) else handler


_logs = _Logs()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


def _of(limit: float | None) -> str:
    return f"/{short(limit)}" if limit is not None else ""


def fit(parts: Sequence[Part], room: int | None) -> list[str]:
    """The texts that fit, lowest rank first, in the order given; with `room` None, all.

    >>> fit([Part("45/99", 0), Part("3 retried", 2), Part("1 failed", 1)], 16)
    ['45/99', '1 failed']
    """
    chosen: set[int] = set()
    used = -len(", ")
    for place in sorted(range(len(parts)), key=lambda place: parts[place].rank):
        needs = len(", ") + len(parts[place].text)
        if not chosen or room is None or used + needs <= room:
            chosen.add(place)
            used += needs
    return [parts[place].text for place in sorted(chosen)]


def clock_time(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> clock_time(7.4), clock_time(67), clock_time(3_725)
    ('0:07', '1:07', '1:02:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def dollars(amount: float) -> str:
    """A sum with as many decimals as matter while it grows.

    >>> dollars(0.00002), dollars(0.00123), dollars(1_234.5)
    ('<$0.0001', '$0.0012', '$1,234.50')
    """
    if amount < 0.0001:
        return "<$0.0001"
    return f"${amount:,.4f}" if amount < 0.1 else f"${amount:,.2f}"


def short(number: float) -> str:
    """A number in four characters or so.

    >>> short(598.4), short(28_340), short(2_000_000)
    ('598', '28.3k', '2M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:.0f}"
