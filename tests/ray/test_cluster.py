"""Runs on a real local cluster: several processes share one limit, and one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._disk.locking import Lock
from parallel_openai._json import loads
from parallel_openai._ray import cluster as cluster_module
from parallel_openai._ray.cluster import AccountHandle
from parallel_openai._ray.shared_budget import NOTHING
from parallel_openai.errors import (
    AuthenticationError,
    ColumnExistsError,
    InvalidInputError,
    JournalError,
    JournalLockedError,
    RunStoppedError,
)
from parallel_openai.local import simulator
from tests.documents import ROOT, reader_in, run

ray = pytest.importorskip("ray", reason="Ray has no wheel for this Python")
KEY = "sk-proj-very-secret-0123456789"
TWO = po.RayLane(workers=2)
LIMIT = 6000  # a minute: 100 a second

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Its folder of logs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=100 << 20,
    )
    yield Path(ray._private.worker._global_node.get_session_dir_path())
    ray.shutdown()


def workers_of(server: Any, seconds: float) -> list[int]:
    """The processes of the workers that are alive, as soon as the server has heard from them."""
    give_up_at = time.monotonic() + seconds
    while server.stats(charged=False)["received"] < 100 and time.monotonic() < give_up_at:
        time.sleep(0.05)
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if place.read_bytes().startswith(b"ray::Worker"):
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


def test_a_run_by_two_workers_keeps_the_rows_the_limit_and_the_secret_also_when_one_is_killed(cluster: Path) -> None:
    df = pd.DataFrame(
        {"text": [f"row {number}" for number in range(400)], "kind": pd.Categorical(["a", "b"] * 200)},
        index=pd.MultiIndex.from_product([["x", "y"], range(200)]),
    )
    settings: dict[str, Any] = {"max_requests_per_minute": LIMIT, "burst_seconds": 1.0, "latency": 0.1}
    with simulator.serve(separate_process=True, required_api_key=KEY, **settings) as server:
        killed: list[int] = []

        def kill_one() -> None:
            killed.extend(workers_of(server, 60)[:1])
            for process in killed:
                os.kill(process, signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        client = po.Client(server.base_url, KEY)
        out = po.process_dataframe(
            df, "Say {text}", model="gpt-4o-mini", client=client, lane=po.RayLane(2), progress=False
        )
        killer.join()
        stats = server.stats()
        again = po.process_dataframe(df[::-1], "Say {text}", model="gpt-4o-mini", client=client, progress=False)
        received = server.stats(charged=False)["received"]
    assert killed
    assert set(out["status"]) == {"succeeded"}
    pd.testing.assert_frame_equal(out[df.columns], df)
    assert out["response"].tolist() == again["response"].tolist()[::-1]
    assert list(out.columns) == list(again.columns)
    assert out.attrs["parallel_openai"].keys() == again.attrs["parallel_openai"].keys()
    assert out.attrs["parallel_openai"]["limits"] == {"requests": LIMIT}
    assert received == stats["received"]  # the same journal serves a run without Ray
    # The whole limit is handed out, and what passed unused for a fifth of a second: a calendar second may have more.
    assert max(stats["per_second"]["accepted"]) <= 1.2 * LIMIT / 60
    assert sum(stats["refused"].values()) <= 0.005 * len(df)
    assert stats["received"] - len(df) <= 20  # what was on the wire of the one that was killed
    logs = [path.read_bytes() for path in cluster.rglob("*") if path.is_file() and path.stat().st_size < 1 << 24]
    assert [text for text in logs if b"very-secret" in text] == []


#: A run in a process of its own: the rest of its arguments are the server, the journal and the number of rows.
DRIVER = """
import sys, pandas as pd, parallel_openai as po
url, journal, count = sys.argv[1:]
df = pd.DataFrame({"text": [f"row {number}" for number in range(int(count))]})
po.process_dataframe(
    df, "Say {text}", model="m", metadata="text", client=po.Client(url), lane=po.RayLane(2), progress=False,
    save_to=journal,
)
"""


@pytest.mark.usefixtures("cluster")
def test_after_its_process_was_killed_only_what_was_on_the_wire_is_asked_again(tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    df = pd.DataFrame({"text": [f"row {number}" for number in range(200)]})
    with simulator.serve(separate_process=True, max_requests_per_minute=LIMIT, latency=0.05) as server:
        environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        command = [sys.executable, "-c", DRIVER, server.base_url, str(journal), "200"]
        driver = subprocess.Popen(command, env=environment)
        give_up_at = time.monotonic() + 60
        while server.stats(charged=False)["received"] < 60 and time.monotonic() < give_up_at:
            time.sleep(0.02)
        driver.kill()
        driver.wait()
        time.sleep(1.5)  # in which its workers find out that nobody hears them any more
        out = po.process_dataframe(
            df, "Say {text}", model="m", metadata="text", client=po.Client(server.base_url), save_to=journal
        )
        billed = server.stats()["received"]
    assert set(out["status"]) == {"succeeded"}
    assert billed - len(df) <= 25  # what was on the wire when the workers ended
    lines = [loads(line) for line in journal.read_bytes().splitlines()]
    assert sorted(line[2]["text"] for line in lines) == sorted(df["text"])  # each once, with what travels beside it
    assert {path.name for path in tmp_path.iterdir()} == {"answers.jsonl", "answers.jsonl.lock"}


@pytest.mark.usefixtures("cluster")
def test_the_report_tells_of_a_cluster_what_it_tells_of_one_machine() -> None:
    df = pd.DataFrame({"text": [f"row {number}" for number in range(120)]})
    settings: dict[str, Any] = {"max_requests_per_minute": LIMIT, "burst_seconds": 1.0, "latency": 0.1}
    with simulator.serve(separate_process=True, fault_429=0.1, seed=3, **settings) as server:
        client = po.Client(server.base_url)
        out = po.process_dataframe(
            df, "Say {text}", model="gpt-4o-mini", client=client, lane=po.RayLane(2), progress=False
        )
    report = po.last_run()
    assert report is not None
    assert set(out["status"]) == {"succeeded"}
    assert 0.09 < report.latency["p50"] < 1.0
    assert sum(report.refusals.values()) == report.rate_limit_errors > 0
    assert 0.0 < report.utilisation["requests"] <= 1.1
    assert report.timeline["answered"].sum() == len(df)
    assert report.timeline["tokens_used"].sum() == out[["prompt_tokens", "completion_tokens"]].sum().sum()


class Owner:
    """Another process that has the account's actor: it dies with that one."""

    def begin(self, account: AccountHandle) -> int:
        self._account = account
        found: int = ray.get(account.find().__ray_call__.remote(lambda actor: os.getpid()))
        return found


