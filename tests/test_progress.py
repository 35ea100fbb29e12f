"""The progress display, in a terminal and in a log."""

from __future__ import annotations

import io
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr

import pytest

from parallel_openai import Client, process_api_requests_from_file
from parallel_openai._progress.counter_text import Counters, fit
from parallel_openai._progress.number_format import clock_time, dollars, short
from parallel_openai._progress.progress import Progress
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai.local.simulator import Server
from tests.conftest import wait_until_sent
from tests.terminals import Clock, Limits, Terminal, posix_only, start, terminal_as_stderr


def a_busy_run() -> StatusTracker:
    return StatusTracker(
        num_tasks_total=3_000,
        num_tasks_succeeded=1_348,
        num_tasks_restored=400,
        num_tasks_failed=2,
        num_retries=31,
        num_tasks_in_progress=80,
        num_requests_sent=1_000,
        prompt_tokens=40_000,
        completion_tokens=5_000,
        cost_usd=0.1234,
    )


def counters_after(seconds: float, status: StatusTracker, limits: Limits | None = None) -> Counters:
    clock = Clock()
    counters = Counters(status, limits or Limits(), "row", clock)
    clock.now += seconds
    return counters


def test_the_line_shows_all_counters_if_there_is_room() -> None:
    counters = counters_after(100, a_busy_run(), Limits(600, 30_000))
    assert counters.line() == (
        "1,350/3,000 [1:40<2:53], 2 failed, 31 retried, 80 in flight, 600/600 req/min, 27k/30k tok/min, $0.12, "
        "400 from the journal"
    )


def test_the_most_important_counters_are_kept_in_a_narrow_line() -> None:
    counters = counters_after(100, a_busy_run(), Limits(600, 30_000))
    assert counters.line(60) == "1,350/3,000 [1:40<2:53], 2 failed, 600/600 req/min, $0.12"


def test_the_count_is_shown_however_narrow_it_is() -> None:
    assert counters_after(0, StatusTracker(num_tasks_total=5)).line(3) == "0/5 [0:00<?]"


def test_rates_are_not_shown_in_the_first_seconds() -> None:
    status = StatusTracker(num_tasks_total=10, num_tasks_succeeded=5, num_requests_sent=5)
    assert counters_after(0.5, status).line() == "5/10 [0:00<?]"


def test_a_rate_of_zero_is_not_shown_while_waiting_for_the_last_answers() -> None:
    clock, status = Clock(), StatusTracker(num_tasks_total=10, num_tasks_in_progress=3)
    counters = Counters(status, Limits(600), "row", clock)
    for seconds in range(40):
        clock.now += 1
        status.num_requests_sent = min(seconds, 10)
        status.num_tasks_succeeded = max(0, status.num_requests_sent - 3)
        counters.line()
    assert counters.line() == "7/10 [0:40<?], 3 in flight"


def test_the_remaining_time_is_not_extrapolated_from_a_burst() -> None:
    status = StatusTracker(num_tasks_total=1_200, num_tasks_succeeded=600, num_requests_sent=600)
    assert counters_after(3, status, Limits(600)).line().startswith("600/1,200 [0:03<1:00]")


def test_answers_from_the_journal_do_not_count_towards_the_rate() -> None:
    status = StatusTracker(num_tasks_total=1_000, num_tasks_succeeded=500, num_tasks_restored=500)
    assert counters_after(5, status).line().startswith("500/1,000 [0:05<?]")


def test_no_remaining_time_is_shown_while_the_journal_is_read() -> None:
    """They would be taken for rows to be sent, at the pace of the few that are."""
    status = StatusTracker(num_tasks_total=1_000_000, num_tasks_succeeded=510, num_tasks_restored=500)
    status.num_tasks_to_restore = 999_480
    assert "<?]" in counters_after(10, status).line()
    status.num_tasks_to_restore = 0
    assert "<?]" not in counters_after(10, status).line()


