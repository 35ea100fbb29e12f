"""`preview` does everything that the run would do except sending, and its estimates come true."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._requests.encodings import get_encoding
from parallel_openai.errors import ColumnNotFoundError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb
from tests.frames.test_report import Page

TEXTS = ["A wonderful lamp.", "It leaks, terrible.", None, "Does what it says.", "A wonderful lamp."]
ASKED = "What is the sentiment of this review? {text}"


@pytest.fixture
def reviews() -> pd.DataFrame:
    return pd.DataFrame({"text": TEXTS}, index=[f"r{n}" for n in range(5)])


def look(df: pd.DataFrame, *, client: po.Client | None = None, **options: Any) -> po.Preview:
    client = client or po.Client("http://127.0.0.1:9/v1")
    return po.preview(df, ASKED, **{"model": "gpt-5-mini", "client": client, **options})


@pytest.mark.parametrize("label", [False, True], ids=["process", "label"])
def test_preview_shows_the_bodies_and_counts_of_the_run(server: Server, reviews: pd.DataFrame, label: bool) -> None:
    client = po.Client(server.base_url)
    options: dict[str, Any] = {"labels": ["positive", "negative"], "explain": True} if label else {"seed": 5}
    seen = look(reviews, client=client, max_completion_tokens=30, **options)
    run = po.label_dataframe if label else po.process_dataframe
    asked: dict[str, Any] = {"model": "gpt-5-mini", "client": client, "progress": False, "max_completion_tokens": 30}
    out = run(reviews, ASKED, **asked, **options)
    assert (seen.requests, seen.known, seen.shared, seen.failing) == (3, 0, 1, {"missing_prompt": 1})
    assert seen.to_frame()["request_key"].tolist() == out["request_key"].tolist()
    assert seen.online.most_usd >= out["cost_usd"].sum()
    assert seen.journal == out.attrs["parallel_openai"]["journal"]
    written = Path(seen.journal).read_text("utf-8")
    assert all(po.APIRequest(body).body.decode() in written for body in seen.bodies)


def test_options_that_only_a_run_needs_are_accepted_and_change_nothing(reviews: pd.DataFrame) -> None:
    of_the_run = {"budget_usd": 1.0, "lane": "batch", "repair": True, "progress": False, "prefix": "x_", "parse": str}
    seen, plain = look(reviews, **of_the_run), look(reviews)
    assert seen.to_frame()["request_key"].tolist() == plain.to_frame()["request_key"].tolist()
    assert seen.journal == plain.journal


def test_preview_counts_tokens_exactly(reviews: pd.DataFrame) -> None:
    encode = get_encoding("o200k_base").encode
    seen = look(reviews)
    texts = [ASKED.format(text=text) for text in (TEXTS[0], TEXTS[1], TEXTS[3])]
    by_hand = [len(encode("user") + encode(text)) + 3 + 3 for text in texts]  # a message costs 3, the answer's start 3
    assert seen.to_frame().loc[["r0", "r1", "r3"], "prompt_tokens"].tolist() == by_hand
    assert seen.prompt_tokens == sum(by_hand)


def test_preview_estimates_from_known_answers_and_does_not_count_them(
    server: Server, ask: Verb, reviews: pd.DataFrame
) -> None:
    client = po.Client(server.base_url)
    before = look(reviews, client=client, max_completion_tokens=400)
    assert math.isnan(before.online.expected_usd)
    out = po.process_dataframe(
        reviews[:2], ASKED, model="gpt-5-mini", max_completion_tokens=400, client=client, progress=False
    )
    seen = look(reviews, client=client, max_completion_tokens=400)
    assert (seen.requests, seen.known, seen.learned_from) == (1, 2, 2)
    assert seen.expected_output_tokens == pytest.approx(out["completion_tokens"].mean())
    assert 0 < seen.online.prompt_usd < seen.online.expected_usd < seen.online.most_usd
    assert seen.batch.expected_usd == pytest.approx(seen.online.expected_usd / 2)
    assert seen.to_frame()["status"].tolist() == [
        "in the journal",
        "in the journal",
        "fails",
        "to send",
        "shares an answer",
    ]


def test_preview_counts_rows_with_an_invalid_known_answer(server: Server, reviews: pd.DataFrame) -> None:
    client = po.Client(server.base_url)
    server.set(fault_length=1)
    po.process_dataframe(reviews[:2], ASKED, model="gpt-5-mini", client=client, progress=False)
    assert look(reviews[:2], client=client).requests == 2
    assert look(reviews[:2], client=client, retry_failed=False).requests == 0


def test_preview_sends_nothing_and_creates_no_file(reviews: pd.DataFrame) -> None:
    code = """
import sys, pandas as pd, parallel_openai as po

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"):
        raise AssertionError(event)

