"""Input that cannot work, as far as the tests of the two faces do not have it: a sentence that says what and where."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError, JournalError
from parallel_openai.local.simulator import Server


@pytest.mark.parametrize("name", ["max_requests_per_minute", "max_tokens_per_minute", "max_attempts"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "many"], ids=str)
def test_a_limit_that_makes_no_sense_is_named_by_the_file_face_too(server: Server, name: str, value: Any) -> None:
    Path("requests.jsonl").write_text("{}")
    with pytest.raises(InvalidInputError, match=f"{name} must be a number above 0.* not {value!r}"):
        po.process_api_requests_from_file(
            "requests.jsonl", request_url=f"{server.base_url}/chat/completions", **{name: value}
        )
    assert server.stats(charged=False)["received"] == 0


def test_a_prompt_of_50_megabytes_fails_its_row_only(server: Server) -> None:
    with po.Client(server.base_url, max_tokens_per_minute=1_000_000) as client:
        df = pd.DataFrame({"text": ["word " * 10_000_000, "Hi."]})
        out = po.process_dataframe(df, "text", model="gpt-4o-mini", client=client, progress=False)
    assert out["status"].tolist() == ["failed", "succeeded"]
    assert out["error_code"][0] == "request_too_large"
    assert len(out["error"][0]) < 1000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such folders")
@pytest.mark.parametrize("place", ["/proc/answers.jsonl", "/proc/no/answers.jsonl"])
def test_a_folder_that_cannot_be_written_is_named(server: Server, client: po.Client, place: str) -> None:
    with pytest.raises(JournalError, match=r"/proc.*cannot be (locked|made)"):
        po.process_dataframe(
            pd.DataFrame({"text": ["a"]}), "text", model="m", save_to=place, client=client, progress=False
        )
    assert server.stats(charged=False)["received"] == 0


def test_lines_that_end_in_any_way_are_read(server: Server, client: po.Client) -> None:
    line = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi."}]}).encode()
    Path("requests.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    status = po.process_api_requests_from_file("requests.jsonl", "out.jsonl", client=client, progress=False)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (2, 0)
    assert os.path.getsize("out.jsonl") > 0
