"""A crash that comes a moment after the call that caused it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from parallel_openai._ray.crash_guard import MOST_DEATHS, CrashGuard
from parallel_openai._ray.worker_journals import remove_leftovers


def test_only_the_row_that_crashes_the_process_shortly_afterwards_is_blamed(tmp_path: Path) -> None:
    note, deaths = tmp_path / "note", tmp_path / "deaths"
    for _ in range(12):  # the first death can only tell what was called before it; a busy machine may miss the moment
        ask = CrashGuard(note, deaths).watch(str.upper, "not called: {}".format)
        left: list[bytes] = []
        threading.Timer(0.005, lambda: left.append(note.read_bytes())).start()  # noqa: B023
        if ask("bad") != "BAD":
            break
        ask("good")
        give_up_at = time.monotonic() + 5
        while not left and time.monotonic() < give_up_at:
            time.sleep(0.001)
        note.write_bytes(left[0])  # as it was when the process ended
    ask = CrashGuard(note, deaths).watch(str.upper, "not called: {}".format)
    assert deaths.stat().st_size >= 8 * MOST_DEATHS
    assert ask("bad").startswith("not called: It has ended 3 workers")
    assert ask("good") == "GOOD"


def test_crashes_count_until_an_answer_arrives_or_a_row_is_blamed(tmp_path: Path) -> None:
    note, deaths = tmp_path / "note", tmp_path / "deaths"
    assert [CrashGuard(note, deaths).deaths_in_vain for _ in range(4)] == [0, 1, 2, 3]
    CrashGuard(note, deaths).has_answer()
    assert [CrashGuard(note, deaths).deaths_in_vain for _ in range(2)] == [1, 2]
    left = note.read_bytes()
    note.write_bytes(b"the row." + left[8:])
    assert [CrashGuard(note, deaths).deaths_in_vain for _ in range(2)] == [0, 1]
    note.write_bytes(b"")  # of a process that died while it made the note
    assert CrashGuard(note, deaths).deaths_in_vain == 0


def test_only_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    run, part = ".run-0123456789ab", "part-0123456789abcdef.0123456789ab.jsonl"
    for name in (run, f"{run}-deaths", f"{run}-{'0a' * 16}", f"{part}.lock"):
        (tmp_path / name).write_text("")
    kept = [part, "part-1.jsonl.lock", ".run-mine", f"{run}.txt", "notes.lock", "thesis"]
    for name in kept:
        (tmp_path / name).write_text("")
    (tmp_path / ".run-aaaaaaaaaaaa").symlink_to(tmp_path / "thesis")
    (tmp_path / ".run-bbbbbbbbbbbb").mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".run-aaaaaaaaaaaa", ".run-bbbbbbbbbbbb"}
