"""A journal that is moved, replaced, truncated or deleted during a run loses no answer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.journal import Journal
from parallel_openai.errors import JournalError, JournalLockedError, JournalWriteError
from parallel_openai.local.simulator import Server
from tests.conftest import wait_until_sent
from tests.reliability.worker import rows, write_requests

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody touch a file that is open")

PLACE = Path("folder/answers.jsonl")
LOCK = Path("folder/answers.jsonl.lock")
ROWS = 40


def replace() -> None:
    """As an editor or a sync tool does with what it has read a while before."""
    Path("folder/old").write_bytes(b"".join(PLACE.read_bytes().splitlines(keepends=True)[:2]))
    os.replace("folder/old", PLACE)


def rewrite() -> None:
    content = PLACE.read_bytes()
    PLACE.write_bytes(content)
    PLACE.write_bytes(content[: content.rfind(b"\n", 0, -1) + 1])


MOVES: list[Callable[[], Any]] = [
    replace,
    lambda: PLACE.rename("folder/moved.jsonl"),
    PLACE.unlink,
    lambda: shutil.rmtree("folder"),
    lambda: Path("folder").rename("elsewhere"),
]
CUTS: list[Callable[[], Any]] = [
    lambda: os.truncate(PLACE, PLACE.stat().st_size - 10),
    lambda: os.truncate(PLACE, 0),
    rewrite,
]


def write_over(content: bytes) -> None:
    PLACE.write_bytes(content)


def ask(client: po.Client) -> pd.DataFrame:
    return po.process_dataframe(rows(ROWS), "text", model="m", save_to=PLACE, client=client, progress=False)


def label(client: po.Client) -> pd.DataFrame:
    options: dict[str, Any] = {"labels": ["a", "b"], "model": "m", "save_to": PLACE, "progress": False}
    return po.label_dataframe(rows(ROWS), "text", client=client, **options)


def embed(client: po.Client) -> pd.DataFrame:
    options: dict[str, Any] = {"model": "m", "save_to": PLACE, "rows_per_request": 1, "progress": False}
    return po.embed_dataframe(rows(ROWS), "text", client=client, **options)


def send_file(client: po.Client) -> Any:
    write_requests(Path("requests.jsonl"), ROWS)
    return po.process_api_requests_from_file("requests.jsonl", PLACE, client=client, progress=False)


def during(change: Callable[[], Any], server: Server, verb: Callable[[po.Client], Any], sent: int = 25) -> Any:
    """Run, with something done to the file once so many are sent."""
    server.set(latency=0.05)

    def change_soon() -> None:
        wait_until_sent(server, sent)
        change()

    with po.Client(server.base_url, max_concurrent_requests=5) as client:
        thread = threading.Thread(target=change_soon)
        thread.start()
        try:
            return verb(client)
        finally:
            thread.join()


def answers(place: Path = PLACE) -> int:
    """How many there are, whole ones only."""
    entries = map(JournalEntry.read, place.read_bytes().splitlines())
    return len({json.dumps(entry[0]) for entry in entries if entry is not None})


@pytest.mark.parametrize("verb", [ask, send_file])
@pytest.mark.parametrize("change", MOVES, ids=["replaced", "renamed", "deleted", "folder deleted", "folder renamed"])
def test_a_journal_deleted_or_replaced_during_a_run_is_restored_with_a_warning(
    server: Server, caplog: pytest.LogCaptureFixture, change: Callable[[], Any], verb: Any
) -> None:
    during(change, server, verb)
    assert answers() == ROWS
    assert "answers.jsonl was changed, moved or deleted while the run wrote it" in caplog.text
    with po.Client(server.base_url) as client:
        verb(client)
    assert server.stats(charged=False)["received"] == ROWS


@pytest.mark.parametrize("verb", [label, embed])
def test_a_journal_deleted_during_a_run_is_restored_by_the_other_functions_too(server: Server, verb: Any) -> None:
    during(PLACE.unlink, server, verb)
    assert len(po.read_journal(PLACE)) == ROWS


@pytest.mark.parametrize("change", CUTS, ids=["cut within a line", "emptied", "rewritten"])
def test_truncated_lines_of_the_journal_are_written_again(
    server: Server, caplog: pytest.LogCaptureFixture, change: Callable[[], Any]
) -> None:
    during(change, server, send_file)
    assert answers() == ROWS
    assert "It was given the" in caplog.text


def test_a_short_run_checks_its_journal_at_the_end() -> None:
    with Journal(PLACE) as journal:
        journal.append(b'[{"model":"m"},{"id":1}]')
        PLACE.unlink()
    assert answers() == 1


def test_a_truncated_line_of_an_earlier_run_is_written_again() -> None:
    async def work() -> None:
        with Journal(PLACE) as journal:
            journal.append(b'[{"model":"m"},{"id":1}]')
            await asyncio.sleep(2.1)
            os.truncate(PLACE, 0)
            journal.append(b'[{"model":"n"},{"id":2}]')

    asyncio.run(work())
    assert answers() == 2


def test_a_journal_may_be_truncated_several_times() -> None:
    with Journal(PLACE) as journal:
        for number in range(3):
            journal.append(b'[{"model":"m","n":%d},{"id":1}]' % number)
            os.truncate(PLACE, 0)
            journal._check_file()
    assert (answers(), len(PLACE.read_bytes().splitlines())) == (3, 3)


def long_lines(journal: Journal, count: int = 12) -> int:
    """So many of 100 kB, of which the last five or so are remembered; gives the bytes of all."""
    for number in range(count):
        journal.append(b'[{"model":"m","n":%d},{"id":"%s"}]' % (number, b"x" * 100_000))
    journal._check_file()
    return PLACE.stat().st_size


def test_lost_lines_of_earlier_runs_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with Journal(PLACE) as journal:
        before = long_lines(journal)
        os.truncate(PLACE, 0)
        journal._check_file()
    assert 3 < answers() < 12
    assert f"Older answers, {before - PLACE.stat().st_size:,} bytes, are lost" in caplog.text


def test_lines_of_earlier_runs_that_alone_were_removed_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with Journal(PLACE) as journal:
        long_lines(journal)
        PLACE.write_bytes(b"".join(PLACE.read_bytes().splitlines(keepends=True)[1:]))
    assert answers() == 11
    assert "Older answers, 100,0" in caplog.text


def write_while(change: Callable[[], Any], write: Callable[[Journal], Any] | None = None) -> None:
    with Journal(PLACE) as journal:
        journal.append(b'[{"model":"m"},{"id":1}]')
        if write is not None:
            write(journal)
        change()


def test_overwritten_lines_of_earlier_runs_are_reported_as_lost() -> None:
    with pytest.raises(JournalWriteError, match=r"Older answers, 600,\d+ bytes, are lost"):
        write_while(lambda: PLACE.write_text("text,stars\nFine.,5\n" * 100), long_lines)


def test_lines_added_by_another_program_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    with Journal(PLACE) as journal:
        journal.append(b'[{"model":"m"},{"id":1}]')
        with open(PLACE, "ab") as file:
            file.write(b'[{"model":"n"},{"id":2}]\n')
        journal.append(b'[{"model":"o"},{"id":3}]')
    assert [json.loads(line)[1]["id"] for line in PLACE.read_bytes().splitlines()] == [1, 2, 3]
    assert not caplog.text


@pytest.mark.parametrize("verb", [ask, send_file])
def test_if_another_file_replaces_the_journal_the_run_stops_and_says_where_the_answers_are(
    server: Server, verb: Any
) -> None:
    def put_other() -> None:
        Path("folder/other").write_text("text,stars\nFine.,5\n")
        os.replace("folder/other", PLACE)

    with pytest.raises(JournalWriteError, match=r"moved or replaced in mid-run.*no file of results") as stopped:
        during(put_other, server, verb, sent=5)
    assert PLACE.read_text() == "text,stars\nFine.,5\n"
    [kept] = Path("folder").glob("answers.jsonl.kept-*")
    assert str(kept) in str(stopped.value)
    assert answers(kept) >= server.stats(charged=False)["received"] - 5
    kept.replace(PLACE)
    sent, before = server.stats(charged=False)["received"], answers()
    with po.Client(server.base_url) as client:
        verb(client)
    assert server.stats(charged=False)["received"] - sent == ROWS - before


@pytest.mark.parametrize("content", [b"text,stars\nFine.,5\n", b'[{"a":1},{"a":2}]'], ids=repr)
def test_a_file_written_over_the_journal_is_kept_and_answers_go_to_another_file(content: bytes) -> None:
    async def work() -> None:
        with Journal(PLACE) as journal:
            for number in range(2):
                journal.append(b'[{"model":"m","n":%d},{"id":1}]' % number)
                await asyncio.sleep(0.1)
            write_over(content)
            await asyncio.sleep(3)

    with pytest.raises(JournalWriteError, match="is no file of results"):
        asyncio.run(work())
    assert PLACE.read_bytes() == content
    assert answers(Path(f"folder/answers.jsonl.kept-{os.getpid()}")) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has other pipes")
def test_a_pipe_in_place_of_the_journal_does_not_block() -> None:
    def put_pipe() -> None:
        PLACE.unlink()
        os.mkfifo(PLACE)

    with pytest.raises(JournalWriteError, match="no ordinary file"):
        write_while(put_pipe)
    [kept] = PLACE.parent.glob("answers.jsonl.kept-*")
    assert answers(kept) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has other pipes")
def test_preview_does_not_block_on_a_pipe(server: Server) -> None:
    os.mkfifo("pipe")
    df = pd.DataFrame({"text": ["one"]})
    with po.Client(server.base_url) as client, pytest.raises(JournalError, match="no ordinary file"):
        po.preview(df, "text", model="m", save_to="pipe", client=client)


def test_if_the_journals_folder_cannot_be_restored_answers_go_to_its_parent() -> None:
    def put_file() -> None:
        shutil.rmtree(PLACE.parent)
        PLACE.parent.write_text("a file")

    with pytest.raises(JournalWriteError, match="The answers are in") as stopped:
        write_while(put_file)
    [kept] = Path().glob("answers.jsonl.kept-*")
    assert str(kept) in str(stopped.value)
    assert answers(kept) == 1


def test_a_deleted_lock_does_not_let_a_second_run_in(server: Server, client: po.Client) -> None:
    def come_in() -> None:
        LOCK.unlink()
        with pytest.raises(JournalLockedError, match="being written by another run"):
            ask(client)

    during(come_in, server, ask)
    assert server.stats(charged=False)["received"] == ROWS


def test_a_deleted_journal_and_its_lock_are_restored_within_about_a_second() -> None:
    async def work() -> None:
        with Journal(PLACE) as journal:
            journal.append(b'[{"model":"m"},{"id":1}]')
            await asyncio.sleep(0.1)
            shutil.rmtree("folder")
            await asyncio.sleep(1.2)
            assert answers() == 1
            with pytest.raises(JournalLockedError, match=f"process {os.getpid()}"):
                Journal(PLACE)

    asyncio.run(work())


def test_a_run_that_took_over_the_folder_stops_the_first_one() -> None:
    async def work() -> None:
        with Journal(PLACE) as journal:
            journal.append(b'[{"model":"m"},{"id":1}]')
            await asyncio.sleep(0.1)
            shutil.rmtree("folder")
            with Journal(PLACE):
                await asyncio.sleep(3)

    began = time.monotonic()
    with pytest.raises(JournalWriteError, match="is being written by process"):
        asyncio.run(work())
    assert time.monotonic() - began < 2
    assert answers(Path(f"folder/answers.jsonl.kept-{os.getpid()}")) == 1


def test_a_hard_link_is_the_same_file() -> None:
    with Journal(PLACE):
        os.link(PLACE, "other.jsonl")
        with pytest.raises(JournalLockedError, match="under another name"):
            Journal("other.jsonl")
    assert not Path("other.jsonl.lock").exists()


def test_a_change_of_the_working_directory_does_not_move_the_journal(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    with Journal(PLACE) as journal:
        journal.append(b'[{"model":"m"},{"id":1}]')
        os.chdir(tmp_path / "inner")
    os.chdir(tmp_path)
    assert not (tmp_path / "inner" / PLACE).exists()
