"""llmock from PyPI: limits per minute with OpenAI's headers, refusals by chance, and a verdict on its client."""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.servers.processes import free_port, running

# Not `llmock`: a command of another package has the same name.
COMMAND = (sys.executable, "-m", "llmock.cli", "serve")
needs_llmock = pytest.mark.skipif(
    find_spec("llmock") is None, reason="llmock is not installed in this environment (pip install llmock)"
)


class Llmock:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.url}/v1"

    def verdict(self) -> Any:
        return json.loads(self._get("/_llmock/verdict"))

    def verdict_text(self) -> str:
        return self._get("/_llmock/verdict?format=text")

    def answered(self) -> Counter[str]:
        """How often each request was answered well, by what it asked."""
        records = json.loads(self._get("/_llmock/requests"))["requests"]
        return Counter(each["fingerprint"] for each in records if each["status"] == 200)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            text: str = answer.read().decode()
            return text


@contextmanager
def llmock(*options: str) -> Iterator[Llmock]:
    """A server on 127.0.0.1 with further options of `llmock serve`."""
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", *options)
    with (
        tempfile.TemporaryDirectory(prefix="llmock") as folder,
        running([*COMMAND, *options], port, log=Path(folder) / "llmock.log"),
    ):
        yield Llmock(port)
