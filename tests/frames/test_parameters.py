"""An unknown option is refused before anything is sent, and its value is never shown."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from openai.types import completion_create_params, embedding_create_params, moderation_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

import parallel_openai as po
from parallel_openai._frames.parameters import ACCOUNT, OPTIONS
from parallel_openai._requests.endpoints import ENDPOINTS
from parallel_openai.errors import InvalidInputError
from parallel_openai.local import simulator
from tests.frames.conftest import Verb, asked

SECRET = "sk-never-seen-0123456789"  # no key, but looks like one
FRAME = pd.DataFrame({"text": ["A lamp.", "A kettle."]})
PROMPT = "Is it good? {text}"


def process(**options: Any) -> Any:
    return po.process_dataframe(FRAME, PROMPT, **{"model": "gpt-4o-mini", **options})


def label(**options: Any) -> Any:
    return po.label_dataframe(FRAME, PROMPT, labels=["yes", "no"], **{"model": "gpt-4o-mini", **options})


def embed(**options: Any) -> Any:
    return po.embed_dataframe(FRAME, "text", **{"model": "text-embedding-3-small", **options})


def compare(**options: Any) -> Any:
    return po.compare(FRAME, {"a": PROMPT, "b": "Good? {text}"}, labels=["yes", "no"], model="gpt-4o-mini", **options)


def compare_a_variant(**options: Any) -> Any:
    client = options.pop("client")
    variants = {"a": PROMPT, "b": {"prompt": "Good? {text}", **options}}
    return po.compare(FRAME, variants, labels=["yes", "no"], model="gpt-4o-mini", client=client, progress=False)


def preview(**options: Any) -> Any:
    return po.preview(FRAME, PROMPT, model="gpt-4o-mini", **options)


def on_the_frame(**options: Any) -> Any:
    return FRAME.openai.process(PROMPT, model="gpt-4o-mini", **options)


VERBS = [process, label, embed, compare, compare_a_variant, preview, on_the_frame]


def refused(verb: Any, server: simulator.Server, client: po.Client, **options: Any) -> str:
    with pytest.raises(InvalidInputError) as error:
        verb(client=client, **options)
    assert server.stats(charged=False)["received"] == 0
    assert not list(Path().rglob("*.jsonl"))
    return str(error.value)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("option", "place"),
    [
        ("api_key", "po.Client(api_key=...)"),
        ("headers", "po.Client(headers=...)"),
        ("extra_headers", "po.Client(headers={...})"),
        ("azure_ad_token", "po.Client(api_key=...)"),
        ("base_url", "po.Client(base_url=...)"),
        ("timeout", "po.Client(timeout=...)"),
        ("max_retries", "po.Client(max_attempts=...)"),
        ("max_requests_per_minute", "po.Client(max_requests_per_minute=...)"),
        ("secret_of_mine", "extra_body={...}"),
    ],
)
def test_options_of_the_client_are_refused_without_showing_their_value(
    verb: Any, option: str, place: str, server: simulator.Server, client: po.Client
) -> None:
    told = refused(verb, server, client, **{option: SECRET})
    assert place in told
    assert SECRET not in told


@pytest.mark.parametrize("verb", VERBS)
def test_a_key_is_refused_in_extra_body_too(verb: Any, server: simulator.Server, client: po.Client) -> None:
    told = refused(verb, server, client, extra_body={"api_key": SECRET})
    assert "po.Client(api_key=...)" in told
    assert SECRET not in told


@pytest.mark.parametrize(
    ("verb", "options", "told"),
    [
        (process, {"labels": ["yes"]}, "labels= is an option of label_dataframe"),
        (embed, {"labels": ["yes"]}, "labels= is an option of label_dataframe"),
        (process, {"lables": ["yes"]}, "There is no lables=; did you mean labels=, of label_dataframe?"),
        (process, {"budget_us": 1}, "did you mean budget_usd="),
        (label, {"max_token": 1}, "did you mean max_tokens=?"),
        (label, {"apikey": SECRET}, "did you mean api_key=? That is said with Client(api_key=...)."),
        (process, {"endpoint": "responses", "max_tokens": 9}, "Its answers are capped by max_output_tokens=."),
        (process, {"endpoint": "moderations", "temperature": 0}, "moderations has no parameter temperature="),
        (embed, {"top_p": 1}, "embeddings has no parameter top_p="),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_misplaced_or_misspelt_parameter_is_refused_with_the_right_name(
    verb: Any, options: dict[str, Any], told: str, server: simulator.Server, client: po.Client
) -> None:
    said = refused(verb, server, client, **options)
    assert told in said
    assert SECRET not in said


@pytest.mark.parametrize("params", [{"top_k": 5}, {"extra_body": {"of_my_server": 5}}], ids=["known", "extra_body"])
def test_parameters_of_other_servers_are_sent_and_change_the_request_key(
    ask: Verb, server: simulator.Server, params: dict[str, Any]
) -> None:
    plain = ask(FRAME, PROMPT)
    said = {"choices": [{"message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}]}
    server.script([{"body": said}] * 2)  # the simulator itself takes what OpenAI takes
    out = ask(FRAME, PROMPT, **params)
    assert out["status"].eq("succeeded").all()
    assert all(params.get("extra_body", params).items() <= body.items() for body in asked(out))
    assert set(plain["request_key"]).isdisjoint(out["request_key"])


@pytest.mark.parametrize(
    ("endpoint", "types"),
    [
        ("chat.completions", chat_create_params.CompletionCreateParamsNonStreaming),
        ("responses", response_create_params.ResponseCreateParamsNonStreaming),
        ("completions", completion_create_params.CompletionCreateParamsNonStreaming),
        ("embeddings", embedding_create_params.EmbeddingCreateParams),
        ("moderations", moderation_create_params.ModerationCreateParams),
    ],
)
def test_each_endpoint_knows_the_parameters_that_the_sdk_knows(endpoint: str, types: Any) -> None:
    names = {name for each in types.__mro__ for name in getattr(each, "__annotations__", {})}
    assert set(types.__required_keys__ | types.__optional_keys__ | names) <= ENDPOINTS[endpoint].parameters


@pytest.mark.parametrize(("verb", "most"), [("process_dataframe", 20), ("label_dataframe", 24)])
def test_a_verb_has_few_enough_named_options_to_be_read(verb: str, most: int) -> None:
    named = [
        each.name for each in inspect.signature(getattr(po, verb)).parameters.values() if each.kind is each.KEYWORD_ONLY
    ]
    assert len(named) <= most


def test_every_option_is_listed_with_a_function_that_has_it() -> None:
    for name, owner in OPTIONS.items():
        assert name in inspect.signature(getattr(po, owner)).parameters
    for verb in (po.process_dataframe, po.label_dataframe, po.embed_dataframe, po.process_dataset, po.compare):
        options = [each.name for each in inspect.signature(verb).parameters.values() if each.kind is each.KEYWORD_ONLY]
        assert set(options) <= OPTIONS.keys()
    assert set(inspect.signature(po.Client.__init__).parameters) <= {*ACCOUNT, "self"}


@pytest.mark.parametrize("option", ["deadline", "lane", "ray", "explode"])
def test_process_dataset_refuses_options_it_does_not_support(option: str, client: po.Client) -> None:
    with pytest.raises(InvalidInputError, match=f"process_dataset has no {option}="):
        po.process_dataset(None, PROMPT, model="m", client=client, **{option: 1})
