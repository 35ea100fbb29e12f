"""Show a run's counters: on a tqdm bar in a terminal or a notebook, in plain lines elsewhere.

The only module that uses tqdm; it is imported inside functions to keep importing the package fast.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import weakref
from collections.abc import Callable
from textwrap import fill
from typing import Any, Protocol

from parallel_openai._loop.forks import fork_safe_lock
from parallel_openai._loop.interrupts import ipython_shell
from parallel_openai._progress.counter_text import Counters

#: Seconds between two plain lines: from the first value up to the second as the run gets longer.
LINE_EVERY = 5.0
LINE_AT_LEAST_EVERY = 60.0

# The least columns of the bar itself, and free columns at the end of the line, so that the terminal's echo of Ctrl-C
# does not wrap it.
_BAR_COLUMNS = 10
_FREE_COLUMNS = 3
# The width of a notebook is unknown.
_NOTEBOOK_COLUMNS = 100


class Bar(Protocol):
    def show(self, counters: Counters) -> None: ...
    def close(self, counters: Counters, closing_line: str) -> None: ...


def find_bar(total: int | None, unit: str) -> Bar:
    if hasattr(ipython_shell(), "kernel"):  # pragma: no cover - run in a kernel, by the browser and notebook tests
        return _Widget(total, unit) if importlib.util.find_spec("ipywidgets") else _TextBar(total, unit, sys.stdout)
    if sys.stderr is None:  # a program without a console
        return NoBar()
    is_terminal = getattr(sys.stderr, "isatty", bool)()  # a program may have replaced the stream
    return _TextBar(total, unit, sys.stderr) if is_terminal else _Lines()


class NoBar:
    """Shows nothing."""

    def show(self, counters: Counters) -> None:
        pass

    def close(self, counters: Counters, closing_line: str) -> None:
        pass


class _Lines:
    """Plain lines for logs and pipes. A short run prints only the closing line."""

    def __init__(self) -> None:
        self._next = LINE_EVERY
        self._stop_shown = False

    def show(self, counters: Counters) -> None:
        elapsed = counters.elapsed
        if counters.stopping and not self._stop_shown:
            self._stop_shown, self._next = True, elapsed
        if elapsed >= self._next:
            self._next = elapsed + min(max(LINE_EVERY, elapsed / 10), LINE_AT_LEAST_EVERY)
            print(counters.line(), file=sys.stderr, flush=True)

    def close(self, counters: Counters, closing_line: str) -> None:
        if closing_line:
            print(closing_line, file=sys.stderr, flush=True)


class _TextBar:
    """tqdm's text bar, with the counters on the same line."""

    def __init__(self, total: int | None, unit: str, file: Any) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._file = file
        # leave=False: the last state is written by close(), above the bars of other runs.
        self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True, file=file, leave=False, bar_format=" ")
        _log_redirect.redirect()
        weakref.finalize(self, _log_redirect.restore)  # also without close()

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
        # "\r" because a bar below another one leaves the cursor in mid-line.
        self._tqdm.write("\r" + "\n".join(filter(None, (last, closing_line))), file=self._file)


class _Widget:  # pragma: no cover - run in a kernel, by the browser and notebook tests
    """tqdm's ipywidgets bar: green when finished, orange if rows failed, red if it ended early."""

    def __init__(self, total: int | None, unit: str) -> None:
        from IPython.display import display
        from tqdm.notebook import tqdm

        self._bar = tqdm(total=total, unit=unit, dynamic_ncols=True, display=False)
        self._place = display(self._bar.container, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]

    def show(self, counters: Counters) -> None:
        # tqdm would make all spaces non-breaking; this way a narrow page wraps the line between counters.
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
        # Update the saved text representation, which viewers without widgets show.
        self._place.update(self._bar.container)
        if closing_line:
            # A notebook would break a long line in the middle of a word.
            print(fill(closing_line, _NOTEBOOK_COLUMNS, break_long_words=False, break_on_hyphens=False), flush=True)


class _LogRedirect:
    """Writes log lines above the bars instead of through them, as long as there are bars."""

    def __init__(self) -> None:
        self._guard = fork_safe_lock()
        self._bars = 0

    def redirect(self) -> None:
        with self._guard:
            if not self._bars:
                _change_handlers(_redirected)
            self._bars += 1

    def restore(self) -> None:
        with self._guard:
            self._bars -= 1
            if not self._bars:
                _change_handlers(_original)


class _RedirectedHandler(logging.Handler):
    """Clears the bars while another handler writes.

    tqdm's own `logging_redirect_tqdm` replaces the handler: it loses the handler's level, and also writes if no handler
    is configured.
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
            # The bars' stream is closed or not writable; the run continues.
            pass


def _change_handlers(change: Callable[[logging.Handler], logging.Handler]) -> None:
    for logger in (logging.getLogger(), logging.getLogger("parallel_openai")):
        logger.handlers = [change(handler) for handler in logger.handlers]
    if logging.lastResort is not None:  # used if logging is not configured
        logging.lastResort = change(logging.lastResort)


def _redirected(handler: logging.Handler) -> logging.Handler:
    if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
        return _RedirectedHandler(handler)
    return handler


def _original(handler: logging.Handler) -> logging.Handler:
    return handler.handler if isinstance(handler, _RedirectedHandler) else handler


_log_redirect = _LogRedirect()
