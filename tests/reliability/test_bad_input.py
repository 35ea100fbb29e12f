"""Invalid input that the other tests do not cover is refused with a message that says what and where."""

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
def test_invalid_limits_are_refused_by_the_function_for_files_too(server: Server, name: str, value: Any) -> None:
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
def test_a_read_only_folder_is_an_error(server: Server, client: po.Client, place: str) -> None:
    with pytest.raises(JournalError, match=r"/proc.*cannot be (locked|made)"):
        po.process_dataframe(
            pd.DataFrame({"text": ["a"]}), "text", model="m", save_to=place, client=client, progress=False
        )
    assert server.stats(charged=False)["received"] == 0


def test_lines_with_any_line_break_are_read(server: Server, client: po.Client) -> None:
    line = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi."}]}).encode()
    Path("requests.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    status = po.process_api_requests_from_file("requests.jsonl", "out.jsonl", client=client, progress=False)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (2, 0)
    assert os.path.getsize("out.jsonl") > 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("place", ["/dev/null", "/dev/full", "pipe"])
def test_a_journal_must_be_an_ordinary_file(server: Server, client: po.Client, place: str) -> None:
    if place == "pipe":
        os.mkfifo(place)
    Path("requests.jsonl").write_text('{"model": "m"}')
    with pytest.raises(JournalError, match="is no ordinary file"):
        po.process_dataframe(pd.DataFrame({"text": ["a"]}), "text", model="m", save_to=place, client=client)
    with pytest.raises(JournalError, match="is no ordinary file"):
        po.process_api_requests_from_file("requests.jsonl", place, client=client)
    assert server.stats(charged=False)["received"] == 0


def test_nan_and_infinity_are_not_sent_as_null(server: Server, client: po.Client) -> None:
    options: dict[str, Any] = {"model": "m", "client": client, "progress": False}
    with pytest.raises(InvalidInputError, match="JSON has no NaN and no infinity"):
        po.process_dataframe(pd.DataFrame({"text": ["a"]}), "text", temperature=float("nan"), **options)
    bodies = [{"model": "m", "messages": [{"role": "user", "content": "Hi."}], "top_p": p} for p in (1.0, float("inf"))]
    out = po.process_dataframe(pd.DataFrame({"body": bodies}), "body", **options)
    assert out["status"].tolist() == ["succeeded", "failed"]
    assert out["error"][1] == "The prompt cannot be sent as JSON: JSON has no NaN and no infinity."
    Path("requests.jsonl").write_text('{"model": "m", "temperature": NaN}\n{"model": "m", "temperature": null}\n')
    status = po.process_api_requests_from_file("requests.jsonl", "out.jsonl", client=client, progress=False)
    assert status.num_tasks_failed >= 1
    assert server.stats(charged=False)["received"] == 2


def test_a_circular_prompt_fails_its_row_only(client: po.Client) -> None:
    endless: list[Any] = []
    endless.append({"role": "user", "content": endless})
    df = pd.DataFrame({"text": [endless, "Hi."]})
    out = po.process_dataframe(df, "text", model="m", client=client, progress=False)
    assert out["error_code"].tolist()[0] == "invalid_prompt"
    assert out["status"].tolist() == ["failed", "succeeded"]


def test_a_base_url_may_have_space_around_it(server: Server) -> None:
    assert po.Client(f" {server.base_url}\n").base_url == server.base_url