def test_rates_are_those_of_the_last_seconds() -> None:
    clock, status = Clock(), StatusTracker(num_tasks_total=1_000)
    counters = Counters(status, Limits(), "row", clock)
    for _ in range(60):  # a minute of one request a second ...
        clock.now += 1
        status.num_requests_sent += 1
        counters.line()
    for _ in range(20):  # ... and then two
        clock.now += 1
        status.num_requests_sent += 2
        counters.line()
    assert "120 req/min" in counters.line()


def test_a_finished_run_shows_its_duration_and_mean_rate() -> None:
    clock, status = Clock(), StatusTracker(num_tasks_total=50)
    counters = Counters(status, Limits(), "row", clock)
    for _ in range(50):
        clock.now += 1
        status.num_requests_sent += 1
        status.num_tasks_succeeded += 1
        counters.line()
    clock.now += 50
    counters.finish()
    assert counters.line() == "50/50 [1:40], 30 req/min"


def test_a_run_of_unknown_length_counts_what_is_done() -> None:
    assert counters_after(1, StatusTracker(num_tasks_succeeded=7)).line() == "7 rows [0:01]"


@pytest.mark.parametrize(("done", "total", "percent"), [(0, 7, 0), (999, 1_000, 99), (7, 7, 100), (0, 0, 100)])
def test_the_percentage_is_rounded_down(done: int, total: int, percent: int) -> None:
    status = StatusTracker(num_tasks_total=total, num_tasks_succeeded=done)
    assert counters_after(1, status).percent == percent


@posix_only
@pytest.mark.parametrize("columns", [40, 80, 100, 160])
def test_the_bar_never_wraps(columns: int) -> None:
    with terminal_as_stderr(columns) as terminal:
        clock, status = Clock(), a_busy_run()
        progress = Progress(status, Limits(600, 30_000), show=True, clock=clock)
        for _ in range(30):
            clock.now += 1
            status.num_tasks_succeeded += 7
            progress.tick()
        progress.close("The end.")
    *before, bar, end = terminal.lines()
    assert before == []
    assert bar.startswith(" 52%|█████")
    assert "| 1,560/3,000 [0:30]" in bar
    assert len(bar) <= columns - 3
    assert end == "The end."


@posix_only
def test_bars_of_two_runs_leave_nothing_behind_whichever_ends_first() -> None:
    with terminal_as_stderr(100) as terminal:
        first, second = (StatusTracker(num_tasks_total=10) for _ in range(2))
        bars = [Progress(status, Limits(), show=True, clock=Clock()) for status in (first, second)]
        for status, bar in zip((first, second), bars, strict=True):
            status.num_tasks_succeeded = 5
            bar.tick()
        bars[0].close("The first has ended.")
        bars[1].tick()
        bars[1].close("The second has ended.")
    assert [line.split("|")[-1].strip() for line in terminal.lines()] == [
        "5/10 [0:00]",
        "The first has ended.",
        "5/10 [0:00]",
        "The second has ended.",
    ]


def test_without_a_terminal_a_short_run_prints_only_the_closing_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    progress = Progress(StatusTracker(num_tasks_total=10), Limits(), show=True, clock=clock)
    for _ in range(20):
        clock.now += 0.2
        progress.tick()
    progress.close("The end.")
    assert capsys.readouterr().err == "The end.\n"


