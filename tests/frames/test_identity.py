"""Equal requests are recognised as equal, however they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai import APIRequest, Client
from parallel_openai._frames import journal_path as place
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._journal import origins
from parallel_openai.local import simulator
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, journal_of

ONE = pd.DataFrame({"text": ["A wonderful lamp.", "It broke."]})


def received(server: Server) -> int:
    count: int = server.stats(charged=False)["received"]
    return count


def test_a_rewritten_prompt_function_with_the_same_prompts_sends_nothing_again(ask: Verb, server: Server) -> None:
    def prompt(row: Any) -> str:
        return f"Good? {row['text']}"

    def moved(row: Any) -> str:
        # A comment, and a line more.
        text = row["text"]
        return f"Good? {text}"

    ask(ONE, prompt)
    for same in (moved, lambda row: f"Good? {row['text']}"):
        ask(ONE, same)
        ask(ONE, "text", system=None)
    assert received(server) == 4
    ask(ONE, lambda row: f"Bad? {row['text']}")
    assert received(server) == 6


def test_more_or_fewer_samples_send_only_the_new_ones(ask: Verb, server: Server) -> None:
    for samples, sent in ((1, 2), (2, 4), (3, 6), (2, 6)):
        ask(ONE, "text", samples=samples)
        assert received(server) == sent


@pytest.mark.parametrize("zero", [0.0, -0.0, np.float32(0), np.float64(0), np.int8(0)], ids=repr)
def test_equal_numbers_in_any_notation_give_the_same_key(ask: Verb, server: Server, zero: Any) -> None:
    ask(ONE, "text", temperature=0)
    ask(ONE, "text", temperature=zero)
    assert received(server) == 2


def test_numbers_within_strings_are_not_normalised() -> None:
    keys = {APIRequest({"model": "m", "input": text}).key for text in ("1.0", "1", '":1.0,', '":1,')}
    assert len(keys) == 4


def test_a_journal_with_keys_of_an_earlier_version_is_resumed(ask: Verb, server: Server) -> None:
    path = journal_of(ask(ONE, "text", temperature=0.0))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        former = APIRequest({**line[0]}).former_key
        if former is not None:
            line[3]["key"] = former
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    assert sum(len(line) == 4 and line[3]["key"] != APIRequest(line[0]).key for line in lines) == 2
    again = ask(ONE, "text", temperature=0.0)
    assert (again["status"].tolist(), received(server)) == (["succeeded"] * 2, 2)


@pytest.mark.parametrize("samples", [2, 3])
def test_a_journal_with_a_name_of_an_earlier_version_is_resumed(
    ask: Verb, client: Client, server: Server, samples: int
) -> None:
    path = journal_of(ask(ONE, "text", samples=2))
    builder = RequestBuilder("text", "gpt-4o-mini", samples=2)
    former = path.with_name(f"gpt-4o-mini-{builder.former_digest(client.place, 2)}.jsonl")
    path.rename(former)
    assert journal_of(ask(ONE, "text", samples=samples)) == former
    assert received(server) == 2 * samples


def test_different_spellings_of_a_url_name_the_same_journal() -> None:
    builder = RequestBuilder("text", "m")
    urls = (
        "https://host.example/v1",
        "https://HOST.example/v1",
        "https://host.example:443/v1",
        "https://host.example//v1",
    )
    assert len({place.journal_path(builder, url, None) for url in urls}) == 1
    others = ("https://host.example:8443/v1", "http://host.example/v1", "https://host.example/V1")
    assert len({place.journal_path(builder, url, None) for url in (urls[0], *others)}) == 4
    assert place.journal_path(builder, urls[0], "here.jsonl") == Path("here.jsonl")


def write_results(folder: Path, server: Server, requests: list[dict[str, Any]], path: str = "chat/completions") -> Path:
    """The results of a file run that asked a server for these."""
    source, results = folder / "in.jsonl", folder / "results.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in requests))
    po.process_api_requests_from_file(source, results, f"{server.base_url}/{path}", "none", None, None, progress=False)
    return results


def test_answers_of_a_file_run_are_known_to_a_frame(ask: Verb, server: Server, tmp_path: Path) -> None:
    bodies = [
        {
            "model": "gpt-4o-mini",
            "temperature": 0.0,
            "messages": [{"role": "user", "content": text}],
            "metadata": number,
        }
        for number, text in enumerate(ONE["text"])
    ]
    results = write_results(tmp_path, server, bodies)
    longer = pd.DataFrame({"text": [*ONE["text"], "New."]})
    for _ in range(2):
        out = ask(longer, "text", model="gpt-4o-mini", temperature=0, save_to=results)
        assert out["status"].tolist() == ["succeeded"] * 3
        assert "A wonderful lamp." in out["response"][0]
        assert out["prompt_tokens"].gt(0).all()
    assert received(server) == 3
    assert po.read_journal(results)["status"].tolist() == ["succeeded"] * 3
    po.to_jsonl(out, tmp_path / "export.jsonl", format="results")
    assert "It broke." in str(po.explain(out, 1))


def test_embeddings_and_responses_of_a_file_run_are_known_to_a_frame(
    server: Server, client: Client, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"client": client, "progress": False}
    bodies = [{"model": "text-embedding-3-small", "input": text, "encoding_format": "base64"} for text in ONE["text"]]
    results = write_results(tmp_path, server, bodies, "embeddings")
    out = po.embed_dataframe(ONE, "text", model="text-embedding-3-small", save_to=results, **how)
    assert po.vectors(out).shape[0] == 2
    bodies = [{"model": "gpt-4o-mini", "input": text} for text in ONE["text"]]
    results = write_results(tmp_path, server, bodies, "responses")
    po.process_dataframe(ONE, "text", model="gpt-4o-mini", endpoint="responses", save_to=results, **how)
    assert received(server) == 4


def test_answers_of_a_file_run_on_another_server_are_requested_again(ask: Verb, server: Server, tmp_path: Path) -> None:
    bodies = [{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]} for text in ONE["text"]]
    with simulator.serve(max_requests_per_minute=None) as other:
        results = write_results(tmp_path, other, bodies)
    ask(ONE, "text", model="gpt-4o-mini", save_to=results)
    assert received(server) == 2


def test_failed_requests_of_a_file_run_are_sent_again(ask: Verb, server: Server, tmp_path: Path) -> None:
    server.script([400])
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": ONE["text"][0]}]}
    results = write_results(tmp_path, server, [body])
    out = ask(ONE, "text", model="gpt-4o-mini", save_to=results, retry_failed=False)
    assert out["status"].tolist() == ["succeeded"] * 2


def test_answers_written_by_another_user_are_reported(
    ask: Verb, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "answers.jsonl"
    ask(ONE, "text", save_to=journal)
    ask(ONE, "text", save_to=journal)
    assert "were written by" not in caplog.text
    journal.write_text(journal.read_text().replace(json.dumps(origins.writer()), '"ann on laptop"'))
    assert ask(ONE, "text", save_to=journal)["status"].tolist() == ["succeeded"] * 2
    assert "the answers to 2 requests were written by ann on laptop." in caplog.text
    assert received(server) == 2
