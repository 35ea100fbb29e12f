"""Requests in a batch are not sent again on another lane."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai import cli
from parallel_openai._files.run_command import USED_UP
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.batch.conftest import DAY, Verb, charged, counts, lane, texts


@pytest.mark.parametrize("other", ["online", "flex"])
def test_another_lane_sends_only_rows_that_are_not_in_a_batch(
    ask: Verb, server: Server, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(batch_speed=1.0)
    ask(texts(4), lane=lane(wait=False), model="o4-mini")
    out = ask(texts(6), lane=other, model="o4-mini", progress=True)
    assert out["error_code"].isin(["in_batch"]).tolist() == [True] * 4 + [False] * 2
    assert counts(out) == {"cancelled": 4, "succeeded": 2}
    assert "4 requests wait in a batch since " in out["error"][0]
    assert 'lane="batch"' in capsys.readouterr().err
    server.set(batch_speed=5 * DAY)
    assert counts(ask(texts(6), model="o4-mini")) == {"succeeded": 6}
    assert charged(server) == [1]


def test_labels_and_samples_in_a_batch_are_not_sent(client: po.Client, server: Server, tmp_path: Path) -> None:
    server.set(batch_speed=1.0)

    def label(samples: int, where: object) -> dict[str, int]:
        how = {"samples": samples, "lane": where, "save_to": tmp_path / "labels.jsonl", "progress": False}
        return counts(
            po.label_dataframe(texts(2), "text", labels=["a", "b"], model="gpt-4o-mini", client=client, **how)
        )

    label(1, lane(wait=False))
    label(2, "online")
    assert server.stats()["received"] == 2


def test_resubmit_sends_rows_in_a_batch_again(ask: Verb, server: Server) -> None:
    server.set(batch_speed=1.0)
    ask(texts(2), lane=lane(wait=False))
    assert counts(ask(texts(2), lane="online", resubmit=True)) == {"succeeded": 2}
    server.set(batch_speed=5 * DAY)
    assert counts(ask(texts(3))) == {"succeeded": 3}
    assert server.stats()["received"] == 2


def test_resubmit_is_refused_by_the_batch_lane(ask: Verb, client: po.Client, server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="resubmit=True sends requests in batches again"):
        ask(texts(2), lane="batch", resubmit=True)
    path = write_requests(tmp_path, "a")
    with pytest.raises(InvalidInputError, match="resubmit=True sends requests in batches again"):
        po.process_api_requests_from_file(path, client=client, lane="batch", resubmit=True)
    assert server.stats()["received"] == 0


def write_requests(folder: Path, *texts: Any) -> Path:
    """Requests with these texts; a pair has metadata."""
    path = folder / "in.jsonl"
    pairs = [each if isinstance(each, tuple) else (each, None) for each in texts]
    lines = [
        {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": text}],
            "metadata": metadata,
            "temperature": 0.0,
        }
        for text, metadata in pairs
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_run_sends_only_lines_that_are_not_in_a_batch(
    client: po.Client, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(batch_speed=1.0)
    out, how = tmp_path / "out.jsonl", {"client": client, "progress": False}
    path = write_requests(tmp_path, "a", ("a", 1), "twin", "twin")
    po.process_api_requests_from_file(path, out, lane=lane(wait=False), **how)
    write_requests(tmp_path, "a", ("a", 1), ("a", 2), "twin", "twin", "twin", "new")
    status = po.process_api_requests_from_file(path, out, **{**how, "progress": True})
    assert (status.ended, status.num_tasks_succeeded, server.stats()["received"]) == ("submitted", 3, 3)
    line = capsys.readouterr().err
    assert "4 requests wait in a batch since " in line
    assert "--resubmit" in line
    server.set(batch_speed=5 * DAY)
    status = po.process_api_requests_from_file(path, out, lane=lane(), **how)
    assert (status.ended, status.num_tasks_succeeded, server.stats()["received"]) == ("finished", 7, 3)
    assert server.stats()["batches"]["requests"] == 4


def test_the_command_reports_lines_in_a_batch_and_resubmits_on_request(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.set(batch_speed=1.0)
    path = str(write_requests(tmp_path, "a", "b"))
    assert cli.main(["batch", "submit", "--requests_filepath", path]) == 0
    assert cli.main(["run", "--requests_filepath", path]) == USED_UP
    assert "2 requests wait in a batch since " in capsys.readouterr().err
    assert server.stats()["received"] == 0
    assert cli.main(["run", "--requests_filepath", path, "--resubmit"]) == 0
    assert server.stats()["received"] == 2


@pytest.mark.parametrize("other", ["online", "flex", lane()], ids=["online", "flex", "batch"])
def test_the_same_requests_made_in_another_way_are_known_to_be_in_a_batch(
    ask: Verb, server: Server, client: po.Client, other: Any
) -> None:
    server.set(batch_speed=1.0)
    again = partial(ask, texts(4), prompt=lambda row: row["text"], model="o4-mini", save_to=None, lane=other)
    first = ask(texts(4), lane=lane(wait=False), model="o4-mini", save_to=None)
    journal, out = first.attrs["parallel_openai"]["journal"], again()
    assert set(out["error_code"]) == {"in_batch"}
    assert out["error"][0].startswith(f"4 requests wait in a batch of another call, whose journal is {journal}, since")
    assert po.last_run().ended == "submitted"
    server.set(batch_speed=5 * DAY)
    po.collect_batches(journal, client=client, progress=False, lane=lane())
    assert counts(again()) == {"succeeded": 4}
    assert charged(server) == [1]


@pytest.mark.parametrize("field", ["place", "writer"])
def test_a_batch_of_another_server_or_user_holds_up_no_other_call(ask: Verb, field: str) -> None:
    journal = Path(ask(texts(4), lane=lane(wait=False), save_to=None).attrs["parallel_openai"]["journal"])
    first, *rest = [json.loads(line) for line in journal.read_bytes().splitlines()]
    first[2]["batch"][field] = "elsewhere"
    lines = [json.dumps(line, separators=(",", ":")) for line in (first, *rest)]
    journal.write_text("".join(f"{line}\n" for line in lines))
    assert counts(ask(texts(4), prompt=lambda row: row["text"], save_to=None, lane="online")) == {"succeeded": 4}


def test_a_folder_of_batches_that_is_a_link_holds_up_no_other_call(ask: Verb) -> None:
    journal = Path(ask(texts(4), save_to=None, lane="online").attrs["parallel_openai"]["journal"])
    journal.with_name(f"{journal.name}.batches").symlink_to(journal.parent)
    assert counts(ask(texts(4), prompt=lambda row: row["text"], save_to=None, lane="online")) == {"succeeded": 4}


def test_answers_of_a_batch_are_known_to_the_same_requests_made_in_another_way(ask: Verb, server: Server) -> None:
    ask(texts(4), save_to=None)
    ask(texts(4), prompt=lambda row: row["text"], save_to=None, lane="online")
    assert charged(server) == [1]
