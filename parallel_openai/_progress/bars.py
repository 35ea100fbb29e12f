"""Where a run's counters are seen: on a tqdm bar in a terminal or a notebook, in plain lines elsewhere.

The only door to tqdm, which is imported inside functions, so that importing the package stays light.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from parallel_openai._progress.counter_text import Counters

#: Seconds between two plain lines where nobody can see a bar move; they come further apart as the run gets longer.
LINE_EVERY = 5.0
LINE_AT_LEAST_EVERY = 60.0

# The bar itself keeps this many columns at least, and the end of the line stays free, so that the terminal's echo of
# Ctrl-C does not push it into a second line.
_BAR_COLUMNS = 10
_FREE_COLUMNS = 3
# A notebook does not tell its width.
_NOTEBOOK_COLUMNS = 100


class Screen(Protocol):
    """Where the counters are seen."""

    def show(self, counters: Counters) -> None: ...
    def close(self, counters: Counters, closing_line: str) -> None: ...


def find_screen(total: int | None, unit: str) -> Screen:
    if _in_notebook():  # pragma: no cover - the tests of the browser and the notebooks come here, in a kernel
        return _Widget(total, unit) if importlib.util.find_spec("ipywidgets") else _TextBar(total, unit, sys.stdout)
    if sys.stderr is None:  # a program without a console
        return NoScreen()
    is_terminal = getattr(sys.stderr, "isatty", bool)()  # a program may have put a stream of its own there
    return _TextBar(total, unit, sys.stderr) if is_terminal else _Lines()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


class NoScreen:
    """A screen for those who want to see none, or have none."""

    def show(self, counters: Counters) -> None:
        pass

    def close(self, counters: Counters, closing_line: str) -> None:
        pass


class _Lines:
    """Plain lines, for logs and pipes. A short run gets the closing line only."""

    def __init__(self) -> None:
        self._next = LINE_EVERY
        self._told_stop = False

    def show(self, counters: Counters) -> None:
        elapsed = counters.elapsed
        if counters.stopping and not self._told_stop:
            self._told_stop, self._next = True, elapsed
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
