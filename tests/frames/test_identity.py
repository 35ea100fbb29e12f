"""What asks the same is the same, however it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from parallel_openai import APIRequest, Client
from parallel_openai.frames import place
from parallel_openai.frames.recipe import Recipe
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, journal_of

ONE = pd.DataFrame({"text": ["A wonderful lamp.", "It broke."]})


def received(server: Server) -> int:
    count: int = server.stats(charged=False)["received"]
    return count


def test_a_prompt_function_written_in_another_way_asks_the_same(ask: Verb, server: Server) -> None:
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
def test_a_number_is_the_same_however_it_is_written(ask: Verb, server: Server, zero: Any) -> None:
    ask(ONE, "text", temperature=0)
    ask(ONE, "text", temperature=zero)
    assert received(server) == 2


def test_a_number_inside_a_text_is_text() -> None:
    keys = {APIRequest({"model": "m", "input": text}).key for text in ("1.0", "1", '":1.0,', '":1,')}
    assert len(keys) == 4


def test_a_journal_with_former_keys_is_gone_on_with(ask: Verb, server: Server) -> None:
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
def test_a_journal_with_a_former_name_is_gone_on_with(ask: Verb, client: Client, server: Server, samples: int) -> None:
    path = journal_of(ask(ONE, "text", samples=2))
    recipe = Recipe("text", "gpt-4o-mini", samples=2)
    former = path.with_name(f"gpt-4o-mini-{recipe.former_digest(client.place, 2)}.jsonl")
    path.rename(former)
    assert journal_of(ask(ONE, "text", samples=samples)) == former
    assert received(server) == 2 * samples


def test_a_place_is_the_same_however_its_url_is_written() -> None:
    recipe = Recipe("text", "m")
    urls = (
        "https://host.example/v1",
        "https://HOST.example/v1",
        "https://host.example:443/v1",
        "https://host.example//v1",
    )
    assert len({place.journal_path(recipe, url, None) for url in urls}) == 1
    others = ("https://host.example:8443/v1", "http://host.example/v1", "https://host.example/V1")
    assert len({place.journal_path(recipe, url, None) for url in (urls[0], *others)}) == 4
    assert place.journal_path(recipe, urls[0], "here.jsonl") == Path("here.jsonl")
