"""An answer counts only for the server, path and deployment that it came from."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import cli
from parallel_openai._journal import origins
from parallel_openai.errors import InvalidInputError, JournalError
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from tests.files.asking import UNLIMITED, chat, results, run, write
from tests.servers.recorder import recorder

ORIGINS = Path("out.jsonl.origins")


@pytest.fixture
def other() -> Iterator[Server]:
    with simulator.serve(max_requests_per_minute=None) as running:
        yield running


def received(server: Server) -> int:
    count: int = server.stats(charged=False)["received"]
    return count


def ask(url: str, **options: Any) -> po.StatusTracker:
    return po.process_api_requests_from_file("in.jsonl", "out.jsonl", url, **{**UNLIMITED, **options})


def test_answers_of_another_server_do_not_count(server: Server, other: Server) -> None:
    write(chat("a"), chat("b", metadata=1))
    for each in (server, other, server, other):
        status = run(each)
    assert (received(server), received(other), status.num_tasks_restored) == (2, 2, 2)
    assert len(results()) == 4
    assert all(len(line) in (2, 3) for line in results())  # which has the shape that it always had


def test_answers_of_another_path_do_not_count(server: Server) -> None:
    write({"model": "gpt-4o-mini", "input": "a"})
    for path in ("responses", "embeddings", "responses", "moderations", "embeddings"):
        ask(f"{server.base_url}/{path}")
    assert received(server) == 3
    assert [line[1].get("object") for line in results()] == ["response", "list", None]


def test_answers_of_another_deployment_do_not_count_but_of_another_version_do() -> None:
    write(chat("a"))
    with recorder() as azure:
        for name, version in (("mini", "2024-10-21"), ("large", "2024-10-21"), ("mini", "2025-01-01-preview")):
            ask(f"{azure.url}/openai/deployments/{name}/chat/completions?api-version={version}")
    assert [each.path.split("/")[3] for each in azure.asked] == ["mini", "large"]
    assert len(results()) == 2


@pytest.mark.parametrize("spelling", ["HTTP://LOCALHOST:{port}/v1", "http://localhost:{port}//v1/"])
def test_another_spelling_of_the_server_is_the_same(server: Server, spelling: str) -> None:
    write(chat("a"))
    port = server.base_url.rpartition(":")[2].removesuffix("/v1")
    ask(f"http://localhost:{port}/v1/chat/completions")
    with po.Client(spelling.format(port=port)) as client:
        assert run(server, client=client).num_tasks_restored == 1


def test_answers_of_unknown_origin_are_an_error_before_anything_is_sent(server: Server) -> None:
    write(chat("a"), chat("b"))
    run(server)
    ORIGINS.unlink()
    with pytest.raises(InvalidInputError, match=r"out\.jsonl holds 2 answers that do not say .*--resume_from"):
        run(server)
    assert run(server, resume_from_anywhere=True).num_tasks_restored == 2
    assert received(server) == 2


def test_answers_of_another_server_can_be_accepted(server: Server, other: Server) -> None:
    write(chat("a"))
    run(server)
    assert run(other, resume_from_anywhere=True).num_tasks_restored == 1
    assert received(other) == 0


def test_the_command_accepts_answers_of_unknown_origin_on_request(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    write(chat("a"))
    Path("out.jsonl").write_text(json.dumps([chat("a"), {"id": "1", "choices": []}]) + "\n")
    words = ["run", "--requests_filepath", "in.jsonl", "--save_filepath", "out.jsonl", "--api_key", "none"]
    words += ["--request_url", f"{server.base_url}/chat/completions"]
    assert cli.main(words) == cli.BAD_INPUT
    assert "--resume_from_anywhere" in capsys.readouterr().err
    assert cli.main([*words, "--resume-from-anywhere"]) == 0
    assert received(server) == 0


def test_another_file_under_the_same_name_has_unknown_origin(server: Server, other: Server) -> None:
    write(chat("a"), chat("b"))
    run(server)
    run(other, "other.jsonl")
    shutil.copy("other.jsonl", "out.jsonl")
    with pytest.raises(InvalidInputError, match="2 answers that do not say"):
        run(server)
    shutil.copy("other.jsonl.origins", ORIGINS)
    assert (run(server).num_tasks_restored, run(other).num_tasks_restored) == (0, 2)


def test_a_file_that_is_started_over_is_known(server: Server, other: Server) -> None:
    write(chat("a"))
    run(other)
    Path("out.jsonl").unlink()
    run(server)
    assert run(server).num_tasks_restored == 1
    assert len(ORIGINS.read_bytes().splitlines()) == 1


@pytest.mark.parametrize("text", ["", "\x00\n", "[1,2]\n{}\n[]\n5\n", '[-1,"a","b","c"]\n', "x" * 20_000], ids=repr)
def test_damaged_origins_are_ignored(server: Server, text: str) -> None:
    write(chat("a"))
    run(server)
    ORIGINS.write_text(text)
    with pytest.raises(InvalidInputError, match="do not say"):
        run(server)


@pytest.mark.parametrize("first", ["out.jsonl", "link.jsonl"])
def test_results_have_the_same_origins_under_a_link_to_them(server: Server, first: str) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/out.jsonl").touch()
    os.symlink("elsewhere", "folder")
    os.symlink("elsewhere/out.jsonl", "link.jsonl")
    write(chat("Hi."))
    run(server, f"folder/{first}" if first == "out.jsonl" else first)
    for path in ("elsewhere/out.jsonl", "folder/out.jsonl", "link.jsonl"):
        assert run(server, path).num_tasks_restored == 1
    assert not Path("link.jsonl.origins").exists()


def test_a_link_beside_the_results_is_not_followed(server: Server, tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    os.symlink(precious, ORIGINS)
    write(chat("a"))
    with pytest.raises(JournalError, match="is a link"):
        run(server)
    assert precious.read_text() == "years of work"
    assert received(server) == 0


def test_answers_written_by_other_users_are_reported(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    write(chat("a"), chat("b"))
    run(server)
    run(server)
    assert "were written by" not in caplog.text
    lines = ORIGINS.read_text()
    ORIGINS.write_text(lines.replace(json.dumps(origins.writer()), '"ann\\u001b[2J on laptop"'))
    with caplog.at_level(logging.WARNING):
        run(server)
    assert r"2 of the answers in it were written by ann\x1b[2J on laptop" in caplog.text


@pytest.mark.parametrize("lane", ["online", "flex"])
def test_answers_of_a_frame_by_any_lane_are_known_to_a_file_run(server: Server, lane: Any) -> None:
    df = pd.DataFrame({"text": ["a", "b"]})
    with po.Client(server.base_url) as client:
        po.process_dataframe(
            df, "text", model="gpt-5-mini", client=client, lane=lane, save_to="out.jsonl", progress=False
        )
    write(*({"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}]} for text in df["text"]))
    assert run(server).num_tasks_restored == 2
    assert server.stats()["received"] == 2


def test_lines_of_a_frame_are_known_to_a_file_run_on_the_same_server(server: Server, other: Server) -> None:
    with po.Client(server.base_url) as client:
        po.process_dataframe(
            pd.DataFrame({"text": ["a"]}),
            "text",
            model="gpt-4o-mini",
            save_to="out.jsonl",
            client=client,
            progress=False,
        )
    write(chat("a"))
    assert (run(server).num_tasks_restored, run(other).num_tasks_restored) == (1, 0)


def test_a_file_of_somebody_elses_beside_new_results_is_not_written_over(server: Server) -> None:
    write(chat("a"))
    ORIGINS.write_text("where my notes come from\n")
    with pytest.raises(JournalError, match="is no file of ours, and would be written over"):
        run(server)
    assert (received(server), ORIGINS.read_text()) == (0, "where my notes come from\n")
    ORIGINS.write_text("[0")  # torn off, as when the machine died
    assert run(server).num_tasks_succeeded == 1
