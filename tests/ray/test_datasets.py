"""Ray datasets on a real local cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._disk.locking import Lock
from parallel_openai.errors import (
    ColumnExistsError,
    InvalidInputError,
    JournalError,
    JournalLockedError,
    RunStoppedError,
)
from parallel_openai.local import simulator

KEY = "sk-proj-very-secret-0123456789"
LIMIT = 6000  # a minute: 100 a second

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest.mark.usefixtures("cluster")
def test_a_dataset_keeps_its_order_and_the_next_call_reuses_its_answers(tmp_path: Path) -> None:
    import ray.data

    settings: dict[str, Any] = {"max_requests_per_minute": LIMIT, "burst_seconds": 1.0}
    with simulator.serve(separate_process=True, **settings) as server, po.Client(server.base_url, KEY) as client:
        for blocks in (2, 3):  # also where the rows are divided otherwise
            ds = ray.data.from_items([{"text": f"row {number}"} for number in range(60)], override_num_blocks=blocks)
            out = po.process_dataset(
                ds, "Say {text}", model="m", save_to=tmp_path, workers=2, client=client, progress=False
            )
            rows = out.take_all()
            assert [row["text"] for row in rows] == [f"row {number}" for number in range(60)]
            assert {row["status"] for row in rows} == {"succeeded"}
        assert server.stats(charged=False)["received"] == 60
    assert sum(len(path.read_bytes().splitlines()) for path in tmp_path.glob("part-*.jsonl")) == 60


def rows(count: int, blocks: int) -> Any:
    import ray.data

    return ray.data.from_items([{"text": f"row {number}"} for number in range(count)], override_num_blocks=blocks)


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """A dataset through two workers."""

    fixed: dict[str, Any] = {"workers": 2, "progress": False}

    def asking(server: Any, ds: Any, prompt: Any = "Say {text}", **options: Any) -> Any:
        with po.Client(server.base_url, KEY) as client:
            return po.process_dataset(
                ds, prompt, model="m", save_to=tmp_path / "answers", client=client, **{**fixed, **options}
            )

    return asking


@pytest.mark.usefixtures("cluster")
def test_an_interrupt_of_a_dataset_run_stops_every_worker_and_the_same_call_resumes(ask: Callable[..., Any]) -> None:
    settings: dict[str, Any] = {"max_requests_per_minute": 1200, "burst_seconds": 1.0}
    with simulator.serve(separate_process=True, **settings) as server:
        counts: list[int] = []

        def stop() -> None:
            give_up_at = time.monotonic() + 60
            while server.stats(charged=False)["received"] < 20 and time.monotonic() < give_up_at:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            for seconds in (1.5, 1.5):
                time.sleep(seconds)
                counts.append(server.stats(charged=False)["received"])

        stopping = threading.Thread(target=stop)
        stopping.start()
        with pytest.raises(KeyboardInterrupt) as stopped:
            ask(server, rows(160, 4))
        stopping.join()
        assert counts[0] == counts[1] < 100
        finished = [row["status"] for row in vars(stopped.value)["partial"].take_all()]
        assert finished.count("succeeded") == counts[0] == 160 - finished.count("cancelled")
        assert {row["status"] for row in ask(server, rows(160, 4)).take_all()} == {"succeeded"}
        assert server.stats(charged=False)["received"] == 160


@pytest.mark.usefixtures("cluster")
def test_a_row_that_crashes_its_worker_fails_and_the_others_are_answered(ask: Callable[..., Any]) -> None:
    def prompt(row: Any) -> str:
        if row["text"] in ends:
            os.kill(os.getpid(), ends[row["text"]])
        return f"Say {row['text']}"

    ends = {"row 3": signal.SIGKILL, "row 4": signal.SIGSEGV}  # of which the one ends the process a moment later

    with simulator.serve(separate_process=True, max_requests_per_minute=LIMIT) as server:
        out = ask(server, rows(8, 2), prompt).take_all()
        assert [row["status"] for row in out] == ["succeeded"] * 3 + ["failed"] * 2 + ["succeeded"] * 3
        assert all("has ended 3 workers" in row["error"] for row in out[3:5])


@pytest.mark.usefixtures("cluster")
def test_workers_that_always_crash_stop_the_run_and_pay_for_nothing_twice(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    def parse(text: str) -> Any:
        deadly = type("Deadly", (), {"__reduce__": lambda self: os.kill(os.getpid(), signal.SIGKILL)})
        return deadly() if "row 3" in text else text

    with simulator.serve(separate_process=True, max_requests_per_minute=LIMIT) as server:
        with pytest.raises(RunStoppedError, match="A worker has died 3 times without an answer") as stopped:
            ask(server, rows(8, 2), parse=parse)
        assert vars(stopped.value)["partial"].count() == 8
        assert server.stats(charged=False)["received"] == 8
        assert [row["status"] for row in ask(server, rows(8, 2)).take_all()] == ["succeeded"] * 8
        assert server.stats(charged=False)["received"] == 8
    left = {path.name for path in (tmp_path / "answers").iterdir() if path.suffix != ".jsonl"}
    assert left == {".gitignore"}


@pytest.mark.usefixtures("cluster")
def test_a_nested_call_fails_its_rows_and_does_not_block_its_worker(ask: Callable[..., Any]) -> None:
    def prompt(row: Any) -> str:
        inner = po.Client("http://127.0.0.1:9/v1")
        out = po.process_dataframe(pd.DataFrame({"text": ["a"]}), "text", model="m", client=inner, progress=False)
        return str(out["response"][0])

    with simulator.serve() as server:
        out = ask(server, rows(8, 4), prompt).take_all()
        assert server.stats()["received"] == 0
    assert {row["error_code"] for row in out} == {"prompt_error"}
    assert all("called parallel_openai again" in row["error"] for row in out)


@pytest.mark.usefixtures("cluster")
def test_a_second_run_on_a_folder_is_refused_while_one_goes_on(ask: Callable[..., Any], tmp_path: Path) -> None:
    lock = Lock(tmp_path / "answers")
    try:
        with simulator.serve() as server:
            with pytest.raises(JournalLockedError, match="process"):
                ask(server, rows(4, 2))
            assert server.stats()["received"] == 0
    finally:
        lock.release()


@pytest.mark.usefixtures("cluster")
def test_an_answer_that_a_dataset_cannot_hold_fails_alone_and_a_column_that_a_block_lacks_is_empty(
    ask: Callable[..., Any],
) -> None:
    import ray.data

    texts = ray.data.from_pandas(pd.DataFrame({"text": ["a", "b"]}))
    both = texts.union(ray.data.from_pandas(pd.DataFrame({"more": [1, 2]}))).materialize()
    with simulator.serve(max_requests_per_minute=None) as server:
        out = ask(server, both, parse=lambda text: "\ud800" if " a " in text else text).take_all()
        assert server.stats()["received"] == 2
    assert [row["status"] for row in out] == ["failed", "succeeded", "failed", "failed"]
    assert [row["error_code"] for row in out] == ["malformed_response", None, "missing_prompt", "missing_prompt"]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("blocks", [1, 4])
def test_a_column_of_strings_and_other_things_fails_where_it_is_empty_and_is_asked_elsewhere(
    ask: Callable[..., Any], blocks: int
) -> None:
    import ray.data

    items = [{"text": each} for each in ("a", float("nan"), None, 3)]
    with simulator.serve(max_requests_per_minute=None) as server:
        out = ask(server, ray.data.from_items(items, override_num_blocks=blocks)).take_all()
        assert server.stats()["received"] == 2
    assert [row["status"] for row in out] == ["succeeded", "failed", "failed", "succeeded"]
    assert [row["error_code"] for row in out] == [None, "missing_prompt", "missing_prompt", None]
    assert (out[0]["text"], out[3]["text"]) == ("a", 3)


@pytest.mark.usefixtures("cluster")
def test_a_block_that_cannot_be_processed_stops_the_run_with_a_clear_error(ask: Callable[..., Any]) -> None:
    import ray.data

    blocks = [ray.data.from_pandas(pd.DataFrame({"text": ["a", "b"], **more})) for more in ({}, {"response": ["", ""]})]
    with simulator.serve() as server, pytest.raises(ColumnExistsError, match="already has 'response'"):
        ask(server, blocks[0].union(blocks[1]), workers=1)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("how", ["without columns", "with columns"])
def test_an_empty_dataset_has_the_added_columns(ask: Callable[..., Any], how: str) -> None:
    import ray.data

    empty = pd.DataFrame({"text": pd.Series(dtype=str)})
    ds = ray.data.from_items([]) if how == "without columns" else ray.data.from_pandas(empty)
    with simulator.serve() as server:
        out = ask(server, ds)
    assert out.count() == 0
    assert {"response", "status", "error"} <= set(out.schema().names)


@pytest.mark.usefixtures("cluster")
def test_a_budget_of_a_dataset_run_is_kept_over_all_workers_and_nearly_used_up(ask: Callable[..., Any]) -> None:
    with simulator.serve(max_requests_per_minute=None, latency=0.05, answer_tokens=5) as server:
        out = ask(server, rows(200, 8), "text", max_tokens=10, budget_tokens=700).take_all()
        stats = server.stats()
    assert 500 < stats["prompt_tokens"] + stats["completion_tokens"] <= 700
    assert sum(row["status"] == "succeeded" for row in out) == stats["received"]
    left = [row["error"] for row in out if row["error_code"] == "budget"]
    assert len(left) == 200 - stats["received"]
    assert left[0].startswith("What is left of the budget of 700 tokens is too small")


@pytest.mark.usefixtures("cluster")
def test_unpicklable_arguments_and_a_foreign_file_in_the_folder_are_clear_errors(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    lock = threading.Lock()
    with simulator.serve() as server:
        with pytest.raises(InvalidInputError, match=r"cannot be sent to other processes \(TypeError: .*lock"):
            ask(server, rows(4, 2), lambda row: f"{lock} {row['text']}")
        with pytest.raises(InvalidInputError, match="A budget needs a cap on every answer"):
            ask(server, rows(4, 2), budget_tokens=100)
        (tmp_path / "answers").mkdir()
        (tmp_path / "answers" / "part-foreign.jsonl").write_text("{}\n")
        with pytest.raises(JournalError, match="is no file of results"):
            ask(server, rows(4, 2))
        assert server.stats()["received"] == 0
