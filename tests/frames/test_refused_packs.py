"""`embed_dataframe` if a request of many rows is refused, for one row, their number or all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai.errors import RequestRefusedError, RunStoppedError
from parallel_openai.local import simulator
from tests.frames.conftest import codes
from tests.frames.embedding import MODEL, Embed, sent, texts
from tests.servers.recorder import Asked, recorder


def test_one_bad_row_in_a_request_fails_alone(embed: Embed, server: simulator.Server) -> None:
    frame = texts(64)
    frame.loc[37, "text"] = "word " * 7000  # 7,000 tokens, and more by the simulator's way to count
    out = embed(frame, "text")
    assert out["status"].eq("succeeded").sum() == 63
    assert out["error_code"][37] == "invalid_request_error"
    assert "maximum context length" in out["error"][37]
    assert sent(server) == 1 + 2 * 6
    assert out["attempts"][37] == 7
    assert out.attrs["parallel_openai"]["errors"] == {"invalid_request_error": 1}


def test_the_most_rows_per_request_is_learned_from_refusals(embed: Embed, server: simulator.Server) -> None:
    refusal = {"status": 413, "body": {"error": {"message": "Too many inputs.", "type": "invalid_request_error"}}}
    server.script([refusal])
    out = embed(texts(100), "text")
    assert out["status"].eq("succeeded").all()
    assert sent(server) == 3


def test_if_every_row_is_refused_not_every_row_is_sent(embed: Embed, server: simulator.Server) -> None:
    with pytest.raises(RunStoppedError, match="Check dimensions=5000"):
        embed(texts(500), "text", dimensions=5000)
    assert sent(server) < 60


def test_a_model_that_does_not_exist_is_asked_for_once(embed: Embed) -> None:
    with simulator.serve(models=[MODEL]) as server:
        with pytest.raises(RequestRefusedError, match=f"The server lists {MODEL}") as stopped:
            embed(texts(500), "text", model="text-embedding-9", client=po.Client(server.base_url))
        assert set(codes(stopped.value.partial)) == {"model_not_found"}
        assert sent(server) == 1


def test_a_wrong_key_stops_the_run() -> None:
    with simulator.serve(required_api_key="sk-right") as server, pytest.raises(RunStoppedError, match="API key"):
        po.embed_dataframe(texts(3), "text", model=MODEL, client=po.Client(server.base_url, "sk-no"), progress=False)


@pytest.mark.parametrize(
    "refusal",
    [
        {"status": 403, "body": {"error": {"message": "The input was flagged.", "code": "content_policy_violation"}}},
        {"status": 501, "body": {"error": {"message": "Batches are not supported."}}},
        {"status": 200, "body": {"error": {"message": "No such token.", "code": 400}}},
        {"status": 413, "body": {"error": {"message": "Payload too large."}}},
    ],
    ids=["flagged", "not implemented", "error in a good status", "too large"],
)
def test_only_the_row_at_fault_fails_whatever_the_error(
    embed: Embed, server: simulator.Server, refusal: dict[str, Any]
) -> None:
    server.script([refusal] * 40, matching="number 5")
    out = embed(texts(16), "text")
    assert out.index[out["status"] == "failed"].tolist() == [5]


def test_a_server_that_takes_no_lists_gets_each_text_without_one(embed: Embed, server: simulator.Server) -> None:
    refusal = {"status": 501, "body": {"error": {"message": "input must be a string"}}}
    server.script([refusal] * 40, matching='"input":[')
    assert embed(texts(6), "text")["status"].eq("succeeded").all()


def test_a_server_that_does_not_support_embeddings_stops_the_run(embed: Embed, server: simulator.Server) -> None:
    message = "This server does not support embeddings. Start it with `--embeddings`"
    refusal = {"status": 501, "body": {"error": {"code": 501, "message": message, "type": "not_supported_error"}}}
    server.script([refusal] * 300, matching="number")
    with pytest.raises(RunStoppedError, match="does not support embeddings") as stopped:
        embed(texts(300), "text")
    assert stopped.value.partial["status"].value_counts()["cancelled"] >= 290
    assert sent(server) <= 20


@pytest.mark.parametrize("status", [500, 400])
def test_a_pack_that_is_too_long_is_halved_at_the_first_refusal(server: simulator.Server, status: int) -> None:
    message = "input is too large to process. increase the physical batch size"
    too_long = {"status": status, "body": {"error": {"code": status, "message": message, "type": "server_error"}}}
    server.script([too_long] * 40, matching="bad")
    frame = texts(64)
    frame.loc[20, "text"] = "bad"
    with po.Client(server.base_url) as client:
        out = po.embed_dataframe(frame, "text", model="m", client=client, progress=False)
    assert out.index[out["status"] == "failed"].tolist() == [20]
    assert out.loc[20, ["error_code", "attempts"]].tolist() == ["context_length_exceeded", 7]
    assert server.stats()["received"] == 13


def test_packs_shrink_to_the_size_that_a_gateway_accepts() -> None:
    def answer(asked: Asked) -> Any:
        rows = asked.body["input"] if isinstance(asked.body["input"], list) else [asked.body["input"]]
        if len(rows) <= 8:
            data = [{"index": number, "embedding": [float(row.split()[-1])]} for number, row in enumerate(rows)]
            return 200, json.dumps({"data": data}).encode()
        return 502, b"<html><title>Bad Gateway</title></html>"

    with recorder(answer) as server, po.Client(f"{server.url}/v1") as client:
        out = po.embed_dataframe(texts(40), "text", model="m", rows_per_request=30, client=client, progress=False)
        assert [vector[0] for vector in out["embedding"]] == list(range(40))
        assert len(server.asked) < 20


def test_packs_are_as_large_as_before_once_a_server_is_back() -> None:
    seen: list[int] = []

    def answer(asked: Asked) -> Any:
        rows = asked.body["input"] if isinstance(asked.body["input"], list) else [asked.body["input"]]
        seen.append(len(rows))
        if len(seen) < 5:
            return 503, b"{}"
        data = [{"index": number, "embedding": [float(row.split()[-1])]} for number, row in enumerate(rows)]
        return 200, json.dumps({"data": data}).encode()

    with recorder(answer) as server, po.Client(f"{server.url}/v1") as client:
        out = po.embed_dataframe(texts(200), "text", model="m", rows_per_request=60, client=client, progress=False)
    assert [vector[0] for vector in out["embedding"]] == list(range(200))
    assert len(seen) < 25