sys.addaudithook(refuse)
seen = po.preview(pd.DataFrame({"text": ["a", "b"]}), "{text}", model="gpt-5-mini")
print(seen._repr_html_() and str(seen).splitlines()[0])
"""
    root = str(Path(po.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "Preview of 2 rows for gpt-5-mini. Nothing was sent.", done.stderr
    assert list(Path().iterdir()) == []


def test_preview_reports_rows_that_are_too_large(reviews: pd.DataFrame) -> None:
    reviews.loc["r1", "text"] = "word " * 2_000
    limited = po.Client("http://127.0.0.1:9/v1", max_tokens_per_minute=1_000)
    assert look(reviews, client=limited).failing == {"request_too_large": 1, "missing_prompt": 1}
    reviews.loc["r1", "text"] = "word " * 130_000
    seen = look(reviews, model="gpt-4o-mini")
    [(code, times, label, sentence), _] = seen.failures
    assert (code, times, label) == ("context_length_exceeded", 1, "r1")
    assert "gpt-4o-mini reads at most 128,000" in sentence
    assert "1 row fails with context_length_exceeded, the first at 'r1'" in str(seen)


def test_the_time_is_estimated_from_the_limits() -> None:
    many = pd.DataFrame({"text": [f"Row {number}." for number in range(300)]})
    unknown = look(many)
    assert math.isnan(unknown.online.expected_seconds)
    assert "limits         not known yet" in str(unknown)
    by_requests = look(many, client=po.Client("http://127.0.0.1:9/v1", max_requests_per_minute=60))
    assert by_requests.online.expected_seconds == 300
    client = po.Client("http://127.0.0.1:9/v1", max_tokens_per_minute=10_000)
    by_tokens = look(many, client=client, max_completion_tokens=200)
    assert by_tokens.online.expected_seconds == pytest.approx(300 * 200 / 10_000 * 60)  # as OpenAI counts
    assert by_tokens.online.most_seconds > by_tokens.online.expected_seconds


def test_the_estimated_time_is_right(server: Server) -> None:
    server.set(max_requests_per_minute=1200, burst_seconds=1.0, latency=0.05)
    client = po.Client(server.base_url)
    df = pd.DataFrame({"text": [f"Row {number}." for number in range(100)]})
    po.process_dataframe(df[:20], ASKED, model="gpt-5-mini", client=client, progress=False)
    seen = look(df, client=client)
    po.process_dataframe(df, ASKED, model="gpt-5-mini", client=client, progress=False)
    report = po.last_run()
    assert report is not None
    assert seen.online.expected_seconds == pytest.approx(4.0)
    assert 2.0 < report.seconds < 8.0


def test_requests_without_a_cap_have_no_highest_cost(reviews: pd.DataFrame) -> None:
    seen = look(reviews)
    assert math.isinf(seen.online.most_usd)
    assert "no cap" in str(seen)
    assert "Nothing caps the answers" in str(seen)


def test_embeddings_have_no_answer_tokens(reviews: pd.DataFrame) -> None:
    seen = look(reviews, endpoint="embeddings", model="text-embedding-3-small")
    assert seen.online.expected_usd == seen.online.most_usd == pytest.approx(seen.prompt_tokens * 0.02e-6)
    assert seen.url.endswith("/v1/embeddings")


def test_preview_uses_the_price_of_the_service_tier(reviews: pd.DataFrame) -> None:
    usual, flex = (look(reviews, max_tokens=9, **each) for each in ({}, {"service_tier": "flex"}))
    assert flex.online.most_usd == pytest.approx(usual.online.most_usd / 2)


def test_a_model_without_a_price_is_mentioned_once(reviews: pd.DataFrame) -> None:
    seen = look(reviews, model="my-own-model", max_tokens=9)
    assert math.isnan(seen.online.most_usd)
    assert str(seen).count("The price of my-own-model is not known.") == 1


def test_preview_counts_each_sample(reviews: pd.DataFrame) -> None:
    frame = look(reviews, samples=2).to_frame()
    assert frame.index.tolist()[:4] == ["r0", "r0", "r1", "r1"]
    assert frame["status"].value_counts()["to send"] == 6


def test_preview_estimates_the_number_of_batches() -> None:
    many = pd.DataFrame({"text": [f"{number}" for number in range(3)]})
    assert look(many).batches == 1
    assert "within 24 h, 1 batch" in str(look(many))


def test_the_html_of_a_preview_shows_the_text_and_escapes_it(reviews: pd.DataFrame) -> None:
    reviews.loc["r0", "text"] = "<script>alert('hi')</script>"
    seen = look(reviews, max_tokens=30)
    page = Page(seen._repr_html_())
    assert "script" not in page.tags
    told = (piece.strip().removesuffix(":") for line in str(seen).splitlines() for piece in line.split("  "))
    assert [piece for piece in told if piece not in page.text] == []
    assert "alert('hi')" in page.text


def test_preview_of_an_empty_frame_has_nothing_to_send() -> None:
    seen = look(pd.DataFrame({"text": pd.Series([], dtype=str)}))
    assert (seen.requests, seen.online.most_usd, seen.bodies) == (0, 0.0, ())
    assert "0 requests" in str(seen)


def test_preview_raises_the_same_error_for_a_missing_column(reviews: pd.DataFrame) -> None:
    with pytest.raises(ColumnNotFoundError):
        look(reviews, metadata="nowhere")


def test_preview_uses_the_model_and_cap_of_each_request_body() -> None:
    bodies = [
        {"model": model, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 10}
        for model in ("gpt-5-mini", "gpt-4o-mini")
    ]
    seen = po.preview(
        pd.DataFrame({"body": bodies}),
        "body",
        model=None,
        client=po.Client("http://127.0.0.1:9/v1", max_tokens_per_minute=9_000),
    )
    assert (seen.requests, seen.batches, seen.most_output_tokens) == (2, 2, 20.0)
    assert "for their own models" in str(seen)
