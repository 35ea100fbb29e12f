"""The package's log, whose lines are lines whatever a server, a model or a cell says."""

from __future__ import annotations

import logging

from parallel_openai._printable import printable


def _on_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), None
    return True


log = logging.getLogger("parallel_openai")
log.addFilter(_on_one_line)
