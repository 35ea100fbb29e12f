"""The base class of endpoints: how a request body is built, and how the answer is read from a response."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parallel_openai._records import Usage
from parallel_openai._requests.template import (
    BadPromptError,
    check_text,
    check_whole,
    is_token_numbers,
    kind_of,
    with_examples,
)
from parallel_openai.errors import InvalidInputError


def names_in(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Answer(NamedTuple):
    """The answer in a response, and the value that a reader makes of it for the row's cell."""

    text: str | None  # the answer's text; None without one
    finish_reason: str | None  # the API's `finish_reason`
    model: str | None  # the model that answered, by the server's name for it
    # Why a successful response has no valid answer (`empty`, `truncated`, `refused`, `content_filter` ...); None if it
    # has one.
    error_code: str | None = None
    error: str | None = None  # the same as a sentence
    # The text, or an answer that is not text (a vector, a moderation's result), or what a reader made of it.
    value: Any = None
    tool_calls: Sequence[Any] | None = None  # the API's tool calls
    # The answer's tokens, each with its `token`, `logprob` and `top_logprobs`, as in the API; None if not requested.
    logprobs: Sequence[Any] | None = None
    reasoning: str | None = None  # the model's reasoning, if the server returns it
    repairable: bool = True  # False if asking the model again would not help

    def unusable(self, code: str, error: str, *, repairable: bool = True) -> Answer:
        return self._replace(value=None, error_code=code, error=error, repairable=repairable)


@dataclass(frozen=True, slots=True)
class Packing:
    """Limits for several rows in one request."""

    inputs: int  # the most rows
    tokens: int  # the most tokens in all
    tokens_each: int  # the most tokens per row


