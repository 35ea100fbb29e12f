"""Requests files of other programs: compressed, in the Batch API's format, for several endpoints."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import sys
from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.files.asking import UNLIMITED, chat, results, run, write


def of_batch(custom_id: str, url: str, body: object) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


EMBEDDING = {"model": "text-embedding-3-small", "input": "a"}


def everywhere(server: Server, **options: object) -> po.StatusTracker:
    """Without an endpoint: each line goes to its own."""
    with po.Client(server.base_url, api_key="none") as client:
        options = {"progress": False, "client": client, **options}
        return po.process_api_requests_from_file("in.jsonl", "out.jsonl", **options)  # type: ignore[arg-type]


def test_lines_in_the_batch_apis_format_go_to_their_own_endpoints(server: Server) -> None:
    write(
        of_batch("a", "/v1/chat/completions", chat("a", metadata={"team": "x"}, store=True)),
        of_batch("b", "/v1/embeddings", EMBEDDING),
        of_batch("c", "/v1/responses", {"model": "gpt-4o-mini", "input": "c"}),
        of_batch("d", "/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "d"}),
        chat("e"),
    )
    assert [run(server).num_tasks_succeeded for _ in range(2)] == [5, 5]
    found = {line[2]["custom_id"] if len(line) > 2 else None: line for line in results()}
    assert {name: line[1]["object"] for name, line in found.items()} == {
        "a": "chat.completion",
        "b": "list",
        "c": "response",
        "d": "text_completion",
        None: "chat.completion",
    }
    assert found["a"][0]["metadata"] == {"team": "x"}
    assert server.stats()["received"] == 5


def test_without_a_url_each_line_goes_to_the_endpoint_that_fits_it(server: Server) -> None:
    write(chat("a"), EMBEDDING, {"model": "gpt-3.5-turbo-instruct", "prompt": "d"})
    assert everywhere(server).num_tasks_succeeded == 3
    assert sorted(line[1]["object"] for line in results()) == ["chat.completion", "list", "text_completion"]


def test_an_input_goes_to_the_endpoint_that_accepts_its_other_fields(server: Server) -> None:
    texts = {"input": "Say a.", "model": "gpt-4o-mini"}
    write({**texts, "max_output_tokens": 20}, {**texts, "input": [{"role": "user", "content": "Say b."}]}, EMBEDDING)
    assert everywhere(server).num_tasks_succeeded == 3
    assert sorted(line[1]["object"] for line in results()) == ["list", "response", "response"]


def test_a_budget_checks_each_line_for_its_own_endpoint(server: Server) -> None:
    write(EMBEDDING, chat("a", max_tokens=5), chat("b"))
    with pytest.raises(InvalidInputError, match=r"Line 3 of in\.jsonl"):
        everywhere(server, budget_tokens=1000)
    assert server.stats()["received"] == 0


BAD = {
    "another url": ({"url": "/v1/files", "body": chat("a")}, "its url is '/v1/files', which is not an endpoint"),
    "another server": (of_batch("a", "http://elsewhere.invalid/v1/embeddings", EMBEDDING), "which is not an endpoint"),
    "another method": ({**of_batch("a", "/v1/embeddings", EMBEDDING), "method": "GET"}, "its method is 'GET'"),
    "a url that is none": ({**of_batch("a", "", EMBEDDING), "url": 5}, "its url is 5"),
    "a stream": (of_batch("a", "/v1/chat/completions", chat("a", stream=True)), "it has stream: true"),
    "a body in a string": (of_batch("a", "/v1/chat/completions", json.dumps(chat("a"))), "it is no request"),
    "another maker's form": ({"custom_id": "a", "params": chat("a")}, "it is no request: it has no model"),
}


@pytest.mark.parametrize(("line", "reason"), BAD.values(), ids=BAD)
def test_an_invalid_line_in_the_batch_apis_format_affects_only_itself(
    line: object, reason: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    write(of_batch("a", "/v1/chat/completions", chat("a")), line, of_batch("b", "/v1/chat/completions", chat("b")))
    status = run(server)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (2, 1)
    assert caplog.messages[0].startswith("Line 2 of in.jsonl is not sent")
    assert reason in caplog.messages[0]


def test_a_compressed_file_is_read_and_resumed(server: Server) -> None:
    write(*(chat(str(number)) for number in range(50)))
    Path("in.jsonl").write_bytes(gzip.compress(Path("in.jsonl").read_bytes()))
    server.script([{"status": 400}] * 3)
    assert run(server).num_tasks_failed == 3
    assert run(server).num_tasks_succeeded == 50
    assert server.stats()["received"] == 53


def test_the_results_of_a_compressed_file_are_beside_it_uncompressed(server: Server) -> None:
    Path("in.jsonl.gz").write_bytes(gzip.compress(json.dumps(chat("a")).encode()))
    url = f"{server.base_url}/chat/completions"
    po.process_api_requests_from_file("in.jsonl.gz", None, url, **UNLIMITED)
    assert len(results("in_results.jsonl")) == 1
    with pytest.raises(InvalidInputError, match="but results are not compressed"):
        po.process_api_requests_from_file("in.jsonl.gz", "out.jsonl.gz", url, **UNLIMITED)


def test_a_truncated_compressed_file_is_read_to_its_end_with_a_warning(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    lines = "".join(json.dumps(chat(f"{number} {number**50}")) + "\n" for number in range(400)).encode()
    Path("in.jsonl").write_bytes(gzip.compress(lines)[:-2000])
    status = run(server)
    assert status.num_tasks_succeeded > 100
    assert status.num_tasks_failed == 1
    assert "from here on the file cannot be read" in caplog.text


def test_reading_zstd_without_its_library_says_how_to_install_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    Path("in.jsonl").write_bytes(b"\x28\xb5\x2f\xfd\x00")
    with pytest.raises(InvalidInputError, match=r"compressed by zstd.*pip install 'parallel-openai\[zstd\]'"):
        run(server)


def test_zstd_is_read_and_resumed(server: Server) -> None:
    pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd", reason="the extra")
    zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    write(*(chat(str(number)) for number in range(50)))
    whole = zstd.compress(Path("in.jsonl").read_bytes())
    Path("in.jsonl").write_bytes(whole)
    server.script([{"status": 400}] * 3)
    assert [run(server).num_tasks_succeeded for _ in range(2)] == [47, 50]
    Path("in.jsonl").write_bytes(whole[:-9])
    assert run(server).num_tasks_failed <= 1


def test_utf_16_is_refused_before_anything_is_sent(server: Server) -> None:
    Path("in.jsonl").write_bytes(json.dumps(chat("a")).encode("utf-16"))
    with pytest.raises(InvalidInputError, match=r"in\.jsonl is UTF-16"):
        run(server)


def test_a_blank_first_line_and_byte_order_marks_of_joined_files_are_skipped(server: Server) -> None:
    line = b"\xef\xbb\xbf" + json.dumps(EMBEDDING).encode()
    Path("in.jsonl").write_bytes(b"\r\n  \n" + line + b"\r\n" + line.replace(b'"a"', b'"b"'))
    assert everywhere(server).num_tasks_succeeded == 2
    assert {entry[1]["object"] for entry in results()} == {"list"}


def test_a_torn_last_line_and_a_very_long_line_are_read(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    write(chat("a"), chat("long", user="x" * 2_000_000), chat("a"))
    with open("in.jsonl", "ab") as file:
        file.write(json.dumps(chat("torn")).encode()[:-9])
    status = run(server)
    assert (status.num_tasks_succeeded, status.num_tasks_failed) == (3, 1)
    assert "Line 4 of in.jsonl is not sent: it is not JSON" in caplog.text
