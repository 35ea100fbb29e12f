"""llmock from PyPI: limits per minute with OpenAI's headers, and a verdict on how its client behaved."""

from __future__ import annotations

import time

import pandas as pd
import pytest

import parallel_openai as po
from tests.servers.llmock import llmock, needs_llmock

pytestmark = [pytest.mark.servers, needs_llmock]


def rows(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review {row}: it arrived on day {row % 31}." for row in range(count)]})


LIMITED = ["--rpm", "600", "--tpm", "30000"]
GIVEN = {"max_requests_per_minute": 600, "max_tokens_per_minute": 30_000}


@pytest.mark.parametrize("limits", [{}, GIVEN], ids=["nothing given", "limits given"])
def test_an_independent_mock_server_sees_all_limits_kept(limits: dict[str, float]) -> None:
    began = time.monotonic()
    with llmock(*LIMITED) as server, po.Client(server.base_url, **limits) as client:
        out = po.process_dataframe(
            rows(280), "Is it happy? {text}", model="gpt-4o-mini", max_tokens=80, client=client, progress=False
        )
        seconds = time.monotonic() - began
        verdict, text = server.verdict(), server.verdict_text()
    assert set(out["status"]) == {"succeeded"}
    assert verdict["findings"] == [], text
    assert verdict["calls"] == 280
    assert verdict["attempts"] - 280 <= 40
    assert seconds < 30  # a minute's tokens and a few seconds' more