class Endpoint(ABC):
    """One of the API's endpoints."""

    name: str  # the name in the OpenAI SDK, such as `chat.completions`
    path: str  # the path below the base URL
    own: frozenset[str]  # the body's fields that the prompt fills, which cannot be used as parameters
    parameters: frozenset[str]  # the body's fields in the API's reference, including the model and the prompt
    # The parameters that cap an answer's length, the preferred one first; empty if answers have no tokens.
    caps: tuple[str, ...] = ()
    turns: str | None = None  # the body's field that holds messages, if it has one
    default_cap: int | None = None  # the cap in tokens if none is given; None: no cap
    has_system: bool = False  # whether it takes a system message
    gives_text: bool = True  # whether answers are text
    packing: Packing | None = None  # the limits for several rows in one request; None: one row per request
    # The list of answers in a response, and a field that each of them has; None: any field.
    answers: tuple[str, str | None]

    @abstractmethod
    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        """The part of the body for a row's prompt; all of it if the prompt is a body."""

    @abstractmethod
    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        """The answers of a response in the order of its choices, at least one, which may hold an error."""

    def read(self, response: Mapping[str, Any]) -> Answer:
        return self.read_all(response)[0]

    def has_answer(self, response: Mapping[str, Any]) -> bool:
        """Whether a response holds an answer, even an empty or truncated one."""
        name, field = self.answers
        answers = response.get(name)
        for each in answers if isinstance(answers, list) else ():  # a loop is faster than a generator, for each row
            if isinstance(each, dict) and (each if field is None else each.get(field) is not None):
                return True
        return False

    def body(self, prompt: Any, system: Any, model: str | None, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request's JSON: the model, the prompt, and the parameters unchanged; the row's fields take precedence."""
        default = {} if model is None else {"model": model}
        return {**default, **params, **self.ask(prompt, system)}

    def format_params(self, response_format: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters for a `response_format` of the chat API."""
        raise InvalidInputError(f"{self.name} takes no response_format.")

    def with_examples(self, body: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The body with few-shot examples, as chat messages, before the row's prompt."""
        if self.turns is None:
            raise InvalidInputError(f"{self.name} takes no examples.")
        return {**body, self.turns: with_examples(self._turns(body) or (), examples)}

    def repair_body(self, body: Mapping[str, Any], said: str | None, fault: str) -> dict[str, Any] | None:
        """The body that shows the model what it `said` and the fault in it; None if that is not possible."""
        turns = self._turns(body)
        if self.turns is None or turns is None:
            return None
        answer = [{"role": "assistant", "content": said}] if said else []
        return {**body, self.turns: [*turns, *answer, {"role": "user", "content": fault}]}

    def _turns(self, body: Mapping[str, Any]) -> Sequence[Any] | None:
        """The messages of a body; None if it has none."""
        given = list_of(body.get(self.turns or ""))
        return given if isinstance(given, (list, tuple)) else None


def truncated(content: str | None, usage: Usage | None, caps: Sequence[str]) -> str:
    if not content and usage is not None and usage.reasoning_tokens:
        return (
            f"All {usage.completion_tokens} tokens went into reasoning and none was left for the answer. "
            f"Raise {caps[0]} or lower the reasoning effort."
        )
    spent = f" after {usage.completion_tokens} tokens" if usage is not None else ""
    older = f" ({caps[1]} on older servers)" if len(caps) > 1 else ""
    return f"The answer was cut off{spent}. Raise {caps[0]}{older}."


def cut_short(reason: str) -> str | None:
    """`truncated` or `content_filter` if a finish reason says so, in the words of any maker; None for a whole answer.

    >>> cut_short("MAX_TOKENS"), cut_short("content_filter: SAFETY"), cut_short("end_turn")
    ('truncated', 'content_filter', None)
    """
    return "truncated" if _CUT.match(reason) else "content_filter" if _FILTERED.match(reason) else None


#: The words of OpenAI, Mistral (`model_length`), Anthropic, Zhipu, Gemini and Bedrock.
_CUT = re.compile(
    r"(?i)(?:finishreason\.)?(?:(?:max_|model_)?length\b|max_(?:output_)?tokens|model_context_window_exceeded|incomplete$)"
)
_FILTERED = re.compile(
    r"(?i)(?:finishreason\.)?(?:content_?filter|(?:image_)?safety|recitation|prohibited_content|blocklist|spii|sensitive|"
    r"refusal$|guardrail_intervened)"
)


def list_of(value: Any) -> Any:
    """NumPy arrays, which parquet files hold for lists, as lists; other values unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def text_or_body(prompt: Any, field: str) -> Mapping[str, Any]:
    """A prompt without messages as the body's field: a string or token numbers; a mapping is a body itself."""
    prompt = list_of(prompt)
    if isinstance(prompt, Mapping):
        return check_whole(prompt)
    if isinstance(prompt, str):
        return {field: check_text(prompt)}
    if is_token_numbers(prompt):
        return {field: list(prompt)}
    raise BadPromptError(
        "invalid_prompt", f"The prompt is a {kind_of(prompt)}; it must be a string, a list of token numbers or a body."
    )


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; empty for other values."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def in_turn(choices: Sequence[Any]) -> Sequence[Any]:
    """The choices ordered by `index` if all have distinct ones, otherwise unchanged.

    >>> in_turn([{"index": 1}, {"index": 0}]), in_turn([{"index": 1}, {}])
    ([{'index': 0}, {'index': 1}], [{'index': 1}, {}])
    """
    numbers = [each.get("index") if isinstance(each, Mapping) else None for each in choices]
    if all(type(number) is int for number in numbers) and len(set(numbers)) == len(numbers):
        return sorted(choices, key=lambda each: int(each["index"]))
    return choices


def joined_texts(parts: Sequence[Any]) -> str | None:
    """The strings among these as paragraphs; None if there are none."""
    return "\n\n".join(part for part in parts if isinstance(part, str) and part) or None


def text_of_part(part: Any) -> str:
    """The text of a content part; empty for reasoning, images and other types.

    >>> text_of_part({"type": "output_text", "text": "Hi."}), text_of_part({"type": "text", "text": {"value": "Hi."}})
    ('Hi.', 'Hi.')
    >>> text_of_part({"type": "reasoning", "text": "Let me think."})
    ''
    """
    if not isinstance(part, Mapping) or part.get("type", "text") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, Mapping) else text
    return text if isinstance(text, str) else ""
