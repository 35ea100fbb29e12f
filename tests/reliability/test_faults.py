"""A server with every fault: no row is lost, nothing hangs, and failed rows say why."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.reliability.faults import FAULTS, run_with_faults


def test_a_run_among_faults_of_every_kind_answers_nearly_every_row(tmp_path: Path) -> None:
    outcome = run_with_faults(tmp_path, 300, timeout=1.5)
    assert sum(outcome.injected.values()) > 30, str(outcome)
    assert outcome.good, str(outcome)


@pytest.mark.parametrize("fault", ["gzip_bomb", "endless"])
def test_an_oversized_response_body_fails_its_row_only(server: Server, client: po.Client, fault: str) -> None:
    server.script([{"fault": fault}], matching="bad")
    df = pd.DataFrame({"text": ["bad", "good"]})
    out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert out["status"].tolist() == ["failed", "succeeded"]
    assert out["error_code"][0] == "response_too_large"
    assert "larger than 67,108,864 bytes" in out["error"][0]


def test_an_outage_during_a_run_loses_no_row(tmp_path: Path) -> None:
    nothing = dict.fromkeys(FAULTS, 0.0)
    outcome = run_with_faults(tmp_path, 300, **{**nothing, "outage": [0.4, 1.5], "latency": 0.1})
    assert outcome.injected["outage"] > 0, str(outcome)
    assert outcome.statuses["succeeded"] == 300, str(outcome)
