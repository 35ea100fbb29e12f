"""`embed_dataframe`: many rows per request, and one vector for each row."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._frames.embedding.packs import MOST_ON_THE_WAY, Pack, Packer, Queue
from parallel_openai._records import APIRequest, Size, Usage
from parallel_openai._requests.endpoints import Packing
from parallel_openai._requests.prices import price
from parallel_openai._requests.tokens import request_size
from parallel_openai.errors import InvalidInputError
from parallel_openai.local import simulator
from tests.conftest import interrupted_once_sent
from tests.frames.conftest import asked, codes, journal_of
from tests.frames.embedding import MODEL, Embed, sent, texts, vector_of_one
from tests.frames.published import check_body
from tests.servers.recorder import Asked, recorder


def test_each_row_gets_the_vector_of_its_own_text(embed: Embed, client: po.Client) -> None:
    frame = pd.DataFrame({"text": ["A lamp.", "A kettle.", "A chair."]}, index=["x", "x", "y"])
    out = embed(frame, "text")
    assert out.index.tolist() == ["x", "x", "y"]
    assert out["status"].tolist() == ["succeeded"] * 3
    assert set(out["model"]) == {f"{MODEL} (simulated)"}
    for text, vector in zip(frame["text"], out["embedding"], strict=True):
        assert vector.dtype == np.float32
        assert np.allclose(vector, vector_of_one(client, text))


def test_a_template_over_several_columns_can_be_embedded(embed: Embed, client: po.Client) -> None:
    out = embed(pd.DataFrame({"title": ["Lamp"], "text": ["bright"]}), "{title}: {text}")
    assert np.allclose(out["embedding"][0], vector_of_one(client, "Lamp: bright"))


def test_the_cells_are_views_of_one_array_of_vectors(embed: Embed) -> None:
    out = embed(texts(5), "text")
    whole = po.vectors(out)
    assert (whole.shape, whole.dtype) == ((5, 8), np.float32)
    assert all(np.shares_memory(whole, cell) for cell in out["embedding"])
    assert po.vectors(out) is whole


def test_the_vectors_of_a_part_of_the_frame_are_in_its_order(embed: Embed) -> None:
    out = embed(texts(5), "text")
    assert np.array_equal(po.vectors(out.iloc[[3, 1]]), po.vectors(out)[[3, 1]])


def test_vectors_survive_saving_and_loading(embed: Embed) -> None:
    out = embed(pd.DataFrame({"text": ["A lamp.", None]}), "text", prefix="e_")
    for name in ("out.parquet", "out.csv"):
        po.save(out, name)
        assert np.array_equal(po.vectors(po.load(name)), po.vectors(out), equal_nan=True)


def test_cells_that_are_no_vectors_are_reported() -> None:
    for cells, sentence in (
        ([[1.0], [1.0, 2.0]], r"have several lengths: \[1, 2\]"),
        (["text"], "Row 0 of 'embedding' holds no vector but 'text'"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            po.vectors(pd.DataFrame({"embedding": cells}))
    assert po.vectors(pd.DataFrame({"embedding": [None, None]})).shape == (2, 0)


def test_a_request_holds_up_to_2048_rows(embed: Embed, server: simulator.Server) -> None:
    out = embed(texts(5000), "text", dimensions=2)
    assert out["status"].eq("succeeded").all()
    assert sent(server) == 3
    assert out.attrs["parallel_openai"]["requests_sent"] == 3


def test_a_request_holds_no_more_than_300_000_tokens(embed: Embed, server: simulator.Server) -> None:
    frame = pd.DataFrame({"text": [f"{number} " + "a b " * 2500 for number in range(90)]})
    out = embed(frame, "text")
    assert out["status"].eq("succeeded").all()
    assert sent(server) == 2
    assert out["attempts"].eq(1).all()


def test_rows_per_request_makes_smaller_requests(embed: Embed, server: simulator.Server) -> None:
    embed(texts(10), "text", rows_per_request=4)
    assert sent(server) == 3


def test_a_request_holds_no_more_tokens_than_the_account_has_in_a_minute() -> None:
    rows = [APIRequest({"input": str(number)}, path="embeddings") for number in range(12)]
    for row in rows:
        row.size = Size(prompt_tokens=300, characters=1, max_output_tokens=None, choices=1)
    packer = Packer(Packing(inputs=2048, tokens=300_000, tokens_each=8192))
    packer.fit(1000.0)
    packs = [pack for row in rows for pack in packer.add(row)]
    assert [len(pack.rows) for pack in [*packs, *packer.rest()]] == [3, 3, 3, 3]


def test_request_bodies_match_the_api_reference_and_ask_for_base64(embed: Embed, server: simulator.Server) -> None:
    out = embed(texts(2), "text", user="me")
    for body in asked(out):
        check_body("embeddings", body)
        assert (body["encoding_format"], body["dimensions"], body["user"]) == ("base64", 8, "me")


def test_empty_missing_and_too_long_texts_fail_and_the_others_are_embedded(
    embed: Embed, server: simulator.Server
) -> None:
    frame = pd.DataFrame({"text": ["A lamp.", "", np.nan, "word " * 9000, 5]}, dtype=object)
    out = embed(frame, "text")
    assert codes(out) == [None, "empty_prompt", "missing_prompt", "context_length_exceeded", "invalid_prompt"]
    assert "9,00" in out["error"][3]
    assert "8,192" in out["error"][3]
    assert sent(server) == 1
    whole = po.vectors(out)
    assert np.isnan(whole).all(axis=1).tolist() == [False, True, True, True, True]


def test_rows_with_the_same_text_are_sent_once(embed: Embed) -> None:
    frame = pd.DataFrame({"text": ["A lamp.", "A chair.", "A lamp."]})
    out = embed(frame, "text")
    lines = journal_of(out).read_bytes().splitlines()
    assert len(lines) == 2
    assert np.array_equal(out["embedding"][0], out["embedding"][2])
    assert out["prompt_tokens"][2] == 0
    assert np.shares_memory(po.vectors(out), out["embedding"][2])


def test_a_shuffled_and_extended_frame_sends_only_new_texts(embed: Embed, server: simulator.Server) -> None:
    first = embed(texts(40), "text")
    frame = texts(50).sample(frac=1, random_state=1)
    out = embed(frame, "text")
    assert out.attrs["parallel_openai"]["restored"] == 40
    assert sent(server) == 2
    assert server.stats()["prompt_tokens"] == out["prompt_tokens"].sum()
    assert np.array_equal(po.vectors(out.sort_index().head(40)), po.vectors(first))


def test_process_dataframe_reuses_vectors_of_the_journal(embed: Embed, client: po.Client) -> None:
    out = embed(texts(1), "text", save_to="answers.jsonl")
    one = po.process_dataframe(
        texts(1),
        "text",
        model=MODEL,
        endpoint="embeddings",
        encoding_format="base64",
        dimensions=8,
        save_to="answers.jsonl",
        client=client,
        progress=False,
    )
    assert one.attrs["parallel_openai"]["restored"] == 1
    assert np.array_equal(one["response"][0], out["embedding"][0])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupt_keeps_received_vectors_and_the_next_call_resumes(embed: Embed, server: simulator.Server) -> None:
    done = [{"index": number, "embedding": [0.5] * 8} for number in range(10)]
    server.script([{"body": {"model": MODEL, "system_fingerprint": "simulated", "data": done}}])
    server.set(latency=100)
    with interrupted_once_sent(server, 2), pytest.raises(KeyboardInterrupt) as stop:
        embed(texts(100), "text", rows_per_request=10)
    out: pd.DataFrame = stop.value.partial  # type: ignore[attr-defined]
    assert out["status"].value_counts().to_dict() == {"succeeded": 10, "cancelled": 90, "failed": 0}
    server.set(latency=0)
    before = sent(server)
    out = embed(texts(100), "text", rows_per_request=10)
    assert out["status"].eq("succeeded").all()
    assert sent(server) - before == 9


def test_a_rate_limited_pack_is_sent_again_complete(embed: Embed, server: simulator.Server) -> None:
    server.script([{"status": 429, "headers": {"retry-after": "0"}}])
    out = embed(texts(30), "text")
    assert out["status"].eq("succeeded").all()
    assert sent(server) == 2


def test_the_columns_sum_up_to_what_was_billed(embed: Embed, server: simulator.Server) -> None:
    frame = pd.DataFrame({"text": ["Short.", "Rather a longer text about a lamp and a chair.", "Short."]})
    out = embed(frame, "text")
    billed = server.stats()["prompt_tokens"]
    assert out["prompt_tokens"].sum() == billed
    assert out["cost_usd"].sum() == pytest.approx(price(MODEL, Usage(billed)))
    assert out.attrs["parallel_openai"]["cost_usd"] == pytest.approx(out["cost_usd"].sum())
    assert out["prompt_tokens"][0] < out["prompt_tokens"][1]


def test_a_budget_ends_the_run_before_the_request_that_would_pass_it(embed: Embed, server: simulator.Server) -> None:
    out = embed(texts(100), "text", rows_per_request=10, budget_tokens=200)
    assert 0 < out["prompt_tokens"].sum() <= 200
    assert set(codes(out)) == {None, "budget"}
    assert server.stats()["prompt_tokens"] <= 200


@pytest.mark.parametrize("share", [0.05, 0.5, 0.94])
@pytest.mark.parametrize("unit", ["budget_tokens", "budget_usd"])
def test_a_pack_is_made_smaller_to_fit_the_rest_of_the_budget(
    embed: Embed, server: simulator.Server, unit: str, share: float
) -> None:
    frame = texts(400, start=1000)
    plan = po.preview(frame, "text", model=MODEL, endpoint="embeddings", client=po.Client(server.base_url))
    tokens = int(plan.prompt_tokens * share)
    usd = tokens * 0.02 / 1e6
    out = embed(frame, "text", **{unit: tokens if unit == "budget_tokens" else usd})
    assert 0.8 * tokens <= out["prompt_tokens"].sum() <= tokens
    assert set(codes(out)) == {None, "budget"}
    assert sent(server) < 15


@pytest.mark.parametrize("latency", [0.0, 0.05], ids=["one after the other", "many at a time"])
@pytest.mark.parametrize(
    ("bills", "tells"),
    [
        ([1.0], True),
        ([1.5], True),
        ([2.25], True),
        ([4.9], True),
        ([1.0, 1.9], True),
        ([*[1.0] * 8, 1.9], True),
        ([1.25], False),
        ([1.9], False),
    ],
    ids=repr,
)
def test_a_budget_is_kept_however_the_server_counts_tokens(bills: list[float], tells: bool, latency: float) -> None:
    """The factors by which its first answers are billed against our count; the last one is that of all others."""
    billed: list[int] = []

    def answer(asked: Asked) -> tuple[int, bytes]:
        time.sleep(latency)
        given = asked.body["input"]
        texts = given if isinstance(given, list) else [given]
        tokens = sum(request_size({"input": text}, "cl100k_base", "embeddings").prompt_tokens for text in texts)
        billed.append(int(tokens * bills[min(len(billed), len(bills) - 1)]))
        vectors = [{"object": "embedding", "index": number, "embedding": [1.0]} for number in range(len(texts))]
        usage = {"usage": {"prompt_tokens": billed[-1]}} if tells else {}
        return 200, json.dumps({"model": MODEL, "data": vectors, **usage}).encode()

    with recorder(answer) as server, po.Client(f"{server.url}/v1", "none") as client:
        out = po.embed_dataframe(texts(300), "text", model=MODEL, client=client, budget_tokens=800, progress=False)
    assert 400 < sum(billed) <= 800
    assert out["prompt_tokens"].sum() == (sum(billed) if tells else 0)


def test_lists_of_token_numbers_are_embedded_too(embed: Embed, server: simulator.Server) -> None:
    frame = pd.DataFrame({"tokens": [[1, 2, 3], [4], "A text."]})
    assert embed(frame, "tokens")["status"].eq("succeeded").all()
    assert sent(server) == 2


def test_an_empty_frame_gives_an_empty_frame(embed: Embed, server: simulator.Server) -> None:
    out = embed(texts(0), "text")
    assert po.vectors(out).shape == (0, 0)
    assert sent(server) == 0


def test_aembed_dataframe_gives_the_same_result(client: po.Client) -> None:
    out = asyncio.run(po.aembed_dataframe(texts(3), "text", model=MODEL, client=client, progress=False))
    assert po.vectors(out).shape == (3, 1536)


def test_embed_is_available_as_df_openai_embed(client: po.Client) -> None:
    out = texts(2).openai.embed("text", model=MODEL, dimensions=4, client=client, progress=False)
    assert po.vectors(out).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dimensions": 0}, "dimensions must be a whole number above 0, not 0"),
        ({"rows_per_request": True}, "rows_per_request must be a whole number above 0, not True"),
        ({"lane": "batch"}, "embed_dataframe has no lane=.*endpoint='embeddings'"),
        ({"ray": 2}, "ray= is said with lane='ray' or lane=po.RayLane"),
        ({"samples": 2}, "A text has one vector"),
        ({"input": "Hi."}, "input= would stand in the place of every row's prompt"),
    ],
)
def test_invalid_arguments_of_embed_dataframe_are_refused_before_anything_is_sent(
    embed: Embed, server: simulator.Server, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        embed(texts(1), "text", **options)
    assert sent(server) == 0


def test_a_frame_of_vectors_can_be_written_as_json_lines(embed: Embed) -> None:
    out = embed(texts(2), "text")
    assert po.to_jsonl(out, "out.jsonl") == 2
    line = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert np.allclose(line["embedding"], out["embedding"][0])


def test_vectors_of_shuffled_and_incomplete_frames_are_read_from_their_cells(embed: Embed) -> None:
    out = embed(texts(4), "text")
    whole = po.vectors(out)
    assert np.array_equal(po.vectors(out.iloc[::-1]), whole[::-1])
    out["embedding"] = [None, *out["embedding"].tolist()[1:]]
    assert np.isnan(po.vectors(out)).all(axis=1).tolist() == [True, False, False, False]
    out["embedding"] = [cell[:3] for cell in whole]
    assert np.array_equal(po.vectors(out), whole[:, :3])
    assert po.vectors(out.rename(columns={"embedding": "v"}), "v").shape == (4, 3)


def test_a_longer_frame_takes_hundreds_of_vectors_from_the_journal(embed: Embed, server: simulator.Server) -> None:
    first = embed(texts(600), "text", dimensions=2)
    out = embed(texts(601), "text", dimensions=2)
    assert sent(server) == 2
    assert out.attrs["parallel_openai"]["restored"] == 600
    assert np.array_equal(po.vectors(out)[:600], po.vectors(first))


def test_a_row_with_several_texts_fails_alone(embed: Embed, server: simulator.Server) -> None:
    frame = pd.DataFrame({"asked": [{"input": ["A", "B"]}, {"input": "C", "user": "me"}, {"input": "D"}]})
    out = embed(frame, "asked")
    assert codes(out) == ["invalid_prompt", None, None]
    assert out["error"][0] == "A row of embed_dataframe must be one string or list of tokens."
    assert sent(server) == 2  # the two say something different


def test_the_number_of_rows_in_flight_is_bounded_by_memory() -> None:
    rows = [APIRequest({"input": "Hi."}, path="embeddings")] * 2048
    queue = Queue(Pack(rows).request for _ in range(20))
    on_their_way = list(queue)
    assert len(on_their_way) * 2048 == MOST_ON_THE_WAY
    for request in on_their_way[:3]:
        assert request is not None
        assert isinstance(request.context, Pack)
        queue.ended(request.context)
    assert len(list(queue)) == 3


def test_rows_that_waited_for_memory_are_all_embedded(embed: Embed, server: simulator.Server) -> None:
    out = embed(texts(MOST_ON_THE_WAY + 100), "text", dimensions=1)
    assert out["status"].eq("succeeded").all()
    assert sent(server) == 17
