"""What the endpoints have in common: what is asked of each, and the answer that each reads out of its response."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parallel_openai._records import Usage
from parallel_openai.errors import InvalidInputError


def names_in(text: str) -> frozenset[str]:
    """The names of a long list, which is easier to read without marks between them."""
    return frozenset(text.split())


class Answer(NamedTuple):
    """The part of a response that the caller asked for, and what becomes of it in the row's cell.

    Attributes:
        text: the answer; None where there is none, or where it is no text.
        finish_reason: why the model stopped, as the API says it.
        model: the model that answered, by the server's name for it.
        error_code: why it is no answer, although the server was content (`empty`, `truncated`, `refused`,
            `content_filter`); None when it is one.
        error: the same as a sentence.
        value: the answer where it is no text: a vector, a moderation's result; then what a reader made of the answer.
        tool_calls: the tools that the model wants called, as the API gives them.
        logprobs: the answer's tokens, each with its `token`, `logprob` and `top_logprobs`, as the API gives them;
            None where they were not asked for.
        reasoning: what the model thought, if the server shows it beside the answer.
        repairable: False where the model is not to blame, and could answer no better.
    """

    text: str | None
    finish_reason: str | None
    model: str | None
    error_code: str | None = None
    error: str | None = None
    value: Any = None
    tool_calls: Sequence[Any] | None = None
    logprobs: Sequence[Any] | None = None
    reasoning: str | None = None
    repairable: bool = True

    def unusable(self, code: str, error: str, *, repairable: bool = True) -> Answer:
        """The same, of which a reader can make nothing."""
        return self._replace(value=None, error_code=code, error=error, repairable=repairable)


@dataclass(frozen=True, slots=True)
class Packing:
    """How many rows may travel in one request.

    Attributes:
        inputs: at the most.
        tokens: of all of them together, at the most.
        tokens_each: of one, at the most.
    """

    inputs: int
    tokens: int
    tokens_each: int


class Endpoint(ABC):
    """One of the API's endpoints.

    Attributes:
        name: as the OpenAI SDK writes it, `chat.completions`.
        path: below the base URL.
        own: the fields of the body that the row's prompt fills, so that no parameter may be called like one.
        parameters: the fields of the body that the API's reference has, the model's and the prompt's among them.
        caps: the parameters that cap an answer's length, the best first; none where answers have no tokens.
        default_cap: tokens of an answer where no cap is given; None: as much as the model likes.
        has_system: whether there is a place for a system text.
        gives_text: whether answers are text, and not something else in `Answer.value`.
        packing: how many rows may travel in one request; None: one.
        answers: the list in a response that holds the answers, and the field that each has; None: whatever it is.
    """

    name: str
    path: str
    own: frozenset[str]
    parameters: frozenset[str]
    caps: tuple[str, ...] = ()
    default_cap: int | None = None
    has_system: bool = False
    gives_text: bool = True
    packing: Packing | None = None
    answers: tuple[str, str | None]

    @abstractmethod
    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        """The row's own part of the body, or the whole of it where the row brings that.

        Raises:
            BadPromptError: the prompt is nothing that this endpoint takes.
        """

    @abstractmethod
    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        """The answers of a response, at least one, in the order of the choices; each may say that it is none."""

    def read(self, response: Mapping[str, Any]) -> Answer:
        """What a response says, and whether it is an answer at all."""
        return self.read_all(response)[0]

    def has_answer(self, response: Mapping[str, Any]) -> bool:
        """Whether a response holds an answer, be it an empty one or one that was cut off."""
        place, field = self.answers
        told = response.get(place)
        for each in told if isinstance(told, list) else ():  # of each row: so a loop, and no generator
            if isinstance(each, dict) and (each if field is None else each.get(field) is not None):
                return True
        return False

    def body(self, prompt: Any, system: Any, model: str | None, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request's JSON: the model, what the row asks, and the caller's parameters as they are.

        What a row says of its own goes before what the call says.
        """
        default = {} if model is None else {"model": model}
        return {**default, **params, **self.ask(prompt, system)}

    def format_params(self, response_format: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that hold the model to a format, which is given as the chat API has it.

        Raises:
            InvalidInputError: this endpoint's answers have no format.
        """
        raise InvalidInputError(f"{self.name} takes no response_format.")

    def with_examples(self, body: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The body with questions and answers to learn from, as chat messages, before what the row asks.

        Raises:
            InvalidInputError: this endpoint takes no messages.
        """
        raise InvalidInputError(f"{self.name} takes no examples.")

    def told(self, body: Mapping[str, Any], said: str | None, fault: str) -> dict[str, Any] | None:
        """The body that shows the model what it `said` and what is wrong with it; None where nothing is said back."""
        return None


def truncated(content: str | None, usage: Usage | None, caps: Sequence[str]) -> str:
    """The sentence for an answer that was cut off."""
    if not content and usage is not None and usage.reasoning_tokens:
        return (
            f"All {usage.completion_tokens} tokens went into reasoning and none was left for the answer. "
            f"Raise {caps[0]} or lower the reasoning effort."
        )
    spent = f" after {usage.completion_tokens} tokens" if usage is not None else ""
    older = f" ({caps[1]} on older servers)" if len(caps) > 1 else ""
    return f"The answer was cut off{spent}. Raise {caps[0]}{older}."


def list_of(value: Any) -> Any:
    """A list where numpy's array is given, as parquet files do for lists; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; none where it is no list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def in_turn(choices: Sequence[Any]) -> Sequence[Any]:
    """The choices in the order of their numbers, where each has one of its own; else as they stand.

    >>> in_turn([{"index": 1}, {"index": 0}]), in_turn([{"index": 1}, {}])
    ([{'index': 0}, {'index': 1}], [{'index': 1}, {}])
    """
    numbers = [each.get("index") if isinstance(each, Mapping) else None for each in choices]
    if all(type(number) is int for number in numbers) and len(set(numbers)) == len(numbers):
        return sorted(choices, key=lambda each: int(each["index"]))
    return choices


def joined_texts(parts: Sequence[Any]) -> str | None:
    """The texts among these, each a paragraph; None if there are none."""
    return "\n\n".join(part for part in parts if isinstance(part, str) and part) or None


def text_of_part(part: Any) -> str:
    """What a part of a message's content says; nothing if it is a thought, a picture or anything else that is no text.

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
