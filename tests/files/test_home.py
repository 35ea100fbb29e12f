"""`~` in a path is the user's home, wherever a path is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.cli import main
from parallel_openai.local.simulator import Server

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi."}]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_functions_on_frames_expand_the_home_directory_in_paths(home: Path, client: po.Client) -> None:
    options: dict[str, Any] = {"model": "gpt-4o-mini", "client": client, "progress": False}
    df = pd.DataFrame({"text": ["one", "two"]})
    out = po.label_dataframe(df, "text", labels=["a", "b"], save_to="~/answers.jsonl", **options)
    assert len(po.read_journal("~/answers.jsonl")) == 2
    assert po.batch_status("~/answers.jsonl", client=client) is not None
    assert po.cancel_batches("~/answers.jsonl", client=client) is not None
    po.collect_batches("~/answers.jsonl", client=client, progress=False)
    po.save(out, "~/out.parquet")
    assert po.load("~/out.parquet").label.tolist() == out.label.tolist()
    po.to_jsonl(out, "~/out.jsonl")
    review = po.review(out, text="text", save_to="~/review.jsonl")
    review.correct(0, "a")
    review.to_csv("~/review.csv")
    review.read_csv("~/review.csv")
    written = {"answers.jsonl", "out.parquet", "out.jsonl", "review.jsonl", "review.csv"}
    assert written <= {path.name for path in home.iterdir()}
    assert not Path("~").exists()


def test_functions_on_files_expand_the_home_directory_in_paths(
    home: Path, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "requests.jsonl").write_text(json.dumps(BODY) + "\n")
    options = ["--request_url", f"{server.base_url}/chat/completions", "--api_key", "none"]
    assert main(["run", "--requests_filepath", "~/requests.jsonl", *options]) == 0
    assert (home / "requests_results.jsonl").exists()
    paths = ["--requests_filepath", "~/requests.jsonl", "--save_filepath", "~/results.jsonl"]
    assert main(["run", *paths, *options]) == 0
    assert (home / "results.jsonl").exists()
    po.append_to_jsonl({"a": 1}, "~/notes.jsonl")
    assert (home / "notes.jsonl").exists()
    assert not Path("~").exists()


def test_an_image_path_expands_the_home_directory(home: Path, server: Server, client: po.Client) -> None:
    (home / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": Path("~/dot.png")}]
    out = po.process_dataframe(
        pd.DataFrame({"text": ["a"]}),
        lambda row: [{"role": "user", "content": content}],
        model="gpt-4o-mini",
        client=client,
        progress=False,
    )
    assert out["status"].tolist() == ["succeeded"]
