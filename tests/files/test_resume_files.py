"""Requests with a result in the results file are not sent again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._files.known_lines import KnownLines
from parallel_openai._files.left_over import LeftOver
from parallel_openai.local.simulator import Server
from tests.conftest import wait_until_sent
from tests.files.asking import chat, results, run, write


def test_running_again_sends_nothing(server: Server) -> None:
    write(chat("a"), chat("b", metadata={"row": 1}))
    run(server)
    status = run(server)
    assert server.stats()["received"] == 2
    assert (status.num_tasks_succeeded, status.num_tasks_restored) == (2, 2)
    assert len(results()) == 2


def test_running_again_sends_what_failed_and_what_is_new(server: Server) -> None:
    write(chat("first"), chat("second"))
    server.script([400], matching="second")
    run(server)
    write(chat("second"), chat("third"), chat("first"))
    status = run(server)
    assert server.stats()["received"] == 4
    assert (status.num_tasks_succeeded, status.num_tasks_restored, len(results())) == (3, 1, 4)


def test_the_same_request_for_two_rows_gets_two_lines(server: Server) -> None:
    write(chat("a", metadata=1), chat("a", metadata=2), chat("a", metadata=2), chat("a"))
    run(server)
    assert sorted(line[2] for line in results() if len(line) > 2) == [1, 2, 2]
    run(server)
    assert server.stats()["received"] == len(results()) == 4


def test_after_a_torn_last_line_one_request_is_sent_again(server: Server) -> None:
    write(chat("a"), chat("b"))
    run(server)
    Path("out.jsonl").write_bytes(Path("out.jsonl").read_bytes()[:-9])
    run(server)
    assert server.stats()["received"] == 3
    assert len(results()) == 2


def test_a_damaged_line_is_counted_and_its_request_is_sent_again(server: Server) -> None:
    write(chat("a"), chat("b"))
    run(server)
    first, _ = Path("out.jsonl").read_bytes().splitlines()
    Path("out.jsonl").write_bytes(first + b"\n\x00\x00\n")
    assert run(server, resume_from_anywhere=True).num_damaged_lines == 1
    assert server.stats()["received"] == 3


def test_results_that_were_joined_without_a_newline_are_all_known(server: Server) -> None:
    write(*(chat(f"{number}") for number in range(4)))
    run(server)
    one, two, *others = Path("out.jsonl").read_bytes().splitlines(keepends=True)
    Path("joined.jsonl").write_bytes(one.strip() + two + b"".join(others))
    status = run(server, "joined.jsonl", resume_from_anywhere=True)
    assert server.stats(charged=False)["received"] == 4
    assert status.num_damaged_lines == 0


def test_results_of_the_cookbooks_script_are_known(server: Server) -> None:
    write(chat("a", metadata={"row": 1}), chat("b"))
    line = [chat("a"), {"id": "1", "choices": []}, {"row": 1}]
    Path("out.jsonl").write_text(json.dumps(line) + "\n" + json.dumps([chat("b"), {"id": "2"}]) + "\n")
    assert run(server, resume_from_anywhere=True).num_tasks_restored == 2
    assert server.stats()["received"] == 0


def test_fields_in_another_order_are_the_same_request(server: Server) -> None:
    write(chat("a", temperature=0, metadata={"row": 1, "of": 2}))
    run(server)
    line = json.loads(Path("in.jsonl").read_text(), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    Path("in.jsonl").write_text(json.dumps(line, indent=None, separators=(" ,  ", " : ")) + "\n")
    assert run(server).num_tasks_restored == server.stats()["received"] == 1


@pytest.mark.parametrize("metadata", [(2**70, 2**71), ("\ud800", "\ud801"), ({"a": None}, {"a": 0})], ids=repr)
def test_rows_are_distinguished_by_any_metadata(server: Server, metadata: tuple[Any, Any]) -> None:
    write(chat("a", metadata=metadata[0]))
    run(server)
    write(*(chat("a", metadata=each) for each in reversed(metadata)))
    status = run(server)
    assert (status.num_tasks_restored, status.num_tasks_succeeded, server.stats()["received"]) == (1, 2, 2)
    (*_, first), (*_, second) = results()
    assert first != second


@pytest.mark.parametrize(
    ("before", "after"),
    [([1, 2], [3, 4]), ([None, None], [1, 2]), ([{"row": 1}] * 2, [None] * 2), ([1, 2], [2, 3]), ([3, 1, 2], [2, 1])],
    ids=str,
)
@pytest.mark.parametrize("text", ["a", "{}"], ids=["one request", "several"])
def test_changed_metadata_takes_the_answers_that_no_line_has(
    server: Server, before: list[Any], after: list[Any], text: str
) -> None:
    def lines(metadata: list[Any]) -> list[dict[str, Any]]:
        return [chat(text.format(number), metadata=each) for number, each in enumerate(metadata)]

    write(*lines(before))
    run(server)
    write(*lines(after))
    for _ in range(2):
        status = run(server)
        assert status.num_tasks_restored == status.num_tasks_succeeded == len(after)
    assert server.stats()["received"] == len(before)
    kept = [(request["messages"], answer["choices"], *rest) for request, answer, *rest in results()]
    answers = {str((messages, choices)) for messages, choices, *_ in kept}
    assert all(str((messages, choices)) in answers for messages, choices, *_ in kept)
    assert all(each is None or [each] in [rest for _, _, *rest in kept] for each in after)


def test_answers_of_a_frame_are_known_to_a_file_with_metadata(server: Server, client: po.Client) -> None:
    df = pd.DataFrame({"text": ["a", "b", "c"], "row": [1, 2, 3]})
    for beside in ("row", ()):
        po.process_dataframe(df, "text", model="gpt-4o-mini", metadata=beside, save_to="out.jsonl", client=client)
    write(*(chat(text, metadata={"row": number + 9}) for number, text in enumerate("abc")))
    run(server, resume_from_anywhere=True)
    assert server.stats()["received"] == 3


def test_a_line_that_is_answered_twice_gives_each_of_two_others_one_answer(server: Server) -> None:
    write(chat("a", n=1, metadata=1), chat("a", n=1, metadata=2))
    run(server)
    ids = {line[1]["id"] for line in results()}
    write(chat("a", n=1, metadata=3), chat("a", n=1, metadata=4), chat("a", n=1, metadata=5))
    run(server)
    assert {line[1]["id"] for line in results() if line[2] in (3, 4)} == ids
    assert server.stats()["received"] == 3


def test_failed_requests_are_sent_after_new_ones(server: Server) -> None:
    """So that a budget buys fresh answers first; and the same line twice is still two requests."""
    write(chat("bad"), chat("bad"), chat("good"))
    server.script([400, 400], matching="bad")
    run(server)
    write(chat("bad"), chat("bad"), chat("new"), chat("newer"))
    status = run(server, client=po.Client(server.base_url, max_concurrent_requests=1))
    assert (status.num_tasks_succeeded, server.stats()["received"]) == (4, 7)
    assert [request["messages"][0]["content"] for request, *_ in results()[3:]] == ["new", "newer", "bad", "bad"]


def test_a_request_in_the_results_that_cannot_be_sent_is_counted_as_damaged(server: Server) -> None:
    write(chat("a"))
    Path("out.jsonl").write_text('[{"model":"\\ud800"},{"id":"1"}]\n')
    assert run(server).num_damaged_lines == 1


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("")], ids=["removed", "emptied"])
def test_a_requests_file_deleted_during_a_run_ends_it_with_the_lines_read(
    server: Server, change: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    refused = [chat("refused 1"), chat("refused 2")]
    write(chat("good"), *refused)
    server.script([400] * 2, matching="refused")
    run(server)
    server.set(latency=0.2)
    with ThreadPoolExecutor(1) as pool, po.Client(server.base_url, max_concurrent_requests=2) as client:
        write(*(chat(f"new {n}") for n in range(4)), *refused)
        status = pool.submit(run, server, client=client)
        wait_until_sent(server, 4)
        change(Path("in.jsonl"))
        counts = status.result()
    assert (counts.num_tasks_succeeded, counts.num_tasks_failed) == (4, 2)
    assert "Line 5 of in.jsonl is not sent" in caplog.text


def test_a_requests_file_deleted_after_reading_does_not_affect_the_run(server: Server) -> None:
    write(*(chat(str(n)) for n in range(4)))
    server.set(latency=0.2)
    with ThreadPoolExecutor(1) as pool, po.Client(server.base_url, max_concurrent_requests=2) as client:
        status = pool.submit(run, server, client=client)
        wait_until_sent(server, 2)
        Path("in.jsonl").unlink()
        counts = status.result()
    assert (counts.num_tasks_succeeded, counts.num_tasks_failed) == (4, 0)


def test_an_answer_that_is_gone_when_another_line_takes_it_is_asked_for_again(server: Server) -> None:
    write(chat("a", metadata=1))
    run(server)
    known = asyncio.run(KnownLines.load(Path("out.jsonl"), simulated=True, place=None))
    left_over = LeftOver(known, lambda line: None)
    list(left_over.find())
    Path("out.jsonl").write_bytes(b"")
    assert left_over.take(chat("a"), 2, "chat/completions") == "new"
