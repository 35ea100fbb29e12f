"""All tokens are counted and no budget is exceeded, however a server reports usage."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._records import Usage
from parallel_openai._requests.prices import price
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, codes
from tests.frames.test_resume import received

WRITES = "gpt-5.6-luna"
SPEAKS = "gpt-audio-mini"
LABELS: dict[str, Any] = {"labels": ["positive", "negative"]}


@pytest.fixture
def many() -> pd.DataFrame:
    return pd.DataFrame({"text": [f"Review number {n} of a lamp. " + "It is good. " * 20 for n in range(60)]})


def billed(server: Server) -> int:
    stats = server.stats(charged=False)
    return int(stats["prompt_tokens"] + stats["completion_tokens"])


def told(out: pd.DataFrame) -> int:
    return int(out["prompt_tokens"].sum() + out["completion_tokens"].sum())


@pytest.mark.parametrize("endpoint", ["chat.completions", "responses"])
def test_tokens_written_to_a_cache_have_their_own_price(ask: Verb, server: Server, endpoint: str) -> None:
    server.set(written_share=1.0)
    cap = {"responses": "max_output_tokens"}.get(endpoint, "max_completion_tokens")
    few = pd.DataFrame({"text": ["A lamp that shines, day after day. " * n for n in range(1, 40)]})
    out = ask(few, "text", model=WRITES, endpoint=endpoint, budget_usd=0.0005, **{cap: 20})
    prompts, answers = int(out["prompt_tokens"].sum()), int(out["completion_tokens"].sum())
    cost = price(WRITES, Usage(prompts, answers, cache_write_tokens=prompts))
    assert out["cost_usd"].sum() == pytest.approx(cost, rel=0.01)
    assert 0.0003 < cost <= 0.0005
    assert "cancelled" in set(out["status"])


@pytest.mark.parametrize("way", ["in_total", "beside"])
@pytest.mark.parametrize("latency", [0, 0.02], ids=["one after the other", "many at a time"])
def test_uncapped_reasoning_counts_and_stays_within_the_budget(
    ask: Verb, many: pd.DataFrame, server: Server, way: str, latency: float
) -> None:
    server.set(thoughts=400, usage=way, latency=latency)
    out = ask(many, "text", max_tokens=20, budget_tokens=5000)
    assert told(out) == billed(server)
    assert 3000 < billed(server) <= 5000


def test_usage_of_embeddings_may_have_total_tokens_only(client: po.Client, many: pd.DataFrame, server: Server) -> None:
    server.set(usage="total_alone")
    embed = partial(po.embed_dataframe, many, "text", model="text-embedding-3-small", client=client, progress=False)
    out = embed(budget_tokens=100_000)
    assert out["prompt_tokens"].sum() == billed(server) > 0
    assert out["cost_usd"].sum() == pytest.approx(price("text-embedding-3-small", Usage(billed(server))))


@pytest.mark.parametrize("way", ["total_alone", "text", "nested", "missing"])
def test_a_budget_is_kept_with_any_format_of_usage(ask: Verb, many: pd.DataFrame, server: Server, way: str) -> None:
    server.set(usage=way)
    out = ask(many, "text", max_tokens=20, budget_tokens=3000)
    assert 500 < billed(server) <= 3000
    assert told(out) == (0 if way == "missing" else billed(server))


def test_answers_without_usage_are_reported_at_the_end(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    server.set(usage="missing")
    ask(many[:2], "text", max_tokens=20)
    report = po.last_run()
    assert report is not None
    assert report.untold == 2
    assert "2 answers that do not say what they took" in str(report)


def test_audio_tokens_have_their_own_price(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    server.set(sound_share=1.0)
    said: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    out = ask(many, "text", model=SPEAKS, max_tokens=20, budget_usd=0.02, **said)
    prompts, answers = int(out["prompt_tokens"].sum()), int(out["completion_tokens"].sum())
    cost = price(SPEAKS, Usage(prompts, answers, audio_prompt_tokens=prompts, audio_completion_tokens=answers))
    assert out["cost_usd"].sum() == pytest.approx(cost)
    assert 0 < cost <= 0.02


def test_a_dollar_budget_refuses_audio_without_a_price(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    with pytest.raises(InvalidInputError, match=r"all that 'gpt-4o-audio-preview' may read and write here.*not known"):
        ask(many, "text", model="gpt-4o-audio-preview", modalities=["text", "audio"], max_tokens=20, budget_usd=1)
    part = {"type": "input_audio", "input_audio": {"data": "AAAA" * 100, "format": "wav"}}
    heard = pd.DataFrame({"messages": [[{"role": "user", "content": [part]}]]})
    assert codes(ask(heard, "messages", max_tokens=20, budget_usd=1)) == ["unbounded"]
    assert received(server) == 0
    assert codes(ask(heard, "messages", max_tokens=20, budget_tokens=2000)) != ["unbounded"]


def test_audio_without_a_price_makes_the_cost_unknown(ask: Verb, many: pd.DataFrame, server: Server) -> None:
    server.set(sound_share=0.5)
    out = ask(many[:1], "text", model="gpt-4o-audio-preview", max_tokens=20)
    assert out["cost_usd"].isna().all()
    assert "cost not known (no price for gpt-4o-audio-preview)" in str(po.last_run())


@pytest.mark.parametrize(
    "searching",
    [
        {"model": "gpt-4o-search-preview"},
        {"model": "gpt-5-search-api"},
        {"model": "o4-mini-deep-research"},
        {"model": "openai/gpt-4o-mini:online"},
        {"plugins": [{"id": "web"}]},
        {"search_parameters": {"mode": "auto"}},
        {"models": ["gpt-4o-search-preview"]},
    ],
    ids=str,
)
def test_a_budget_refuses_models_that_search_the_web_by_themselves(
    ask: Verb, server: Server, searching: dict[str, Any]
) -> None:
    options = {"model": "gpt-4o-mini", "max_tokens": 20, **searching}
    with pytest.raises(InvalidInputError, match="makes it read more"):
        ask(pd.DataFrame({"text": ["a"]}), "text", budget_usd=1, **options)
    assert received(server) == 0


def test_web_searches_in_the_responses_api_cost_their_fee(ask: Verb, server: Server) -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "Yes."}]}
    body = {
        "model": WRITES,
        "status": "completed",
        "output": [{"type": "web_search_call"}, {"type": "web_search_call"}, message],
        "usage": {"input_tokens": 1000, "output_tokens": 10, "total_tokens": 1010},
    }
    server.script([{"body": body}])
    out = ask(pd.DataFrame({"text": ["a"]}), "text", endpoint="responses", tools=[{"type": "web_search"}])
    assert out["cost_usd"].sum() == pytest.approx(price(WRITES, Usage(1000, 10)) + 0.02)


def test_an_answer_under_an_alias_costs_as_much_as_the_requested_model(ask: Verb, server: Server) -> None:
    server.script([{"body": {**answer(10), "model": "house-model"}}])
    rows = pd.DataFrame({"text": ["a"]})
    out = ask(rows, "text")
    assert out["cost_usd"].tolist() == [pytest.approx(price("gpt-4o-mini", Usage(100, 10)))]
    assert "house-model at the price of gpt-4o-mini" in str(po.last_run())
    again = ask(rows, "text")
    assert received(server) == 1
    assert again["cost_usd"].tolist() == out["cost_usd"].tolist()


def answer(output: int) -> dict[str, Any]:
    return {
        "model": "gpt-4o-mini",
        "choices": [{"message": {"content": '{"label":"positive"}'}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": output, "total_tokens": 100 + output},
    }


@pytest.mark.parametrize("bound", [{"budget_usd": 0.0004}, {"budget_tokens": 2500}], ids=str)
@pytest.mark.parametrize("fault", [{}, {"fault_truncated": 0.5}], ids=["untold", "lost on the way"])
def test_the_variants_of_a_comparison_share_one_budget(
    client: po.Client, many: pd.DataFrame, server: Server, bound: dict[str, Any], fault: dict[str, Any]
) -> None:
    """Of answers without usage nothing is known but that they were billed."""
    server.set(usage="missing", **fault)
    prompts = {"v1": "Happy? {text}", "v2": "Sad? {text}", "v3": "Angry? {text}"}
    options: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 20, "client": client, "progress": False, **bound}
    found = po.compare(many[:20], prompts, **LABELS, **options)
    stats = server.stats(charged=False)
    usage = Usage(int(stats["prompt_tokens"]), int(stats["completion_tokens"]))
    assert found.ended == "budget"
    assert usage.total_tokens <= bound.get("budget_tokens", 1e9)
    assert price("gpt-4o-mini", usage) <= bound.get("budget_usd", 1e9)


def test_a_variant_has_no_budget_of_its_own(client: po.Client, many: pd.DataFrame) -> None:
    variant = {"prompt": "text", "budget_tokens": 5}
    with pytest.raises(InvalidInputError, match="budget_tokens= is the same for all variants"):
        po.compare(many, {"v1": variant}, **LABELS, model="gpt-4o-mini", client=client, progress=False)


WAYS = ("whole", "beside", "in_total", "total_alone", "text", "nested", "missing")


@pytest.mark.parametrize("number", range(16))
def test_no_combination_of_usage_format_and_request_exceeds_the_budget(
    ask: Verb, label: Verb, many: pd.DataFrame, server: Server, number: int
) -> None:
    chance = random.Random(number)
    way = chance.choice(WAYS)
    thoughts = 0 if way == "missing" else chance.choice([0, 300])  # nobody knows of thoughts that nothing tells of
    server.set(usage=way, thoughts=thoughts, cached_share=0.3, written_share=0.5)
    server.set(latency=chance.choice([0, 0.01]), fault_truncated=chance.choice([0, 0.2]))
    verb, more = chance.choice([(ask, {}), (label, LABELS), (ask, {"samples": 3}), (ask, {"lane": "flex"})])
    endpoint, cap = chance.choice([("chat.completions", "max_completion_tokens"), ("responses", "max_output_tokens")])
    out = verb(many, "text", model=WRITES, endpoint=endpoint, budget_tokens=4000, **{cap: 20}, **more)
    assert 500 < billed(server) <= 4000
    assert way == "missing" or told(out) > 0


@pytest.mark.parametrize("ending", [{"finish_reason": "error"}, {"finish_reason": "stop", "error": {"message": "No."}}])
def test_the_cost_of_answers_that_broke_off_is_reported(ask: Verb, server: Server, ending: dict[str, Any]) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hal"}, **ending}
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
    server.script([{"body": json.dumps({"model": "gpt-4o-mini", "choices": [choice], "usage": usage})}])
    out = ask(pd.DataFrame({"text": ["A lamp."]}), "text")
    report = po.last_run()
    assert report is not None
    assert out["status"].tolist() == ["succeeded"]
    assert report.prompt_tokens == out["prompt_tokens"].sum() > 1_000_000
    assert report.cost_usd == pytest.approx(out["cost_usd"].sum())
    assert report.cost_usd > 0.75


@pytest.mark.parametrize("good", [True, False], ids=["then answered", "never answered"])
@pytest.mark.parametrize(
    "options", [{}, {"samples": 2}, {"repair": 1, "response_format": {"type": "json_object"}}], ids=str
)
def test_the_cost_of_failed_answers_is_in_their_row_in_later_runs_too(
    server: Server, tmp_path: Path, good: bool, options: dict[str, Any]
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
    answer = {"model": "gpt-4o-mini", "choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 10}}
    broken = {**answer, "choices": [{**choice, "finish_reason": "error"}], "usage": usage}
    samples, journal = options.get("samples", 1), tmp_path / "out.jsonl"
    server.script([{"body": json.dumps(broken)}] * 3 + [{"body": json.dumps(answer)}] * samples * good)
    with po.Client(server.base_url, max_attempts=4 if good else 3, max_concurrent_requests=1) as client:
        out, again = (
            po.process_dataframe(
                pd.DataFrame({"text": ["A lamp."]}), "Tell JSON. {text}", model="gpt-4o-mini", client=client,
                save_to=journal, progress=False, retry_failed=False, **options,
            )
            for _ in range(2)
        )  # fmt: skip
    expected = 3_000_000 + (10 * samples if good else 0)
    if good or samples == 1:
        assert out["status"].eq("succeeded" if good else "failed").all()
        assert out["prompt_tokens"].tolist() == [expected]
        assert out["cost_usd"][0] == pytest.approx(2.25, rel=1e-3)
    assert again["prompt_tokens"].tolist() == out["prompt_tokens"].tolist()
    assert again["cost_usd"].tolist() == out["cost_usd"].tolist()


def test_the_cost_of_a_failed_pack_is_reported_once(server: Server) -> None:
    refused = {"error": {"message": "No."}, "usage": {"prompt_tokens": 1_000_000, "total_tokens": 1_000_000}}
    server.script([{"body": json.dumps(refused)}])
    with po.Client(server.base_url) as client:
        out = po.embed_dataframe(
            pd.DataFrame({"text": ["a", "b", "c"]}),
            "text",
            model="text-embedding-3-small",
            client=client,
            progress=False,
        )
    report = po.last_run()
    assert report is not None
    assert report.prompt_tokens == out["prompt_tokens"].sum() > 1_000_000
    assert report.cost_usd == pytest.approx(out["cost_usd"].sum())


def broken_off(prompt_tokens: int) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hal"}, "finish_reason": "error"}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1000, "total_tokens": prompt_tokens + 1000}
    return {"body": json.dumps({"model": "gpt-4o-mini", "choices": [choice], "usage": usage})}


@pytest.mark.parametrize("options", [{}, {"samples": 2}], ids=["one", "samples"])
@pytest.mark.parametrize("end", [{"budget_tokens": 60_000}, {"budget_usd": 0.01}, {"deadline": 0.2}], ids=str)
def test_a_cancelled_row_shows_what_was_billed_for_it(
    server: Server, end: dict[str, Any], options: dict[str, Any]
) -> None:
    server.script([broken_off(50_000)] * 20)
    with po.Client(server.base_url, max_concurrent_requests=1, max_attempts=99) as client:
        out = po.process_dataframe(
            pd.DataFrame({"text": ["A lamp.", "A lamp.", "A chair."]}), "text", model="gpt-4o-mini", client=client,
            max_tokens=1000, progress=False, **end, **options,
        )  # fmt: skip
    report = po.last_run()
    assert report is not None
    assert out["status"].eq("cancelled").all()
    assert report.prompt_tokens == out["prompt_tokens"].sum() >= 50_000
    assert report.cost_usd == pytest.approx(out["cost_usd"].sum())


def test_a_cancelled_row_shows_what_was_billed_for_its_failed_repair(server: Server) -> None:
    schema = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
    server.script([{"body": broken_off(9)["body"].replace("error", "stop")}, *[broken_off(50_000)] * 20])
    with po.Client(server.base_url, max_concurrent_requests=1) as client:
        out = po.process_dataframe(
            pd.DataFrame({"text": ["A lamp."]}), "text", model="gpt-4o-mini", client=client, max_tokens=10,
            progress=False, response_format=schema, repair=1, budget_tokens=60_000,
        )  # fmt: skip
    report = po.last_run()
    assert report is not None
    assert report.ended == "budget"
    assert report.prompt_tokens == out["prompt_tokens"].sum() > 50_000


@pytest.mark.parametrize("repair", [1, 2])
def test_a_later_run_tells_what_repairs_in_vain_were_billed(server: Server, repair: int) -> None:
    """The last answer of a row whose repair failed is written down anew, with what the repair was billed."""
    schema = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
    bad = broken_off(9)["body"].replace("error", "stop")
    server.script([{"body": bad}] * repair + [broken_off(50_000)] * 2)
    with po.Client(server.base_url, max_concurrent_requests=1, max_attempts=2) as client:
        first, again = (
            po.process_dataframe(
                pd.DataFrame({"text": ["A lamp."]}), "text", model="gpt-4o-mini", client=client, progress=False,
                response_format=schema, repair=repair, retry_failed=False,
            )
            for _ in range(2)
        )  # fmt: skip
    told = ["status", "error_code", "attempts", "prompt_tokens", "completion_tokens", "cost_usd"]
    assert first["prompt_tokens"].tolist() == [9 * repair + 100_000]
    assert first[told].to_dict() == again[told].to_dict()


@pytest.mark.parametrize("status", [200, 400], ids=["at once", "in halves"])
def test_cancelled_embeddings_show_what_was_billed_for_them(server: Server, status: int) -> None:
    refused = {"error": {"message": "No."}, "usage": {"prompt_tokens": 50_000, "total_tokens": 50_000}}
    server.script([{"status": status, "body": json.dumps(refused)}] * 20)
    with po.Client(server.base_url, max_concurrent_requests=1) as client:
        out = po.embed_dataframe(
            pd.DataFrame({"text": ["a", "b", "c"]}), "text", model="text-embedding-3-small", client=client,
            progress=False, budget_tokens=90_000,
        )  # fmt: skip
    report = po.last_run()
    assert report is not None
    assert (report.ended, out["status"].value_counts()["cancelled"] > 0) == ("budget", True)
    assert report.prompt_tokens == out["prompt_tokens"].sum() >= 50_000
