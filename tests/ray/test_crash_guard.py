"""A crash that comes a moment after the call that caused it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from parallel_openai._ray.crash_guard import MOST_DEATHS, CrashGuard


def test_a_value_that_ends_the_process_a_moment_after_the_call_is_found_out_and_no_other(tmp_path: Path) -> None:
    note, deaths = tmp_path / "note", tmp_path / "deaths"
    for _ in range(1 + MOST_DEATHS):  # the first death can only tell what was called before it
        ask = CrashGuard(note, deaths).watch(str.upper, "not called: {}".format)
        left: list[bytes] = []
        threading.Timer(0.005, lambda: left.append(note.read_bytes())).start()  # noqa: B023
        assert ask("bad") == "BAD"
        ask("good")
        give_up_at = time.monotonic() + 5
        while not left and time.monotonic() < give_up_at:
            time.sleep(0.001)
        note.write_bytes(left[0])  # as it was when the process ended
    ask = CrashGuard(note, deaths).watch(str.upper, "not called: {}".format)
    assert ask("bad").startswith("not called: It has ended 3 workers")
    assert ask("good") == "GOOD"
