"""A pseudo-terminal, and what else the tests of the progress bar need."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

REPOSITORY = Path(__file__).parents[1]
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


@dataclass
class Limits:
    max_requests_per_minute: float | None = None
    max_tokens_per_minute: float | None = None


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A pseudo-terminal of so many columns, and what its screen shows of what was written."""

    def __init__(self, columns: int) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.columns = columns
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        os.close(self.slave)
        self._reader.join(10)
        os.close(self._master)

    @property
    def text(self) -> str:
        return self._written.decode(errors="ignore")

    def lines(self) -> list[str]:
        """The screen, without the blank at the ends of lines and of the page."""
        screen, row, column = [[" "] * self.columns], 0, 0
        for character in self.text.replace("\x1b[A", "\0"):
            if character == "\0":
                row -= 1
            elif character == "\r":
                column = 0
            else:
                if character == "\n" or column == self.columns:
                    row, column = row + 1, 0 if character != "\n" else column
                if row == len(screen):
                    screen.append([" "] * self.columns)
                if character != "\n":
                    screen[row][column] = character
                    column += 1
        return "\n".join("".join(line).rstrip() for line in screen).rstrip().split("\n")

    def _read(self) -> None:
        while True:
            try:
                some = os.read(self._master, 65_536)
            except OSError:  # Linux says so when the other end is closed
                return
            if not some:
                return
            self._written += some


@contextmanager
def terminal_as_stderr(columns: int) -> Iterator[Terminal]:
    terminal = Terminal(columns)
    with open(os.dup(terminal.slave), "w", encoding="utf-8") as stream, redirect_stderr(stream):
        yield terminal
    terminal.close()


def start(script: str, **streams: int | IO[bytes]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stdin=subprocess.DEVNULL, **streams)  # type: ignore[call-overload,no-any-return]
