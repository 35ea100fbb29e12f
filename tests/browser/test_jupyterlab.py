"""What we promise for notebooks, checked in a real JupyterLab driven by a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parallel_openai.local import simulator
from tests.browser.jupyter import MISSING, Lab, Notebook, see

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"a browser drives JupyterLab in these; missing: {', '.join(MISSING)}"),
]

SET_UP = """\
import pandas as pd
import parallel_openai as po

df = pd.DataFrame({{"text": [f"Lamp number {{n}} is wonderful." for n in range(120)]}})
client = po.Client("{base_url}", max_concurrent_requests=6)
question = dict(model="gpt-4o-mini", client=client)
"""
LABEL = """\
out = po.label_dataframe(df.head(60), "Is it good? {text}", labels=["yes", "no"], **question)
out[["text", "label", "status"]].head(9)"""
LABEL_MORE = """\
out = po.label_dataframe(df, "What is the sentiment? {text}", labels=["positive", "negative"], **question)
out[["text", "label", "status"]].head(9)"""
COUNTS = """\
left = po.last_run().frame  # of a run that did not finish
print((out if left is None else left)["status"].value_counts().to_dict(), po.last_run().requests_sent)"""
AWAIT = """\
out = await po.aprocess_dataframe(df.head(24), "{text}", **question)
out[["text", "response", "status"]].head(9)"""
AWAIT_MORE = """\
out = await po.aprocess_dataframe(df, "Repeat: {text}", **question)
out[["text", "response", "status"]].head(9)"""


@pytest.fixture(scope="module")
def running_server() -> Iterator[simulator.Server]:
    with simulator.serve(max_requests_per_minute=None, latency=0.25) as running:
        yield running


@pytest.fixture
def slow_server(running_server: simulator.Server) -> simulator.Server:
    running_server.reset()
    return running_server


@pytest.fixture(scope="module")
def open_notebook(lab: Lab, page: Any, running_server: simulator.Server) -> Notebook:
    """One for all tests, since opening it takes the longest: the set-up, which has run, and the cells below."""
    set_up = SET_UP.format(base_url=running_server.base_url)
    notebook = Notebook(page, lab.write("reviews.ipynb", set_up, LABEL, LABEL_MORE, COUNTS, AWAIT, AWAIT_MORE))
    notebook.run_to_end(0)
    return notebook


@pytest.fixture
def notebook(open_notebook: Notebook, tmp_path: Path) -> Iterator[Notebook]:
    """What it looked like at the end lies in the test's folder."""
    yield open_notebook
    open_notebook.page.screenshot(path=tmp_path / "at_the_end.png")


def test_the_bar_moves_while_the_cell_runs_and_the_frame_comes_back_as_a_table(
    slow_server: simulator.Server, notebook: Notebook
) -> None:
    notebook.run(1)
    seen: list[str] = []
    while not notebook.tables(1):
        seen.append(notebook.counters(1))
        time.sleep(0.1)
    notebook.wait_for_end(1)

    counts = {int(count) for text in seen for count in re.findall(r"(\d+)/60 ", text)}
    assert len(counts) >= 4
    assert any("6 in flight" in text for text in seen)
    assert "60/60 [0:0" in notebook.counters(1)
    assert notebook.bar_width(1) == pytest.approx(1, abs=0.02)
    assert "progress-bar-success" in notebook.bar(1)
    assert "60 succeeded" in notebook.output(1)
    assert notebook.tables(1) == 1
    assert slow_server.stats()["charged_more_than_once"] == 0


@pytest.mark.parametrize(("cell", "is_awaited"), [(2, False), (5, True)], ids=["a call", "await"])
def test_the_stop_button_stops_the_sending_and_the_next_run_goes_on(
    slow_server: simulator.Server, notebook: Notebook, cell: int, is_awaited: bool
) -> None:
    """A call gives the frame back; what is awaited is a task, which ends cancelled."""
    notebook.run(cell)
    see(lambda: slow_server.stats(charged=False)["answered"] >= 20)

    notebook.stop()
    time.sleep(0.3)
    received = slow_server.stats(charged=False)["received"]
    notebook.wait_for_end(cell)
    time.sleep(0.5)
    assert slow_server.stats(charged=False)["received"] == received
    assert received < 120
    assert "cancelled; run the same again to go on" in notebook.output(cell)
    assert ("CancelledError" in notebook.output(cell)) is is_awaited
    assert notebook.tables(cell) == (0 if is_awaited else 1)
    assert "progress-bar-danger" in notebook.bar(cell)
    statuses = re.search(r"\{'(succeeded|cancelled)': (\d+), '(succeeded|cancelled)': (\d+)", notebook.run_to_end(3))
    assert statuses is not None
    answered = {statuses[1]: int(statuses[2]), statuses[3]: int(statuses[4])}
    assert answered["succeeded"] + answered["cancelled"] == 120

    notebook.run(cell)
    notebook.wait_for_end(cell)
    assert f"{{'succeeded': 120, 'failed': 0, 'cancelled': 0}} {answered['cancelled']}" in notebook.run_to_end(3)
    assert f"{answered['succeeded']} from the journal" in notebook.counters(cell)
    assert "progress-bar-success" in notebook.bar(cell)


def test_a_cell_can_await_a_run_and_rows_that_failed_colour_the_bar(
    slow_server: simulator.Server, notebook: Notebook
) -> None:
    slow_server.set(fault_refusal=0.3)
    notebook.run(4)
    see(lambda: "in flight" in notebook.counters(4))
    notebook.wait_for_end(4)
    assert "24/24 [0:0" in notebook.counters(4)
    assert re.search(r"\d+ failed", notebook.counters(4))
    assert "progress-bar-warning" in notebook.bar(4)
    assert notebook.tables(4) == 1
