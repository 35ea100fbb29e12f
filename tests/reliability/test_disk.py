"""A full, broken or slow disk: the run stops at once, says so, and keeps what was written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.origins import Origins, here
from parallel_openai._loop.background import DRAIN_SECONDS
from parallel_openai.errors import InvalidInputError, JournalError, JournalWriteError
from parallel_openai.local.simulator import Server
from tests.conftest import wait_until_sent
from tests.reliability.kills import ROOT
from tests.reliability.worker import rows, write_requests

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (apt-get install strace)")

PLACE = Path("results.jsonl")
ANSWER = {"model": "m", "choices": [{"message": {"content": "Hi. " * 100}, "finish_reason": "stop"}]}


def work(server: Server, face: str = "frame", *before: str, count: int = 30, **order: Any) -> dict[str, Any]:
    """Run in a process of its own and tell how it went."""
    write_requests(Path("requests.jsonl"), count)
    order = {"face": face, "base_url": server.base_url, "rows": count, "results": str(PLACE.absolute()), **order}
    order["requests"] = str(Path("requests.jsonl").absolute())
    command = [*before, sys.executable, "-m", "tests.reliability.worker", json.dumps(order)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def strace(*options: str, log: str = "trace.txt") -> list[str]:
    # With the filter in the kernel, a Python that is traced starts nearly as fast as any.
    traced = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        str(Path(log).absolute()),
        "-P",
        str(PLACE.absolute()),
        *options,
    ]
    return [*traced, "-e", "trace=write,fdatasync"]


def whole_lines(place: Path = PLACE) -> int:
    content = place.read_bytes()
    assert content.endswith(b"\n") or not content
    return len([json.loads(line) for line in content.splitlines()])


@contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    """A file system of that size, where the user may make one."""
    place = Path("disk").absolute()
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this user may not make a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("face", ["frame", "file"])
def test_a_limit_on_file_size_stops_sending_at_once(server: Server, face: str) -> None:
    server.script([{"body": ANSWER}] * 12)
    server.set(latency=100)  # no later answer comes in whose line would find out; those on their way get their time
    told = work(server, face, file_size=4000)
    assert told["error"] == "JournalWriteError"
    assert "results.jsonl failed: File too large. What was written before is kept: make room" in told["message"]
    assert told["seconds"] < DRAIN_SECONDS + 3
    assert 0 < whole_lines() < 12
    assert server.stats(charged=False)["received"] <= 12 + 20


def test_answers_that_could_not_be_written_are_in_the_errors_partial_result(server: Server) -> None:
    server.script([{"body": ANSWER}] * 12)
    server.set(latency=100)
    told = work(server, file_size=4000)
    assert told["statuses"]["succeeded"] > whole_lines()
    assert sum(told["statuses"].values()) == 30


@pytest.mark.parametrize("face", ["frame", "file"])
def test_after_space_was_freed_only_the_rest_is_sent(server: Server, face: str) -> None:
    server.set(latency=0.05)
    work(server, face, file_size=4000, concurrency=4)
    kept, sent = whole_lines(), server.stats(charged=False)["received"]
    told = work(server, face)
    assert told["statuses"]["succeeded"] == whole_lines() == 30
    assert server.stats(charged=False)["received"] - sent == 30 - kept
    assert sent - kept <= 4  # those on their way, which did not fit


def test_a_full_disk_keeps_every_line_that_fits(server: Server) -> None:
    client = po.Client(server.base_url, sync="never")
    with small_disk(64) as disk:
        with pytest.raises(JournalWriteError, match="No space left on device") as stopped:
            po.process_dataframe(rows(300), "text", model="m", save_to=disk / "a.jsonl", client=client, progress=False)
        content = (disk / "a.jsonl").read_bytes()
        kept = whole_lines(disk / "a.jsonl")
        assert content.count(b"\n") == kept
        assert os.statvfs(disk).f_bfree * 4096 + len(content) < 64 * 1024
        statuses = stopped.value.partial["status"].value_counts()
        assert kept <= statuses["succeeded"] < 300
    assert server.stats(charged=False)["received"] < 300


@contextmanager
def full(disk: Path) -> Iterator[Path]:
    """A disk without a free page; gives the file that fills it."""
    with open(disk / "filler", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    yield disk / "filler"


def send_file(place: Path, client: po.Client) -> Any:
    write_requests(Path("requests.jsonl"), 30)
    return po.process_api_requests_from_file("requests.jsonl", place, client=client, progress=False)


def ask(place: Path, client: po.Client) -> Any:
    return po.process_dataframe(rows(30), "text", model="m", save_to=place, client=client, progress=False)


def label(place: Path, client: po.Client) -> Any:
    options: dict[str, Any] = {"labels": ["a", "b"], "model": "m", "save_to": place, "client": client}
    return po.label_dataframe(rows(30), "text", progress=False, **options)


def embed(place: Path, client: po.Client) -> Any:
    options: dict[str, Any] = {"rows_per_request": 1, "dimensions": 8, "save_to": place, "client": client}
    return po.embed_dataframe(rows(30), "text", model="m", progress=False, **options)


@pytest.mark.parametrize("verb", [send_file, ask, label, embed])
@pytest.mark.parametrize("began", [False, True], ids=["new", "half done"])
def test_a_full_disk_is_noticed_before_anything_is_sent(
    server: Server, client: po.Client, verb: Any, began: bool
) -> None:
    with small_disk(256) as disk:
        place = disk / "a.jsonl"
        if began:
            place.write_text('[{"model":"x","messages":[]},["It was refused."]]\n')
        with full(disk), pytest.raises(JournalError, match="No space left on device"):
            verb(place, client)
    assert server.stats(charged=False)["received"] == 0


def test_on_a_full_disk_known_answers_are_still_used(server: Server, client: po.Client) -> None:
    with small_disk(256) as disk:
        ask(disk / "a.jsonl", client)
        sent = server.stats(charged=False)["received"]
        with full(disk):
            assert ask(disk / "a.jsonl", client)["status"].eq("succeeded").all()
    assert server.stats(charged=False)["received"] == sent


def test_lines_that_a_full_disk_refused_are_written_later() -> None:
    async def work() -> None:
        with Journal(place) as journal:
            journal.append(line(0))
            await asyncio.sleep(0.1)
            with full(disk) as filler:
                for number in range(1, 20):
                    journal.append(line(number))
                try:
                    await asyncio.sleep(5)  # the disk refuses, and the task ends
                except asyncio.CancelledError:
                    journal.append(line(20))  # what was on its way
                    filler.unlink()
                    raise

    def line(number: int) -> bytes:
        return json.dumps([{"model": "m", "n": number}, {"a": "x" * 900}]).encode()

    with small_disk(64) as disk:
        place = disk / "a.jsonl"
        with pytest.raises(JournalWriteError, match=r"No space left on device\. What was written before is kept"):
            asyncio.run(work())
        assert [json.loads(each)[0]["n"] for each in place.read_bytes().splitlines()] == list(range(21))


def test_lines_that_could_never_be_written_are_counted_and_written_by_the_next_journal() -> None:
    async def work() -> None:
        with Journal(place, origin=here("http://there/v1")) as journal, full(disk):
            for number in range(9):
                journal.append(b'[{"model":"m"},{"id":"%4000d"}]' % number)
            await asyncio.sleep(5)

    with small_disk(64) as disk:
        place = disk / "a.jsonl"
        with pytest.raises(JournalWriteError, match="9 answers are still to be written"):
            asyncio.run(work())
        with pytest.raises(JournalWriteError, match="No space left on device"):
            Journal(place)
        assert place.read_bytes() == b""
        (disk / "filler").unlink()
        with Journal(place, origin=here("http://elsewhere/v1")) as journal:
            journal.append(b'[{"model":"m"},{"id":"9"}]')
        assert [int(json.loads(each)[1]["id"]) for each in place.read_bytes().splitlines()] == list(range(10))
        offsets = 0, sum(len(each) for each in place.read_bytes().splitlines(keepends=True)[:9])
        assert [Origins(place).of(offset) for offset in offsets] == [
            here("http://there/v1"),
            here("http://elsewhere/v1"),
        ]


@pytest.mark.parametrize("verb", [send_file, ask, label, embed])
def test_answers_in_flight_when_the_disk_was_full_are_paid_once(server: Server, verb: Any) -> None:
    server.set(latency=0.3)

    def fill() -> None:
        wait_until_sent(server, 6)
        with full(disk):
            pass

    with small_disk(256) as disk, po.Client(server.base_url, max_concurrent_requests=3) as slow:
        place = disk / "a.jsonl"
        thread = threading.Thread(target=fill)
        thread.start()
        with pytest.raises(JournalWriteError, match="still to be written"):
            verb(place, slow)
        thread.join()
        (disk / "filler").unlink()
        verb(place, slow)
        assert len(po.read_journal(place)) == 30
    assert server.stats(charged=False)["received"] == 30


def test_nothing_is_flushed_to_a_journal_closed_on_a_full_disk() -> None:
    uncaught: list[str] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: uncaught.append(context["message"]))
        with pytest.raises(JournalWriteError), Journal(place) as journal, full(disk):
            journal.append(b'[{"model":"m"},{"n":"%4000d"}]' % 1)
        await asyncio.sleep(0)

    with small_disk(64) as disk:
        place = disk / "a.jsonl"
        asyncio.run(work())
    assert uncaught == []


@pytest.mark.parametrize("verb", [send_file, ask, label, embed])
def test_a_disk_full_for_a_moment_loses_no_paid_answer(server: Server, verb: Any) -> None:
    server.set(latency=0.3)

    def fill_for_a_moment() -> None:
        wait_until_sent(server, 6)
        with full(disk) as filler:
            time.sleep(0.4)
            filler.unlink()

    with small_disk(256) as disk, po.Client(server.base_url, max_concurrent_requests=3) as slow:
        place = disk / "a.jsonl"
        thread = threading.Thread(target=fill_for_a_moment)
        thread.start()
        try:
            verb(place, slow)
        except JournalWriteError:
            pass
        thread.join()
        verb(place, slow)
        assert len(po.read_journal(place)) == 30
    assert server.stats(charged=False)["received"] == 30


def test_a_block_that_fits_only_partly_keeps_its_complete_lines() -> None:
    async def write_at_once() -> None:
        with Journal(place) as journal:
            for number in range(10):  # one turn of the loop, so one write
                journal.append(json.dumps([{"n": number}, {"a": "x" * 900}]).encode())
            await asyncio.sleep(5)

    with small_disk(12) as disk:  # three pages, one of which is the lock's
        place = disk / "a.jsonl"
        (disk / "other").write_bytes(b"x" * 3000)
        with pytest.raises(JournalWriteError):
            asyncio.run(asyncio.wait_for(write_at_once(), 3))
        assert [json.loads(line)[0]["n"] for line in place.read_bytes().splitlines()] == list(range(whole_lines(place)))
        assert whole_lines(place) > 0


@needs_strace
@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_broken_disk_stops_the_run(server: Server, call: str) -> None:
    server.set(latency=0.1)
    inject = strace("-e", f"inject={call}:error=EIO:when=2+")
    told = work(server, "frame", *inject, count=1000, concurrency=10)
    assert told["error"] == "JournalWriteError"
    assert "failed: Input/output error. What was written before is kept" in told["message"]
    assert 0 < whole_lines() <= told["statuses"]["succeeded"] < 1000


@needs_strace
def test_an_interrupted_write_is_repeated(server: Server) -> None:
    inject = strace("-e", "inject=write:error=EINTR:when=1+2")
    assert work(server, "frame", *inject)["statuses"]["succeeded"] == whole_lines() == 30


@needs_strace
@pytest.mark.parametrize(
    ("sync", "least", "most"), [("never", 0, 0), ("second", 2, 5), ("always", 10, 1000)], ids=lambda value: str(value)
)
def test_the_journal_is_synced_as_often_as_requested(server: Server, sync: str, least: int, most: int) -> None:
    server.set(latency=0.2)
    work(server, "frame", *strace(), concurrency=3, sync=sync)  # ten turns of 0.2 s
    calls = re.findall(r"\b(write|fdatasync)\(", Path("trace.txt").read_text())
    assert least <= calls.count("fdatasync") <= most
    if sync == "always":
        assert calls.count("fdatasync") >= calls.count("write")


@needs_strace
def test_a_single_line_is_synced_within_about_a_second(server: Server) -> None:
    server.script([{"body": ANSWER}])
    server.set(latency=2.2)  # nothing more is written for so long
    work(server, "frame", *strace("-ttt"), count=2, concurrency=2)
    moments = re.findall(r"([\d.]+) (write|fdatasync)\(", Path("trace.txt").read_text())
    [(written, first), (synced, second)] = moments[:2]
    assert (first, second) == ("write", "fdatasync")
    assert float(synced) - float(written) < 2


@pytest.mark.parametrize("sync", ["sometimes", None, True])
def test_an_unknown_value_of_sync_is_refused(sync: Any) -> None:
    with pytest.raises(InvalidInputError, match="sync must be 'second', 'always' or 'never', not"):
        po.Client("http://127.0.0.1:9", sync=sync)
