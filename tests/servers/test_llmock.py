"""llmock from PyPI: limits per minute with OpenAI's headers, and a verdict on how its client behaved."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from tests.servers.processes import free_port, running

# Another package's command has the same name, so only this environment's counts.
COMMAND = Path(sys.executable).with_name("llmock")
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not COMMAND.exists(), reason="llmock is not installed in this environment (pip install llmock)"),
]


class Llmock:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.url}/v1"

    def verdict(self) -> Any:
        return json.loads(self._get("/_llmock/verdict"))

    def verdict_text(self) -> str:
        return self._get("/_llmock/verdict?format=text")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture
def llmock(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Llmock]:
    port = free_port()
    command = [str(COMMAND), "serve", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with running([*command, *request.param], port, log=tmp_path / "llmock.log"):
        yield Llmock(port)


def rows(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review {row}: it arrived on day {row % 31}." for row in range(count)]})


LIMITED = ["--rpm", "600", "--tpm", "30000"]
GIVEN = {"max_requests_per_minute": 600, "max_tokens_per_minute": 30_000}


@pytest.mark.parametrize("llmock", [LIMITED], ids=["600 RPM and 30,000 TPM"], indirect=True)
@pytest.mark.parametrize("limits", [{}, GIVEN], ids=["nothing given", "limits given"])
def test_no_fault_is_found_with_a_client_that_meets_the_limits(llmock: Llmock, limits: dict[str, float]) -> None:
    began = time.monotonic()
    with po.Client(llmock.base_url, **limits) as client:
        out = po.process_dataframe(
            rows(280), "Is it happy? {text}", model="gpt-4o-mini", max_tokens=80, client=client, progress=False
        )
    seconds = time.monotonic() - began
    verdict = llmock.verdict()
    assert set(out["status"]) == {"succeeded"}
    assert verdict["findings"] == [], llmock.verdict_text()
    assert verdict["calls"] == 280
    assert verdict["attempts"] - 280 <= 40
    assert seconds < 30  # a minute's tokens and a few seconds' more
