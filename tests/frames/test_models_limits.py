"""Two models with separate limits on one client, over real sockets."""

from __future__ import annotations

import asyncio
import getpass
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._limits.sharing import SharedAccount
from parallel_openai.local.simulator.limits.account import Account
from parallel_openai.local.simulator.settings import Settings
from tests.servers.recorder import ANSWER, Answer, Asked, recorder

#: A minute's tokens; what a small prompt takes comes back within a moment, and a large one is more than the small
#: model ever takes.
SMALL = {"max_tokens_per_minute": 2400, "max_requests_per_minute": 6000}
LARGE = {"max_tokens_per_minute": 6_000_000, "max_requests_per_minute": 60_000}
FEW = pd.DataFrame({"text": ["Row 1.", "Row 2.", "Row 3."]})
LONG = pd.DataFrame({"text": [f"{number}: " + "many words " * 1500 for number in range(12)]})


@dataclass
class TwoModels:
    """What it did; `small` and `large` are its models, and any other one has no limit."""

    url: str = ""
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        now = time.monotonic()
        self._accounts = {
            name: Account(Settings(**settings), now=now) for name, settings in (("small", SMALL), ("large", LARGE))
        }

    def answer(self, asked: Asked) -> Answer:
        model, account = asked.body["model"], self._accounts.get(asked.body["model"])
        if account is None:
            return 200, _answer(asked)
        with self._lock:
            now, cost = time.monotonic(), len(json.dumps(asked.body)) / 4
            lack = account.lack(cost, now)
            if lack is not None:
                self.refused[model] += 1
                error = {"message": "Limit reached.", "type": lack.dimension, "code": "rate_limit_exceeded"}
                return 429, json.dumps({"error": error}).encode(), account.headers(now)
            account.take(1, cost, now)
            self.accepted[model] += 1
            return 200, _answer(asked), account.headers(now)


def _answer(asked: Asked) -> bytes:
    if "input" in asked.body:
        data = [{"index": n, "embedding": [0.5]} for n in range(len(asked.body["input"]))]
        return json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode()
    content = '{"label":"good"}' if "response_format" in asked.body else "Yes."
    choice = {**ANSWER["choices"][0], "message": {"role": "assistant", "content": content}}  # type: ignore[index]
    return json.dumps({**ANSWER, "choices": [choice]}).encode()


@pytest.fixture
def server() -> Iterator[TwoModels]:
    with serving() as server:
        yield server


@contextmanager
def serving() -> Iterator[TwoModels]:
    server = TwoModels()
    with recorder(server.answer) as running:
        server.url = f"{running.url}/v1"
        yield server


@pytest.fixture
def client(server: TwoModels) -> Iterator[po.Client]:
    with po.Client(server.url, "sk-none") as client:
        yield client


def ask(df: pd.DataFrame, model: str, client: po.Client, **options: Any) -> pd.DataFrame:
    return po.process_dataframe(df, "text", model=model, max_tokens=5, client=client, progress=False, **options)


def check(server: TwoModels, *outs: pd.DataFrame) -> None:
    for out in outs:
        assert out["status"].tolist() == ["succeeded"] * len(out), out["error"].dropna().tolist()
    assert not server.refused


def test_runs_of_several_models_keep_each_models_limit_separate(server: TwoModels, client: po.Client) -> None:
    outs = [ask(FEW, "small", client), ask(LONG, "large", client), ask(FEW + "!", "small", client)]
    check(server, *outs)
    assert client.largest_prompt("small") == 2400
    assert client.largest_prompt("large") == 6_000_000
    assert client.max_tokens_per_minute == 6_002_400


def test_a_prompt_too_large_for_its_models_limit_fails_without_being_sent(server: TwoModels, client: po.Client) -> None:
    ask(FEW, "small", client), ask(LONG, "large", client)
    out = ask(LONG, "small", client)
    assert out["error_code"].tolist() == ["request_too_large"] * len(LONG)
    assert "2,400 tokens per minute" in out["error"][0]
    assert server.accepted["small"] == len(FEW)


def test_the_report_of_a_run_shows_its_own_models_limit(server: TwoModels, client: po.Client) -> None:
    ask(LONG, "large", client)
    ask(FEW, "small", client)
    report = po.last_run()
    assert report is not None
    assert report.timeline["max_tokens_per_minute"].dropna().unique().tolist() == [2400]


def test_compared_variants_keep_their_models_limits_separate(server: TwoModels, client: po.Client) -> None:
    ask(FEW, "small", client)
    df = pd.concat([FEW, LONG[:1]], ignore_index=True)
    found = po.compare(
        df,
        {"v": "{text}"},
        labels=["good", "bad"],
        models=["small", "large"],
        client=client,
        progress=False,
    )
    small, large = found.frames.values()
    assert large["status"].tolist() == ["succeeded"] * 4
    assert small["status"].tolist() == ["succeeded"] * 3 + ["failed"]


def test_embeddings_have_a_limit_separate_from_chat(server: TwoModels, client: po.Client) -> None:
    ask(FEW, "small", client)
    out = po.embed_dataframe(LONG, "text", model="large", client=client, progress=False)
    again = ask(FEW + "?", "small", client)
    check(server, out, again)


def test_a_pools_members_have_a_limit_for_each_model(server: TwoModels) -> None:
    with serving() as other:
        pool = po.Client.pool([po.Client(each.url, "sk-none") for each in (server, other)])
        check(server, ask(FEW, "small", pool), ask(LONG, "large", pool), ask(FEW + "!", "small", pool))
        assert not other.refused
        assert pool.largest_prompt("large") == 6_000_000


def test_each_line_of_a_file_is_paced_by_its_own_models_limit(server: TwoModels, tmp_path: Path) -> None:
    lines = [("small", "Hi."), *(("large", text) for text in LONG["text"]), ("small", "Hello."), ("free", "Hi.")]
    file = tmp_path / "in.jsonl"
    file.write_text(
        "".join(
            json.dumps({"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": text}]}) + "\n"
            for model, text in lines
        )
    )
    report = po.process_api_requests_from_file(
        requests_filepath=str(file),
        save_filepath=str(tmp_path / "out.jsonl"),
        request_url=f"{server.url}/chat/completions",
        api_key="sk-none",
        max_requests_per_minute=None,
        max_tokens_per_minute=None,
    )
    assert report.num_tasks_succeeded == len(lines)
    assert not server.refused


SHARING = """
import sys, tempfile
tempfile.tempdir = "."
import pandas as pd, parallel_openai as po
url, *models = sys.argv[1:]
client = po.Client(url, "sk-none", shared="lab")
for model in models:
    df = pd.DataFrame({"text": [f"{n}" for n in range(3)]})
    out = po.process_dataframe(df, "text", model=model, client=client, max_tokens=5, progress=False)
    assert out["status"].eq("succeeded").all(), out["error"].dropna().tolist()
    print(model, client.limiter.of(model).requests.share, flush=True)
"""


def test_processes_that_share_an_account_divide_a_models_limit_among_those_that_use_it(
    server: TwoModels, tmp_path: Path
) -> None:
    """This one stays at the small model, while another one goes from the large to the small."""
    here = SharedAccount("lab", folder=tmp_path / f"parallel_openai-{getpass.getuser()}")
    asyncio.run(here.join())
    here.use("small")
    command = [sys.executable, "-c", SHARING, server.url, "large", "small"]
    other = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert other.stdout.split("\n")[:2] == ["large 1.0", "small 0.5"], other.stderr
    assert not server.refused
    assert (here.count(), here.count_users("large")) == (1, 1)
    here.leave()
