"""A requests file through the Batch API, in Python and from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai import cli
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.batch.conftest import charged, lane, no_batch_ends
from tests.batch.scripted import Scripted


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """Five requests: the first two are equal but for their metadata, the last two are identical lines."""
    prompts = [("same", 0), ("same", 1), ("other", 2), ("twin", None), ("twin", None)]
    lines = [
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "metadata": row}
        for text, row in prompts
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results(path: Path) -> list[list[object]]:
    return [entry for entry in map(json.loads, path.read_text().splitlines()) if entry[0]]


def test_each_line_has_a_result_of_its_own(client: po.Client, server: Server, requests: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    for _ in range(2):
        status = po.process_api_requests_from_file(requests, out, client=client, progress=False, lane=lane())
        assert (status.num_tasks_succeeded, status.ended) == (5, "finished")
    found = results(out)
    assert sorted(str(entry[2]) if len(entry) > 2 else "" for entry in found) == ["", "", "0", "1", "2"]
    assert server.stats()["batches"]["requests"] == 5


def test_each_line_goes_to_its_own_endpoint(client: po.Client, server: Server, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]},
        {"model": "text-embedding-3-small", "input": "Hi."},
        {"model": "gpt-4o-mini", "input": "Hi.", "max_output_tokens": 16},
        {"custom_id": "a", "url": "/v1/embeddings", "body": {"model": "text-embedding-3-small", "input": "Hi."}},
        {"custom_id": "b", "url": "/v1/responses", "body": {"model": "gpt-4o-mini", "input": "Hi."}},
    ]
    path, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options: dict[str, Any] = {"client": client, "progress": False}
    server.set(batch_speed=1.0)
    po.process_api_requests_from_file(path, out, lane=lane(wait=False), **options)
    server.set(batch_speed=1e7)
    assert po.collect_batches(out, lane=lane(), **options).num_tasks_succeeded == 5
    assert sorted(answer["object"] for _, answer, *_ in results(out)) == [  # type: ignore[index]
        "chat.completion",
        *["list"] * 2,
        *["response"] * 2,
    ]
    for again in (lane(), "online"):
        status = po.process_api_requests_from_file(path, out, lane=again, **options)  # type: ignore[arg-type]
        assert (status.num_tasks_restored, status.num_tasks_failed) == (5, 0)
    assert server.stats()["batches"]["created"] == 3


def test_a_line_that_holds_no_request_of_ours_does_not_keep_batches_from_being_collected(
    client: po.Client, server: Server, requests: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    out.write_text('[{"model":"m","messages":[{"role":"user","content":"\\ud800"}]},{"id":"1","choices":[]}]\n')
    options: dict[str, Any] = {"client": client, "progress": False}
    server.set(batch_speed=1.0)
    po.process_api_requests_from_file(requests, out, lane=lane(wait=False), resume_from_anywhere=True, **options)
    server.set(batch_speed=1e7)
    assert po.collect_batches(out, lane=lane(), **options).num_tasks_succeeded == 5


def test_expired_lines_are_submitted_again(client: po.Client, server: Server, requests: Path, tmp_path: Path) -> None:
    server.set(batch_expire=0.5)
    out = tmp_path / "results.jsonl"
    status = po.process_api_requests_from_file(requests, out, client=client, progress=False, lane=lane(rounds=30))
    assert (status.num_tasks_succeeded, len(results(out))) == (5, 5)


@pytest.mark.parametrize(
    "nothing",
    [{}, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}],
    ids=["unbilled", "billed"],
)
def test_a_collected_line_without_an_answer_has_an_error_and_is_sent_again(
    scripted: Scripted, requests: Path, tmp_path: Path, nothing: dict[str, Any]
) -> None:
    answer, scripted.body = scripted.body, lambda asked: nothing  # type: ignore[method-assign]
    submitted: list[Any] = []
    scripted.on_end = lambda batch, asked: submitted.append((batch, asked))
    out = tmp_path / "results.jsonl"
    with po.Client(scripted.base_url, api_key="sk-none", max_attempts=2) as client:
        options: dict[str, Any] = {"client": client, "progress": False}
        po.process_api_requests_from_file(requests, out, lane=lane(wait=False), **options)
        scripted.on_end = scripted.complete
        scripted.complete(*submitted[0])
        status = po.collect_batches(out, lane=lane(), **options)
        assert (status.num_tasks_succeeded, dict(status.errors)) == (0, {"empty": 5})
        assert len(scripted.batches) == 1  # what may be billed is not sent again by itself
        assert [len(results(out)), all(isinstance(entry[1], list) for entry in results(out))] == [5, True]
        scripted.body = answer  # type: ignore[method-assign]
        status = po.process_api_requests_from_file(requests, out, lane=lane(), **options)
        assert (status.num_tasks_restored, status.num_tasks_succeeded) == (0, 5)


def test_without_the_folder_the_same_call_restores_the_metadata(
    client: po.Client, server: Server, requests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "results.jsonl"
    options: dict[str, Any] = {"client": client, "progress": False}
    with no_batch_ends(server):
        po.process_api_requests_from_file(requests, out, lane=lane(wait=False), **options)
    shutil.rmtree(tmp_path / "results.jsonl.batches")
    status = po.collect_batches(out, lane=lane(), **options)  # which has no requests file
    assert (status.num_tasks_succeeded, status.ended) == (0, "submitted")
    assert "results.jsonl.batches is missing" in caplog.text
    assert "repeat the call with the requests file" in caplog.text
    assert "forget=" in caplog.text
    status = po.process_api_requests_from_file(requests, out, lane=lane(), **options)
    assert (status.num_tasks_succeeded, status.ended) == (5, "finished")
    assert sorted(str(entry[2]) if len(entry) > 2 else "" for entry in results(out)) == ["", "", "0", "1", "2"]
    assert server.stats()["batches"]["created"] == 1


def test_flex_is_set_in_the_bodies_of_a_file(client: po.Client, requests: Path) -> None:
    with pytest.raises(InvalidInputError, match="service_tier"):
        po.process_api_requests_from_file(requests, client=client, progress=False, lane="flex")


def test_the_command_cancels(
    server: Server, requests: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.set(batch_speed=1.0)
    out = str(requests.with_name("requests_results.jsonl"))
    assert cli.main(["batch", "submit", "--requests_filepath", str(requests)]) == 0
    assert cli.main(["batch", "cancel", "--save_filepath", out]) == 0
    assert "cancelling, 0 of 5 done" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "lacks"), [("submit", "--requests_filepath"), ("collect", "--save_filepath")])
def test_the_command_names_a_missing_option(capsys: pytest.CaptureFixture[str], word: str, lacks: str) -> None:
    assert cli.main(["batch", word]) == 2
    assert lacks in capsys.readouterr().err


def test_the_command_submits_shows_and_collects(
    server: Server, requests: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.set(batch_speed=1.0)
    out = str(requests.with_name("requests_results.jsonl"))
    assert cli.main(["batch", "submit", "--requests-filepath", str(requests)]) == 0
    assert "Submitted: 0 succeeded" in capsys.readouterr().err
    assert cli.main(["batch", "status", "--save_filepath", out]) == 0
    assert "validating, 0 of 5 done" in capsys.readouterr().out
    server.set(batch_speed=1e7)
    assert cli.main(["batch", "collect", "--save_filepath", out]) == 0
    assert "5 succeeded, 0 failed" in capsys.readouterr().err
    assert len(results(Path(out))) == 5
    assert set(charged(server)) <= {1, 2}  # two pairs of lines have the same body
    assert cli.main(["batch", "status", "--save_filepath", out]) == 0
    assert capsys.readouterr().out == "There are no batches in progress.\n"
