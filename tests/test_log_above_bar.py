"""Log lines and log handlers while a progress bar is shown."""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import pytest

from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from tests.terminals import Clock, Limits, Terminal, posix_only, start


@contextmanager
def a_handler_of_the_root() -> Iterator[logging.Handler]:
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


LOGGING_RUN = """
import logging, sys
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker

class Limits:
    max_requests_per_minute = max_tokens_per_minute = None

ours = logging.getLogger("parallel_openai")
{set_up}
progress = Progress(StatusTracker(num_tasks_succeeded=3), Limits, show=True)
progress.tick()
ours.warning("A request failed.")
progress.tick()
progress.close()
ours.warning("It is over.")
"""


def lines_of_a_logging_run(set_up: str) -> list[str]:
    terminal = Terminal(80)
    run = start(LOGGING_RUN.format(set_up=set_up), stdout=terminal.slave, stderr=terminal.slave)
    assert run.wait(60) == 0
    terminal.close()
    return terminal.lines()


@posix_only
@pytest.mark.parametrize(
    "set_up",
    [
        "",
        "logging.basicConfig(format='%(message)s')",
        "logging.basicConfig(format='%(message)s', stream=sys.stdout)",
        "ours.addHandler(logging.StreamHandler())",
        "ours.addHandler(logging.StreamHandler()); ours.propagate = False",
        "logging.basicConfig(format='%(message)s', handlers=[logging.FileHandler('log.txt'), logging.StreamHandler()])",
    ],
    ids=["nothing", "root", "root-on-stdout", "ours", "ours-alone", "root-and-a-file"],
)
def test_each_line_of_the_log_comes_once_and_above_the_bar(set_up: str) -> None:
    assert lines_of_a_logging_run(set_up) == ["A request failed.", "3 rows [0:00]", "It is over."]


@posix_only
@pytest.mark.parametrize(
    "set_up",
    [
        "logging.basicConfig(filename='log.txt')",
        "logging.basicConfig(); logging.getLogger().handlers[0].setLevel(logging.ERROR)",
        "logging.lastResort = None; ours.addHandler(logging.NullHandler())",
    ],
    ids=["a-file", "a-higher-level", "nowhere"],
)
def test_log_lines_for_other_handlers_are_not_shown_in_the_terminal(set_up: str) -> None:
    assert lines_of_a_logging_run(set_up) == ["3 rows [0:00]"]


class TerminalThatWaits(io.StringIO):
    """One that takes nothing for a while, as where nobody reads it and its program may not wait."""

    is_full = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.is_full:
            raise BlockingIOError(errno.EAGAIN, "write could not complete without blocking")
        return super().write(text)


def test_a_run_continues_if_its_log_cannot_be_shown() -> None:
    with redirect_stderr(TerminalThatWaits()) as terminal, a_handler_of_the_root():
        progress = Progress(StatusTracker(num_tasks_succeeded=3), Limits(), show=True, clock=Clock())
        terminal.is_full = True
        logging.getLogger("parallel_openai").warning("A request failed.")
        terminal.is_full = False
        progress.close("The end.")
    assert terminal.getvalue().endswith("3 rows [0:00]\nThe end.\n")


def test_log_handlers_are_restored_when_the_last_bar_is_closed() -> None:
    root = logging.getLogger()
    with redirect_stderr(TerminalThatWaits()) as terminal, a_handler_of_the_root() as handler:
        bars = [Progress(StatusTracker(), Limits(), show=True, clock=Clock()) for _ in range(2)]
        bars[0].close()
        assert handler not in root.handlers
        root.addHandler(added := logging.NullHandler())
        root.warning("One bar is left.")
        bars[1].close()
        assert root.handlers[-2:] == [handler, added]
        root.removeHandler(added)
    assert terminal.getvalue().count("One bar is left.\n") == 1


def test_a_missing_handler_of_last_resort_stays_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "lastResort", None)
    with redirect_stderr(TerminalThatWaits()):
        bar = Progress(StatusTracker(), Limits(), show=True, clock=Clock())
        assert logging.lastResort is None
        bar.close()
    assert logging.lastResort is None
