"""Blocks of answers that a dataset can hold."""

from __future__ import annotations

import threading

import pandas as pd
import pytest

from parallel_openai._ray.dataset_worker import storable

pytest.importorskip("ray", reason="Ray has no wheel for this Python")


def test_a_value_that_cannot_be_pickled_fails_only_its_row() -> None:
    answers = pd.Series([{"a": 1}, threading.Lock(), 2**70, "half \ud800", None], dtype=object)
    out = pd.DataFrame({"response": answers, "status": "succeeded", "error_code": None, "error": None})
    held = storable(out, ["response"], "")
    assert held["status"].tolist() == ["succeeded", "failed", "succeeded", "failed", "succeeded"]
    assert held["response"].tolist() == [{"a": 1}, None, 2**70, None, None]
    assert held["error"][1].startswith("A dataset cannot hold the answer: <unlocked _thread.lock")
    assert held["error"][3] == "A dataset cannot hold the answer: half \\ud800"