@pytest.mark.usefixtures("cluster")
def test_who_looks_for_the_accounts_actor_as_it_dies_finds_the_one_that_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_module, "TRIES", 50)
    account = AccountHandle("account-that-dies", (None, None))
    owner = ray.remote(num_cpus=0)(Owner).remote()
    os.kill(ray.get(owner.begin.remote(account)), signal.SIGKILL)
    assert account.ask("budget_left", "no run") == NOTHING
    ray.kill(owner)


@pytest.mark.usefixtures("cluster")
def test_a_wrong_key_is_one_clear_sentence() -> None:
    df = pd.DataFrame({"text": ["a", "b", "c"]})
    with (
        simulator.serve(required_api_key="another") as server,
        pytest.raises(AuthenticationError, match="Check the API key") as stopped,
    ):
        po.label_dataframe(
            df,
            "text",
            labels=["x", "y"],
            model="gpt-4o-mini",
            client=po.Client(server.base_url, KEY),
            lane=po.RayLane(1),
            progress=False,
        )
    assert stopped.value.partial["status"].tolist() == ["cancelled"] * 3


@pytest.mark.usefixtures("cluster")
def test_what_is_on_its_way_at_a_deadline_is_taken_in() -> None:
    df = pd.DataFrame({"text": [f"row {number}" for number in range(4000)]})
    with simulator.serve(max_requests_per_minute=None, latency=1.0) as server:
        client = po.Client(server.base_url, max_concurrent_requests=5)
        ask: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False, "lane": po.RayLane(1)}
        out = po.process_dataframe(df, "text", deadline=6.0, **ask)
        assert out["status"].eq("succeeded").sum() == server.stats()["received"] < 4000
        assert out.attrs["parallel_openai"]["ended"] == "deadline"


@pytest.mark.usefixtures("cluster")
def test_a_budget_holds_over_workers_and_is_used() -> None:
    df = pd.DataFrame({"text": [f"row {number}" for number in range(300)]})
    with simulator.serve(max_requests_per_minute=None, latency=0.05, answer_tokens=5) as server:
        ask: dict[str, Any] = {"model": "gpt-4o-mini", "client": po.Client(server.base_url), "progress": False}
        out = po.process_dataframe(df, "text", max_tokens=10, budget_tokens=1000, lane=po.RayLane(2), **ask)
        stats = server.stats()
    spent = stats["prompt_tokens"] + stats["completion_tokens"]
    assert 800 < spent <= 1000
    assert out["status"].eq("succeeded").sum() == stats["received"]
    assert out["error_code"].dropna().eq("budget").all()
    assert out.attrs["parallel_openai"]["ended"] == "budget"


@pytest.mark.usefixtures("cluster")
def test_a_dataset_comes_back_in_order_and_its_journals_answer_the_next_call(tmp_path: Path) -> None:
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
def test_a_stop_of_a_dataset_reaches_every_worker_and_the_same_call_goes_on(ask: Callable[..., Any]) -> None:
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
def test_a_row_that_ends_its_worker_each_time_fails_and_the_others_are_answered(ask: Callable[..., Any]) -> None:
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
def test_a_worker_that_dies_each_time_ends_the_run_in_a_sentence_and_pays_for_nothing_twice(
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
def test_a_function_that_calls_a_verb_fails_its_rows_and_does_not_hold_up_its_worker(ask: Callable[..., Any]) -> None:
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
def test_a_block_that_cannot_be_asked_ends_the_run_in_a_sentence(ask: Callable[..., Any]) -> None:
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
def test_a_budget_of_a_dataset_holds_over_workers_and_is_used(ask: Callable[..., Any]) -> None:
    with simulator.serve(max_requests_per_minute=None, latency=0.05, answer_tokens=5) as server:
        out = ask(server, rows(200, 8), "text", max_tokens=10, budget_tokens=700).take_all()
        stats = server.stats()
    assert 500 < stats["prompt_tokens"] + stats["completion_tokens"] <= 700
    assert sum(row["status"] == "succeeded" for row in out) == stats["received"]
    left = [row["error"] for row in out if row["error_code"] == "budget"]
    assert len(left) == 200 - stats["received"]
    assert left[0].startswith("What is left of the budget of 700 tokens is too small")


@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_sent_to_workers_and_a_foreign_file_in_the_folder_are_told_in_a_sentence(
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


@pytest.mark.usefixtures("cluster")
def test_the_code_of_the_page_on_clusters_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reader_in(tmp_path, monkeypatch):
        names = run(ROOT / "docs/how-to/cluster.md", "ray")
    assert names["out"]["status"].tolist() == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    assert names["ds"].count() == 5
