"""`embed_dataframe` with missing, extra or malformed vectors: no row gets another row's vector."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

import parallel_openai as po
from parallel_openai._requests.tokens import request_size
from parallel_openai.local import simulator
from tests.frames.conftest import codes, journal_of
from tests.frames.embedding import MODEL, Embed, sent, texts, vector_of_one
from tests.servers.recorder import Asked, recorder


@pytest.mark.parametrize("given", [1, 3])
def test_an_answer_with_a_wrong_number_of_vectors_is_not_used(
    embed: Embed, server: simulator.Server, given: int
) -> None:
    vector = {"embedding": [1.0] * 8}
    server.script([{"body": {"model": MODEL, "data": [vector] * given}}])
    out = embed(texts(2), "text")
    assert out["status"].eq("succeeded").all()
    assert sent(server) == 3
    assert not np.allclose(po.vectors(out), 1.0)


def test_vectors_may_be_lists_of_numbers_and_are_ordered_by_index(embed: Embed, server: simulator.Server) -> None:
    data = [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1, 2]}]
    server.script([{"body": {"model": MODEL, "data": data}}])
    out = embed(texts(2), "text", dimensions=2)
    assert po.vectors(out).tolist() == [[1, 2], [3, 4.5]]
    assert out["prompt_tokens"].isna().all()


def test_an_invalid_vector_or_one_of_another_length_fails_only_its_row(embed: Embed, server: simulator.Server) -> None:
    data = [{"embedding": [1, 2]}, {"embedding": "no base64!"}, {"embedding": [1, 2, 3]}]
    server.script([{"body": {"model": MODEL, "data": data}}])
    out = embed(texts(3), "text", dimensions=None)
    assert codes(out) == [None, "malformed_response", "malformed_response"]
    assert out["error"][2] == "The vector has 1,536 dimensions instead of 2."  # asked for once more, by itself
    assert out.attrs["parallel_openai"]["failed"] == 2


def test_a_first_vector_of_another_length_fails_alone(embed: Embed, server: simulator.Server) -> None:
    data = [{"embedding": [1.0] * 7}, *[{"embedding": [0.5] * 1536}] * 3]
    server.script([{"body": {"model": MODEL, "data": data}}, {"body": {"model": MODEL, "data": data[:1]}}])
    out = embed(texts(4), "text", dimensions=None)
    assert codes(out) == ["malformed_response", None, None, None]
    assert embed(texts(4), "text", dimensions=None)["status"].eq("succeeded").all()
    assert sent(server) == 3


def scripted(server: simulator.Server, numbers: list[Any], times: int = 1) -> None:
    """The next answers number their vectors, which stand in the reverse order of the texts, in an odd way."""
    count = len(numbers)
    data = [{"index": number, "embedding": [float(count - place)] * 8} for place, number in enumerate(numbers)]
    server.script([{"body": {"model": MODEL, "data": data}}] * times)


@pytest.mark.parametrize(
    "numbers",
    [
        ["3", "2", "1", "0"],
        [3.0, 2.0, 1.0, 0.0],
        [3, 1, 1, 0],
        [1, 0, 1, 0],
        [4, 3, 2, 1],
        [3, 2, True, 0],
        [3, 2, 1, None],
    ],
    ids=["text", "floats", "twice", "anew", "from 1", "true", "one missing"],
)
def test_vectors_with_invalid_indices_are_requested_again_in_smaller_requests(
    embed: Embed, client: po.Client, server: simulator.Server, numbers: list[Any]
) -> None:
    scripted(server, numbers)
    out = embed(texts(4), "text")
    assert out["status"].eq("succeeded").all()
    for text, vector in zip(texts(4)["text"], out["embedding"], strict=True):
        assert np.array_equal(vector, vector_of_one(client, text))


def in_base64(kind: str, *numbers: float) -> str:
    return base64.b64encode(np.array(numbers, kind).tobytes()).decode()


def test_base64_with_line_breaks_is_read(embed: Embed, server: simulator.Server) -> None:
    lines = "\r\n".join(in_base64("<f4", *[0.5, -2.0, 0.0, 1.0] * 2)[start : start + 7] for start in range(0, 44, 7))
    server.script([{"body": {"model": MODEL, "data": [{"index": 0, "embedding": lines}]}}])
    assert po.vectors(embed(texts(1), "text")).tolist() == [[0.5, -2.0, 0.0, 1.0] * 2]


@pytest.mark.parametrize("kind", ["int8", ">f4", ">f8"])
def test_base64_of_other_numbers_than_floats_is_no_vector(embed: Embed, server: simulator.Server, kind: str) -> None:
    lot = np.random.default_rng(7)
    numbers = lot.integers(-90, 90, 256) if kind == "int8" else lot.normal(0, 0.05, 256)
    data = [{"index": 0, "embedding": in_base64(kind, *numbers)}]
    server.script([{"body": {"model": MODEL, "data": data}}])
    assert codes(embed(texts(1), "text", dimensions=None)) == ["malformed_response"]


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
@pytest.mark.parametrize("zeros", [0, 200])
def test_base64_of_floats_is_a_vector_although_many_are_zero(
    embed: Embed, server: simulator.Server, kind: str, zeros: int
) -> None:
    numbers = np.random.default_rng(7).normal(0, 0.05, 256)
    numbers[:zeros] = 0.0
    data = [{"index": 0, "embedding": in_base64(kind, *numbers)}]
    server.script([{"body": {"model": MODEL, "data": data}}])
    out = embed(texts(1), "text", dimensions=None)
    assert np.allclose(po.vectors(out)[0], numbers)


def test_a_single_vector_belongs_to_its_text_whatever_its_index(embed: Embed, server: simulator.Server) -> None:
    scripted(server, ["7"])
    assert po.vectors(embed(texts(1), "text")).tolist() == [[1.0] * 8]


ODD_VECTORS = [
    [float("nan")] * 8,
    [float("inf")] * 8,
    [1e39] * 8,
    [True] * 8,
    [1.0] * 7,
    "AACAfw==" * 8,
    [None] * 8,
    [10**400] * 8,
]


@pytest.mark.parametrize("odd", ODD_VECTORS, ids=["nan", "inf", "1e39", "true", "short", "base64", "null", "10**400"])
def test_a_failed_vector_is_requested_again_by_the_next_call(embed: Embed, server: simulator.Server, odd: Any) -> None:
    bad = {"embedding": odd}
    data: list[list[Any]] = [[{"embedding": [0.5] * 8}, bad], [bad]]
    server.script([{"body": json.dumps({"model": MODEL, "data": each})} for each in data])
    out = embed(texts(2), "text")
    assert codes(out) == [None, "malformed_response"]
    assert out["error"][1].startswith(("There is no vector of finite numbers: ", "The vector has 7 dimensions"))
    assert out["attempts"].tolist() == [1, 2]  # it was asked once more by itself
    lines = [json.loads(line) for line in journal_of(out).read_bytes().splitlines()]
    assert [line[3]["status"] for line in lines] == ["succeeded", "failed"]
    again = embed(texts(2), "text")
    assert again["status"].eq("succeeded").all()
    assert sent(server) == 3


def test_a_missing_vector_is_requested_alone_and_all_costs_are_counted(embed: Embed, server: simulator.Server) -> None:
    data = [{"index": 0, "embedding": [0.5] * 8}, {"index": 1, "embedding": None}]
    server.script([{"body": {"model": MODEL, "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}}])
    out = embed(texts(2), "text")
    alone = request_size({"input": "Review number 1"}, "cl100k_base", "embeddings").prompt_tokens
    assert out["status"].eq("succeeded").all()
    assert out["prompt_tokens"].sum() == out.attrs["parallel_openai"]["prompt_tokens"] == 7 + alone
    assert out["cost_usd"].sum() == pytest.approx(out.attrs["parallel_openai"]["cost_usd"])
    assert sent(server) == 2


def test_vectors_mixed_with_other_items_are_not_used(embed: Embed, server: simulator.Server) -> None:
    data = [None, {"embedding": [2.0] * 8}, {"embedding": [2.0] * 8}]
    server.script([{"body": {"model": MODEL, "data": data}}])
    out = embed(texts(2), "text")
    assert out["status"].eq("succeeded").all()
    assert not np.isclose(po.vectors(out), 2.0).any()


def test_a_server_that_returns_no_vectors_is_given_up_early(embed: Embed, server: simulator.Server) -> None:
    server.script([{"body": {"model": MODEL, "embeddings": [[1.0]], "usage": {"prompt_tokens": 1}}}] * 200)
    out = embed(texts(100), "text")
    assert out["status"].eq("failed").all()
    assert sent(server) == 4


@pytest.mark.parametrize(("most", "received"), [(1, 66), (16, 10)], ids=["none of many", "16 at the most"])
def test_a_router_that_restarts_its_indices_is_noticed_after_few_answers(most: int, received: int) -> None:
    """As many as are asked for together are found from below: what is answered on the way is kept."""
    billed: list[str] = []

    def answer(asked: Asked) -> tuple[int, bytes]:
        given = asked.body["input"]
        rows = given if isinstance(given, list) else [given]
        billed.extend(rows)
        numbers = [place % most for place in range(len(rows))]
        data = [{"index": n, "embedding": [float(t.split()[-1])]} for n, t in zip(numbers, rows, strict=True)]
        usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
        return 200, json.dumps({"model": MODEL, "data": data, "usage": usage}).encode()

    with recorder(answer) as server, po.Client(f"{server.url}/v1", "none") as client:
        out = po.embed_dataframe(texts(64), "text", model=MODEL, client=client, progress=False)
    assert po.vectors(out)[:, 0].tolist() == list(range(64))
    assert len(billed) == out["prompt_tokens"].sum() <= 3 * 64
    assert out["attempts"].max() <= 3
    assert len(server.asked) == received


def test_process_dataframe_checks_the_number_of_dimensions(client: po.Client, server: simulator.Server) -> None:
    server.script([{"body": {"model": MODEL, "data": [{"embedding": [0.5] * 7}]}}])
    out = po.process_dataframe(
        texts(1), "text", model=MODEL, endpoint="embeddings", dimensions=8, client=client, progress=False
    )
    assert codes(out) == ["malformed_response"]
