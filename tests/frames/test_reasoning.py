"""`keep_reasoning=`: the model's reasoning is separated from its answer, wherever a server puts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pydantic
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from parallel_openai.local.simulator import Server


class Review(pydantic.BaseModel):
    stars: int


def chat(**message: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return {"model": "m", "choices": [choice], "usage": usage}


SHOWN: dict[str, dict[str, Any]] = {
    "as DeepSeek and vLLM do": chat(content="It leaks.", reasoning_content="A lamp leaks?"),
    "as OpenRouter and Groq do": chat(content="It leaks.", reasoning="A lamp leaks?"),
    "at the head of the text": chat(content="<think>\nA lamp leaks?\n</think>\n\nIt leaks."),
    "as parts, as Mistral does": chat(
        content=[
            {"type": "thinking", "thinking": [{"type": "text", "text": "A lamp leaks?"}]},
            {"type": "text", "text": "It leaks."},
        ]
    ),
    "as parts, as Anthropic does": chat(
        content=[{"type": "thinking", "thinking": "A lamp leaks?"}, {"type": "text", "text": "It leaks."}]
    ),
}


def ask(server: Server, body: dict[str, Any], **options: Any) -> pd.DataFrame:
    server.script([{"body": body}] * options.get("samples", 1))
    df = pd.DataFrame({"text": ["row"]})
    client = po.Client(server.base_url, "k")
    return po.process_dataframe(df, "text", model="m", client=client, progress=False, **options)


@pytest.mark.parametrize("body", SHOWN.values(), ids=list(SHOWN))
def test_reasoning_gets_a_column_on_request(server: Server, body: dict[str, Any]) -> None:
    out = ask(server, body, keep_reasoning=True)
    assert out.loc[0, ["response", "reasoning", "status"]].tolist() == ["It leaks.", "A lamp leaks?", "succeeded"]
    assert list(out.columns[:3]) == ["text", "response", "reasoning"]


def test_without_keep_reasoning_the_answer_is_unchanged(server: Server) -> None:
    out = ask(server, SHOWN["at the head of the text"])
    assert "reasoning" not in out
    assert out.loc[0, "response"] == "<think>\nA lamp leaks?\n</think>\n\nIt leaks."


def test_an_answer_without_reasoning_has_a_missing_cell(server: Server) -> None:
    out = ask(server, chat(content="Write <think> first."), keep_reasoning=True)
    assert out.loc[0, "response"] == "Write <think> first."
    assert pd.isna(out.loc[0, "reasoning"])


def test_reasoning_summaries_of_the_responses_api_are_shown(server: Server) -> None:
    body = {
        "status": "completed",
        "model": "m",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "First."}, {"text": "Then."}]},
            {"type": "message", "content": [{"type": "output_text", "text": "It leaks."}]},
        ],
    }
    out = ask(server, body, endpoint="responses", keep_reasoning=True)
    assert out.loc[0, ["response", "reasoning"]].tolist() == ["It leaks.", "First.\n\nThen."]


def test_reasoning_in_the_journal_is_available_to_a_later_call(server: Server, tmp_path: Path) -> None:
    body, path = SHOWN["at the head of the text"], tmp_path / "a.jsonl"
    ask(server, body, save_to=path)
    out = ask(server, body, save_to=path, keep_reasoning=True)
    assert server.stats()["received"] == 1
    assert out.loc[0, ["response", "reasoning"]].tolist() == ["It leaks.", "A lamp leaks?"]


def test_reasoning_is_a_column_beside_structured_fields(server: Server) -> None:
    out = ask(server, chat(content='<think>Bad.</think>{"stars": 1}'), response_format=Review, keep_reasoning=True)
    assert out.loc[0, ["stars", "reasoning"]].tolist() == [1, "Bad."]


def test_structured_answers_and_labels_are_read_after_the_reasoning(server: Server, client: po.Client) -> None:
    assert ask(server, chat(content='<think>Bad.</think>\n{"stars": 1}'), response_format=Review).loc[0, "stars"] == 1
    server.script([{"body": chat(content='<think>Is it bad?</think>{"label": "bad"}')}])
    df = pd.DataFrame({"text": ["a"]})
    out = po.label_dataframe(df, "{text}", labels=["good", "bad"], model="m", client=client, progress=False)
    assert out.loc[0, "label"] == "bad"


def test_each_sample_and_choice_has_its_own_reasoning(server: Server) -> None:
    body = SHOWN["at the head of the text"]
    sampled = ask(server, body, samples=2, keep_reasoning=True)
    assert sampled.loc[0, ["response", "reasoning"]].tolist() == [["It leaks."] * 2, ["A lamp leaks?"] * 2]
    choices = [{**body["choices"][0], "index": number} for number in range(2)]
    out = ask(server, {**body, "choices": choices}, n=2, keep_reasoning=True)
    assert out.loc[0, "reasoning"] == ["A lamp leaks?"] * 2
    exploded = ask(server, {**body, "choices": choices}, n=2, explode=True, keep_reasoning=True)
    assert exploded["reasoning"].tolist() == ["A lamp leaks?"] * 2


def test_tool_calls_and_reasoning_are_separate_columns(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    call = {"type": "function", "id": "1", "function": {"name": "look_up", "arguments": "{}"}}
    body = chat(content=None, tool_calls=[call], reasoning="I should look.")
    out = ask(server, body, tools=[tool], keep_reasoning=True)
    assert out.loc[0, "reasoning"] == "I should look."
    assert out.loc[0, "tool_calls"] == [call]


def test_keep_reasoning_is_refused_without_text_and_with_a_field_of_that_name(server: Server) -> None:
    class Taken(pydantic.BaseModel):
        reasoning: str

    with pytest.raises(InvalidInputError, match="has none"):
        ask(server, chat(content="a"), endpoint="embeddings", keep_reasoning=True)
    with pytest.raises(InvalidInputError, match="has a field 'reasoning'"):
        ask(server, chat(content="a"), response_format=Taken, keep_reasoning=True)
    assert server.stats()["received"] == 0
