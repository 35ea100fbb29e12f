"""Runs on a real local cluster: several processes share one limit, and one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._json import dumps, loads
from parallel_openai._ray import cluster as cluster_module
from parallel_openai._ray.cluster import AccountHandle
from parallel_openai._ray.shared_budget import NOTHING
from parallel_openai.errors import AuthenticationError
from parallel_openai.local import simulator
from tests.documents import ROOT, reader_in, run
from tests.servers.recorder import recorder

ray = pytest.importorskip("ray", reason="Ray has no wheel for this Python")
KEY = "sk-proj-very-secret-0123456789"
TWO = po.RayLane(workers=2)
LIMIT = 6000  # a minute: 100 a second

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"),
]


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
def test_after_a_kill_only_requests_in_flight_are_sent_again(tmp_path: Path) -> None:
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
def test_the_report_of_a_cluster_run_has_the_same_contents() -> None:
    df = pd.DataFrame({"text": [f"row {number}" for number in range(120)]})
    settings: dict[str, Any] = {"max_requests_per_minute": LIMIT, "burst_seconds": 1.0, "latency": 0.1}
    with simulator.serve(separate_process=True, fault_429=0.05, seed=3, **settings) as server:
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
def test_a_worker_finds_the_replacement_of_a_dying_account_actor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_module, "TRIES", 50)
    account = AccountHandle("account-that-dies", (None, None))
    owner = ray.remote(num_cpus=0)(Owner).remote()
    os.kill(ray.get(owner.begin.remote(account)), signal.SIGKILL)
    assert account.ask("budget_left", "no run") == NOTHING
    ray.kill(owner)


@pytest.mark.usefixtures("cluster")
def test_a_wrong_key_is_one_clear_error() -> None:
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
def test_answers_in_flight_at_the_deadline_are_kept() -> None:
    df = pd.DataFrame({"text": [f"row {number}" for number in range(4000)]})
    with simulator.serve(max_requests_per_minute=None, latency=1.0) as server:
        client = po.Client(server.base_url, max_concurrent_requests=5)
        ask: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False, "lane": po.RayLane(1)}
        out = po.process_dataframe(df, "text", deadline=6.0, **ask)
        assert out["status"].eq("succeeded").sum() == server.stats()["received"] < 4000
        assert out.attrs["parallel_openai"]["ended"] == "deadline"


@pytest.mark.usefixtures("cluster")
def test_a_budget_is_kept_over_all_workers_and_nearly_used_up() -> None:
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
def test_what_was_billed_in_vain_for_rows_that_are_left_stands_beside_them() -> None:
    choice = {"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": "Ye"}}
    usage = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
    answer = dumps({"model": "gpt-4o-mini", "choices": [choice], "usage": usage})
    df = pd.DataFrame({"text": [f"row {number}" for number in range(40)]})
    with recorder(lambda asked: (200, answer)) as server:
        client = po.Client(f"{server.url}/v1", KEY, max_attempts=50)
        ask: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False}
        out = po.process_dataframe(df, "text", max_tokens=10, budget_tokens=2000, lane=po.RayLane(2), **ask)
    report = po.last_run()
    assert report is not None
    assert set(out["status"]) == {"cancelled"}
    assert report.prompt_tokens + report.completion_tokens == 15 * len(server.asked) > 900
    assert out["prompt_tokens"].sum() + out["completion_tokens"].sum() == 15 * len(server.asked)
    assert out["cost_usd"].sum() == pytest.approx(report.cost_usd)


@pytest.mark.usefixtures("cluster")
def test_the_code_of_the_documentation_on_clusters_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reader_in(tmp_path, monkeypatch):
        names = run(ROOT / "docs/how-to/cluster.md", "ray")
    assert names["out"]["status"].tolist() == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    assert names["ds"].count() == 5
