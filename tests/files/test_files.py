"""The interface of the OpenAI Cookbook's script: a JSONL file of requests in, a JSONL file of results out."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai.errors import (
    AuthenticationError,
    InvalidInputError,
    JournalError,
    QuotaExceededError,
)
from parallel_openai.local.simulator import Server
from tests.files.asking import chat, results, run, write
from tests.servers.recorder import recorder


def test_each_request_gets_a_line_with_its_response(server: Server) -> None:
    write(chat("a"), chat("b"))
    status = run(server)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (2, 0)
    assert sorted(request["messages"][0]["content"] for request, _ in results()) == ["a", "b"]
    assert all(response["object"] == "chat.completion" for _, response in results())


@pytest.mark.parametrize("metadata", [{"row_id": 1}, "row 1", 0, [1, 2], False], ids=str)
def test_metadata_is_kept_beside_the_request_and_not_sent(server: Server, metadata: Any) -> None:
    write(chat("a", metadata=metadata))
    run(server)
    [[request, _, beside]] = results()
    assert (request, beside) == (chat("a"), metadata)


def test_the_apis_own_metadata_is_sent_from_extra_body(server: Server) -> None:
    write(chat("a", metadata={"row": 1}, extra_body={"metadata": {"team": "x"}, "seed": 2}))
    run(server)
    [[request, response, beside]] = results()
    assert request == chat("a", metadata={"team": "x"}, seed=2)
    assert "choices" in response
    assert beside == {"row": 1}


def test_a_failed_request_gets_a_line_with_its_errors(server: Server) -> None:
    write(chat("a", metadata=1), chat("b", metadata=2, temperature=9))
    status = run(server)
    assert (status.num_tasks_failed, status.num_api_errors, dict(status.errors)) == (
        1,
        1,
        {"decimal_above_max_value": 1},
    )
    [failed] = [line for line in results() if line[2] == 2]
    assert failed[1][0].startswith("HTTP 400: Invalid 'temperature'")


def test_a_failure_is_logged_as_a_warning(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    write(chat("good"), chat("a", temperature=9))
    run(server)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith("Line 2 of in.jsonl failed (decimal_above_max_value): HTTP 400: Invalid 'temp")


def test_the_logging_level_is_used(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    write(chat("a", temperature=9))
    run(server, logging_level=logging.CRITICAL)
    assert caplog.records == []
    assert logging.getLogger("parallel_openai").level == logging.NOTSET  # and only while it runs


def test_the_results_are_beside_the_requests_by_default(server: Server) -> None:
    write(chat("a"))
    run(server, None)
    assert len(results("in_results.jsonl")) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + json.dumps(chat("a")).encode() + b"\n",
        json.dumps(chat("a")).encode() + b"\r\n",
        json.dumps(chat("a")).encode(),
        b"\n  \n" + json.dumps(chat("a")).encode() + b"\n\n\n",
        b"  " + json.dumps(chat("a")).encode() + b"\t\n",
        json.dumps(chat("Zoë 日本")).encode() + b"\n",
        json.dumps(chat("Zoë 日本"), ensure_ascii=False).encode() + b"\n",
    ],
    ids=["bom", "crlf", "no newline", "blank lines", "spaces", "escapes", "utf-8"],
)
def test_a_requests_file_of_another_program_can_be_read(server: Server, content: bytes) -> None:
    Path("in.jsonl").write_bytes(content)
    status = run(server)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (1, 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "it is not JSON"),
        (b"hello", "it is not JSON"),
        (b'{"a": "\xff"}', "it is not JSON"),
        (b"[1]", "it holds a list, not an object"),
        (b"{}", "it is an empty request"),
        (b'{"api_key": "sk-1", "messages": []}', "its api_key would be sent and stored"),
        (b'{"extra_body": {"headers": {"a": "sk-1"}}}', "its headers would be sent"),
        (b'{"custom_id": "1", "url": "/v1/responses", "body": {"api_key": "sk-1"}}', "its api_key would be sent"),
        (b'{"api_key": "sk-1"', "it is not JSON"),
        (b'{"metadata": 1, "extra_body": {}}', "it is an empty request"),
        (b'"text"', "it holds a string"),
        (b"5", "it holds a number"),
        (b"null", "it holds a null"),
        (b'{"model": "m", "extra_body": 5}', "its extra_body is not an object"),
        (b'{"model": "m", "stream": true}', "it has stream: true"),
        (b'{"model": "m", "background": true}', "it has background: true"),
        (b'{"model": "\\ud800"}', "it cannot be sent as JSON"),
        (b"[" * 100_000, "it is not JSON"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_an_invalid_line_is_logged_and_the_others_are_sent(
    server: Server, caplog: pytest.LogCaptureFixture, line: bytes, reason: str
) -> None:
    Path("in.jsonl").write_bytes(b"\n".join((json.dumps(chat("a")).encode(), line, json.dumps(chat("b")).encode())))
    status = run(server)
    assert (status.num_tasks_succeeded, status.num_tasks_failed, dict(status.errors)) == (2, 1, {"invalid_line": 1})
    assert f"Line 2 of in.jsonl is not sent: {reason}" in caplog.text
    assert "sk-1" not in caplog.text
    assert len(results()) == 2


def test_an_empty_requests_file_gives_empty_results(server: Server) -> None:
    Path("in.jsonl").touch()
    assert run(server).num_tasks_done == 0
    assert results() == []


def test_a_missing_requests_file_is_an_error(server: Server) -> None:
    with pytest.raises(InvalidInputError, match=r"There is no requests file in\.jsonl \(in /"):
        run(server)


@pytest.mark.parametrize("save_filepath", ["in.jsonl", "./in.jsonl", "../{folder}/in.jsonl"])
def test_the_results_must_not_overwrite_the_requests(server: Server, save_filepath: str) -> None:
    write(chat("a"))
    with pytest.raises(InvalidInputError, match="is the requests file itself"):
        run(server, save_filepath.format(folder=Path.cwd().name))
    assert results("in.jsonl") == [chat("a")]


def test_a_file_that_holds_no_results_is_refused_and_unchanged(server: Server) -> None:
    write(chat("a"))
    Path("out.jsonl").write_text("notes\n")
    with pytest.raises(JournalError, match="is no file of results"):
        run(server)
    assert Path("out.jsonl").read_text() == "notes\n"


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/v1", "http://127.0.0.1/v1/files", "chat/completions", "", "ftp://a/responses", "http://[::1/x"],
)
def test_a_url_that_is_not_an_endpoint_is_refused(url: str) -> None:
    write(chat("a"))
    said = r"request_url must end in an endpoint|request_url is not a valid URL|base_url must look like"
    with pytest.raises(InvalidInputError, match=said):
        po.process_api_requests_from_file("in.jsonl", "out.jsonl", url, api_key="none", progress=False)
    assert not Path("out.jsonl").exists()


def test_an_unknown_token_encoding_is_refused(server: Server) -> None:
    write(chat("a"))
    with pytest.raises(InvalidInputError, match="No token encoding 'none'"):
        run(server, token_encoding_name="none")


def test_the_cookbooks_default_limits_are_kept(server: Server) -> None:
    write(chat("a"))
    with pytest.raises(InvalidInputError, match="max_requests_per_minute must be a number above 0"):
        run(server, max_requests_per_minute=0)


def test_a_given_client_stays_open(server: Server, client: po.Client) -> None:
    write(chat("a"))
    status = po.process_api_requests_from_file("in.jsonl", "out.jsonl", client=client, progress=False)
    assert status.num_tasks_succeeded == 1


def test_a_wrong_key_stops_the_run(server: Server) -> None:
    server.set(required_api_key="sk-right")
    write(chat("a"))
    with pytest.raises(AuthenticationError, match="Check the API key"):
        run(server)


def test_used_up_credit_stops_the_run_with_the_counts(server: Server) -> None:
    server.set(insufficient_quota_after=3)
    write(*(chat(str(n)) for n in range(20)))
    with pytest.raises(QuotaExceededError) as stopped:
        run(server)
    counts = stopped.value.partial
    assert (counts.ended, counts.num_tasks_succeeded, len(results())) == ("stopped", 3, 3)
    server.set(insufficient_quota_after=None)
    assert run(server).num_tasks_succeeded == 20
    assert server.stats()["charged_more_than_once"] == 0


def test_a_server_error_is_retried_and_counted(server: Server) -> None:
    server.script([500])
    write(chat("a"))
    status = run(server)
    assert (status.num_tasks_succeeded, status.num_requests_sent, status.num_retries, status.num_api_errors) == (
        1,
        2,
        1,
        1,
    )


def test_a_rate_limit_is_waited_out_and_counted_separately(server: Server) -> None:
    server.script([{"status": 429, "headers": {"retry-after": "0"}}])
    write(chat("a"))
    status = run(server)
    assert (status.num_tasks_succeeded, status.num_rate_limit_errors, status.num_api_errors) == (1, 1, 0)
    assert status.time_of_last_rate_limit_error > 0


@pytest.mark.parametrize(("scripted", "words"), [([503], "1 time the"), ([503, 502], "2 times the")])
def test_the_closing_line_tells_of_a_busy_server(
    server: Server, scripted: list[int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script(scripted)
    write(chat("a"))
    status = run(server, progress=True)
    assert status.num_tasks_succeeded == 1
    assert status.num_busy_errors == status.num_api_errors == len(scripted)
    assert f"{words} server was busy or away" in capsys.readouterr().err


def test_the_closing_line_proposes_a_smaller_cap(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.set(max_tokens_per_minute=60_000, burst_seconds=1.0, counting="prompt_plus_max_output", answer_tokens=5)
    write(*(chat(f"row {number}", max_tokens=90) for number in range(40)))
    status = run(server, progress=True)
    assert status.timeline.advice is not None
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("Done: 40 succeeded, 0 failed")
    assert said.endswith(f". {status.timeline.advice}. Results: out.jsonl")
    assert ". max_tokens=20 would have been about " in said


def test_the_counts_add_up(server: Server) -> None:
    write(*(chat(str(n)) for n in range(30)), chat("odd", temperature=9))
    status = run(server)
    stats = server.stats()
    assert (status.num_tasks_started, status.num_tasks_in_progress, status.num_tasks_waiting) == (31, 0, 0)
    assert (status.num_tasks_done, status.num_requests_sent) == (31, stats["received"])
    assert (status.prompt_tokens, status.completion_tokens) == (stats["prompt_tokens"], stats["completion_tokens"])


def test_the_total_counts_lines_that_are_not_blank(server: Server) -> None:
    write(chat("a"), chat("b"))
    Path("in.jsonl").write_bytes(b"\n" + Path("in.jsonl").read_bytes().replace(b"\n", b"\n \n"))
    assert run(server).num_tasks_total == 2


def test_a_line_is_added_to_a_file_as_json() -> None:
    po.append_to_jsonl([{"a": "Zoë"}, None], "notes.jsonl")
    po.append_to_jsonl({"b": float("nan")}, Path("notes.jsonl"))
    assert results("notes.jsonl") == [[{"a": "Zoë"}, None], {"b": None}]


def test_one_request_can_be_called(client: po.Client) -> None:
    response = asyncio.run(po.APIRequest(chat("Hi."), metadata=1).call_api(client))
    assert (response.status, response.data["object"], response.error_code) == (200, "chat.completion", None)
    assert response.request_id is not None


def test_one_request_that_is_refused_raises_nothing(client: po.Client) -> None:
    response = asyncio.run(po.APIRequest(chat("Hi.", temperature=9)).call_api(client))
    assert response.status == 400
    assert response.data["error"]["code"] == "decimal_above_max_value"


def test_one_request_to_an_unreachable_server_raises_nothing() -> None:
    with po.Client("http://127.0.0.1:9/v1") as client:
        response = asyncio.run(po.APIRequest(chat("Hi.")).call_api(client))
    assert (response.status, response.error_code) == (0, "connection_refused")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"model": "text-embedding-3-small", "input": "Hi."}, "/v1/embeddings"),
        ({"model": "gpt-5-mini", "messages": []}, "/v1/chat/completions"),
    ],
    ids=["input", "messages"],
)
def test_without_a_url_the_environments_server_is_used_with_the_endpoint_that_fits(
    monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], path: str
) -> None:
    write(body)
    with recorder() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1/")
        po.process_api_requests_from_file("in.jsonl", "out.jsonl", progress=False)
    assert [asked.path for asked in server.asked] == [path]


@pytest.mark.parametrize("text", ["", "no json\n", "[]\n", '\ufeff{"messages": []}\n'])
def test_an_invalid_first_line_affects_no_other(server: Server, text: str) -> None:
    Path("in.jsonl").write_text(text, "utf-8")
    client = po.Client(server.base_url)
    assert po.process_api_requests_from_file("in.jsonl", "out.jsonl", client=client, progress=False).num_tasks_done <= 1