def test_a_long_run_prints_a_line_every_few_seconds_and_then_fewer(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = Progress(StatusTracker(num_tasks_total=10), Limits(), show=True, clock=clock)
    for _ in range(5 * 600):
        clock.now += 0.2
        progress.tick()
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0/10 [0:05<?]"
    assert 25 < len(lines) < 45


def test_with_progress_false_nothing_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = Progress(StatusTracker(num_tasks_total=10), Limits(), show=False, clock=clock)
    clock.now += 60
    progress.tick()
    progress.close("The end.")
    assert capfd.readouterr() == ("", "")


def test_a_program_without_a_console_shows_nothing() -> None:
    with redirect_stderr(None):
        progress = Progress(StatusTracker(), Limits(), show=True)
        progress.tick()
        progress.close("The end.")


def test_a_run_survives_the_loss_of_its_terminal() -> None:
    clock, gone = Clock(), io.StringIO()
    gone.close()
    with redirect_stderr(io.StringIO()):
        progress = Progress(StatusTracker(), Limits(), show=True, clock=clock)
    with redirect_stderr(gone):
        clock.now += 60
        progress.tick()
        progress.close("The end.")


@pytest.mark.parametrize(
    ("told", "text"),
    [(short(999), "999"), (short(1e9), "1G"), (clock_time(0), "0:00"), (dollars(5), "$5.00"), (fit([], 5), [])],
)
def test_numbers_are_short(told: object, text: object) -> None:
    assert told == text


SLOW_RUN = """
import sys, threading
import pandas as pd
import parallel_openai as po

df = pd.DataFrame({"text": [f"Lamp {n}" for n in range(40)]})
with po.local.simulator.serve(max_requests_per_minute=None, latency=0.25) as server:
    client = po.Client(server.base_url, max_concurrent_requests=4)
    ask = lambda rows: po.process_dataframe(rows, "{text}?", model="gpt-4o-mini", client=client, save_to="j.jsonl")
"""
IN_THE_MAIN_THREAD = (
    SLOW_RUN
    + """
    try:
        ask(df)
    except KeyboardInterrupt as stop:
        print(stop.partial.status.value_counts().to_dict())
"""
)
IN_ANOTHER_THREAD = SLOW_RUN + "    t = threading.Thread(target=ask, args=(df.head(8),)); t.start(); t.join()\n"


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    give_up_at = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


@posix_only
def test_an_interrupted_script_leaves_a_clean_terminal() -> None:
    terminal = Terminal(100)
    run = start(IN_THE_MAIN_THREAD, stdout=terminal.slave, stderr=terminal.slave)
    wait_for(lambda: "4 in flight" in terminal.text and "| 8/40" in terminal.text)
    run.send_signal(2)
    assert run.wait(30) == 0
    terminal.close()
    bar, *closing, counts = terminal.lines()
    assert "%|██" in bar
    assert "/40 [0:0" in bar
    assert "cancelled; run the same again to go on" in "".join(closing)
    assert counts.startswith("{")


@posix_only
def test_a_bar_can_be_shown_from_another_thread() -> None:
    terminal = Terminal(100)
    run = start(IN_ANOTHER_THREAD, stdout=terminal.slave, stderr=terminal.slave)
    assert run.wait(60) == 0
    terminal.close()
    assert "| 8/8 [0:0" in terminal.lines()[0]


def test_a_script_whose_output_is_piped_prints_one_line_for_a_short_run() -> None:
    run = start(IN_ANOTHER_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, said = run.communicate(timeout=60)
    assert printed == b""
    [line] = said.decode().splitlines()
    assert line.startswith("SIMULATED answers. 8 rows in ")


def write_requests(mode: str, count: int) -> None:
    request = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}
    with open("in.jsonl", mode) as file:
        file.write(count * f"{json.dumps(request)}\n")


@posix_only
def test_a_run_on_a_file_shows_how_many_requests_there_are_and_the_time_left(server: Server) -> None:
    write_requests("w", 24)
    server.set(latency=0.4)
    with Client(server.base_url, max_concurrent_requests=4) as client, terminal_as_stderr(80) as terminal:
        process_api_requests_from_file("in.jsonl", client=client)
    assert re.search(r"0/24 \[0:00<\?\]", terminal.text)
    assert re.search(r"\d+/24 \[0:02<0:0\d\]", terminal.text)


@posix_only
def test_a_file_that_grows_while_it_is_run_has_no_total_until_its_end(server: Server) -> None:
    write_requests("w", 3)
    server.set(latency=0.4)

    def add_more() -> None:
        wait_until_sent(server, 1)
        write_requests("a", 3)

    adding = threading.Thread(target=add_more)
    with Client(server.base_url, max_concurrent_requests=1) as client, terminal_as_stderr(80) as terminal:
        adding.start()
        status = process_api_requests_from_file("in.jsonl", client=client)
        adding.join()
    assert (status.num_tasks_succeeded, status.num_tasks_total) == (6, 6)
    shown = re.findall(r"\d+/\d+ |\d requests ", terminal.text)
    assert {"2/3 ", "4 requests ", "6/6 "} <= set(shown)
    assert "4/3 " not in shown
