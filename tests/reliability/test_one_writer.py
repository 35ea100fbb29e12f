"""One journal has one writer, and any number of readers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._journal.journal import Journal
from parallel_openai.errors import InvalidInputError, JournalError, JournalLockedError
from parallel_openai.local.simulator import Server
from tests.conftest import wait_until_sent
from tests.reliability.kills import ROOT
from tests.reliability.test_disk import needs_strace, small_disk, work
from tests.reliability.worker import rows, write_requests

PLACE = Path("answers.jsonl")
TRACED = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=flock"]


needs_root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can become somebody else")


@contextmanager
def another_process_at_work(
    server: Server, face: str = "frame", count: int = 200, before: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, that has sent something."""
    write_requests(Path("requests.jsonl"), count)
    order = {"face": face, "base_url": server.base_url, "rows": count, "concurrency": 2}
    order |= {"results": str(PLACE.absolute()), "requests": str(Path("requests.jsonl").absolute())}
    command = [*before, sys.executable, "-m", "tests.reliability.worker", json.dumps(order)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        wait_until_sent(server, 1)
        yield process
    finally:
        process.kill()
        process.communicate()


def run_frame(client: po.Client, count: int = 3, **options: Any) -> pd.DataFrame:
    options = {"client": client, "progress": False, "save_to": PLACE, **options}
    return po.process_dataframe(rows(count), "text", model="gpt-4o-mini", **options)


def run_file(client: po.Client) -> object:
    return po.process_api_requests_from_file("requests.jsonl", PLACE, client=client, progress=False)


@pytest.mark.parametrize("verb", [run_frame, run_file])
def test_a_second_process_gets_an_error_that_names_the_writer(server: Server, client: po.Client, verb: Any) -> None:
    server.set(latency=0.2)
    with another_process_at_work(server) as holder, pytest.raises(JournalLockedError) as refused:
        verb(client)
    assert f"process {holder.pid} on" in str(refused.value)
    assert "give this run a save path of its own" in str(refused.value)


def test_the_lock_is_free_after_its_holder_is_killed(server: Server, client: po.Client) -> None:
    server.set(latency=0.2)
    with another_process_at_work(server) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        server.set(latency=0)
        assert run_frame(client)["status"].tolist() == ["succeeded"] * 3


@needs_strace
@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK"])
def test_without_system_locks_a_dead_holder_is_recognised(server: Server, error: str) -> None:
    server.set(latency=0.2)
    without = [*TRACED, "-e", f"inject=flock:error={error}"]
    with another_process_at_work(server, before=without):
        holder = int(Path("answers.jsonl.lock.holder").read_text().split()[0])
        told = work(server, "frame", *without, count=3, results=str(PLACE.absolute()))
        assert told["error"] == "JournalLockedError"
        assert f"is being written by process {holder} on {socket.gethostname()}, since 0 minutes" in told["message"]
        os.kill(holder, signal.SIGKILL)
    server.set(latency=0)
    told = work(server, "frame", *without, count=3, results=str(PLACE.absolute()))
    assert told["statuses"]["succeeded"] == 3
    assert not Path("answers.jsonl.lock.holder").exists()


@needs_strace
def test_a_lock_held_on_another_machine_names_the_file_to_remove(server: Server) -> None:
    holder = Path("answers.jsonl.lock.holder").absolute()
    holder.write_text("12345\nnode-7\n")
    os.utime(holder, (time.time() - 3 * 3600,) * 2)
    told = work(server, "frame", *TRACED, "-e", "inject=flock:error=ENOSYS", count=3, results=str(PLACE.absolute()))
    assert told["error"] == "JournalLockedError"
    assert "process 12345 on node-7, since 3 hours" in told["message"]
    assert f"if that is dead, remove the file {holder}" in told["message"]
    assert server.stats(charged=False)["received"] == 0


@needs_root
def test_a_read_only_folder_is_an_error_with_advice(server: Server) -> None:
    with tempfile.TemporaryDirectory() as mine:
        os.chmod(mine, 0o755)
        first = work(server, uid=65534, count=3, results=f"{mine}/answers.jsonl")
        further = work(server, uid=65534, count=3, results=f"{mine}/folder/answers.jsonl")
    hidden = work(server, uid=65534, count=3)  # in a folder that it may not even look into
    for told, why in ((first, "cannot be locked"), (further, "cannot be made"), (hidden, "cannot be made")):
        assert told["error"] == "JournalError"
        assert why in told["message"]
        assert "This user may not write there: change the permissions, or choose another path." in told["message"]


READERS = """
import os, sys
import pandas as pd, parallel_openai as po
os.setuid(65534)
place, client = sys.argv[1], po.Client("http://127.0.0.1:9/v1", "none")
for read in (
    lambda: po.read_journal(place),
    lambda: po.preview(pd.DataFrame({"text": ["a"]}), "text", model="m", save_to=place, client=client),
    lambda: po.batch_status(place, client=client),
    lambda: po.load(place + ".parquet"),
    lambda: po.process_api_requests_from_file(place, "out.jsonl", client=client),
):
    try:
        read()
    except po.errors.ParallelOpenAIError as error:
        print(error)
"""


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_missing_read_permission_is_an_error_with_advice(mode: int) -> None:
    with tempfile.TemporaryDirectory() as mine:
        Path(mine, "answers.jsonl").touch(0o600)
        os.chmod(mine, mode)
        command = [sys.executable, "-c", READERS, f"{mine}/answers.jsonl"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, len(told.stdout.splitlines())) == (0, 5), told.stderr


@needs_root
def test_a_read_only_file_system_is_an_error_with_advice() -> None:
    with small_disk(64) as disk:
        (disk / "old.jsonl").write_text('[{"model":"m"},{"id":1}]\n')
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for name in ("old.jsonl", "new.jsonl", "folder/new.jsonl"):
            with pytest.raises(JournalError, match=r"Read-only file system\. Choose a path"):
                Journal(disk / name)


def test_a_second_thread_gets_an_error_that_names_the_writer(server: Server, client: po.Client) -> None:
    server.set(latency=0.5)
    first = threading.Thread(target=run_frame, args=(client,))
    first.start()
    wait_until_sent(server, 1)
    with pytest.raises(JournalLockedError, match=f"is being written by process {os.getpid()}"):
        run_frame(client)
    first.join()
    assert len(po.read_journal(PLACE)) == 3


def test_a_journal_has_one_writer_under_any_of_its_paths() -> None:
    Path("folder").mkdir()
    Path("link.jsonl").symlink_to(PLACE)
    with Journal(PLACE):
        for name in ("folder/../answers.jsonl", "link.jsonl", PLACE.absolute()):
            with pytest.raises(JournalLockedError):
                Journal(name)


def test_a_journal_can_be_read_while_a_run_writes_it(server: Server) -> None:
    server.set(latency=0.01)
    counts = []
    with another_process_at_work(server, count=80) as writer:
        while writer.poll() is None:
            if PLACE.exists():
                out = po.read_journal(PLACE)
                counts.append(len(out))
                assert out["status"].eq("succeeded").all()
            time.sleep(0.05)
        counts.append(len(po.read_journal(PLACE)))
    assert counts == sorted(counts)
    assert counts[-1] == 80
    assert len(set(counts)) > 3


def test_read_journal_returns_a_row_for_each_request(server: Server, client: po.Client) -> None:
    server.script([{"status": 400, "code": "odd", "message": "Too odd."}], matching="Review 1")
    out = run_frame(client, metadata="text")
    read = po.read_journal(PLACE).set_index("request_key").loc[out["request_key"]]
    assert read["status"].tolist() == out["status"].tolist() == ["succeeded", "failed", "succeeded"]
    assert read["error_code"].iloc[1] == "odd"
    assert read["error"].iloc[1] == "HTTP 400: Too odd."
    assert read["response"].iloc[1] is None
    assert read["attempts"].tolist() == [1, 1, 1]
    assert read["metadata"].tolist() == [{"text": text} for text in out["text"]]
    assert read["request"].iloc[0]["messages"][0]["content"] == out["text"][0]
    assert abs(read["at"] - pd.Timestamp.now("UTC")).max() < pd.Timedelta(minutes=1)


@pytest.mark.parametrize("verb", [run_frame, partial(run_file)], ids=["frame", "file"])
def test_read_journal_prefers_a_later_success_to_an_earlier_failure(
    server: Server, client: po.Client, verb: Any
) -> None:
    write_requests(Path("requests.jsonl"), 3)
    server.script([400], matching="Review 1")
    for statuses in (["failed", "succeeded", "succeeded"], ["succeeded"] * 3):
        verb(client)
        assert sorted(po.read_journal(PLACE)["status"]) == statuses


def test_read_journal_counts_damaged_lines(client: po.Client) -> None:
    run_frame(client)
    first, *rest = PLACE.read_bytes().splitlines(keepends=True)
    PLACE.write_bytes(first + b"\x00\x00\n" + b"".join(rest) + b'[{"model"')
    out = po.read_journal(PLACE)
    assert (len(out), out.attrs["damaged_lines"]) == (3, 1)


def test_read_journal_of_an_empty_file_is_an_empty_frame() -> None:
    PLACE.touch()
    assert po.read_journal(PLACE).empty


def test_read_journal_refuses_files_that_are_not_journals() -> None:
    with pytest.raises(InvalidInputError, match=r"There is no file of results answers\.jsonl"):
        po.read_journal(PLACE)
    PLACE.write_text("a,b\n1,2\n")
    with pytest.raises(JournalError, match=r"answers\.jsonl is no file of results"):
        po.read_journal(PLACE)
