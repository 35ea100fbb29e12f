"""`label_dataframe`: one label of a set for each row."""

from __future__ import annotations

import enum
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from parallel_openai.client import Client, default_client
from parallel_openai.engine.journal import Sync
from parallel_openai.errors import InvalidInputError
from parallel_openai.frames.answers import Reader, Reading, object_column
from parallel_openai.frames.process import make_recipe
from parallel_openai.frames.recipe import Prompt, Recipe
from parallel_openai.frames.run import Options, aexecute, execute
from parallel_openai.jsonl import dumps
from parallel_openai.requests.endpoints import Endpoint
from parallel_openai.requests.schemas import check_labels, label_format, read_label


def label_dataframe(
    df: pd.DataFrame,
    prompt: Prompt,
    *,
    labels: Iterable[Any],
    model: str | None,
    system: Prompt | None = None,
    samples: int = 1,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    repair: bool | int = False,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    deadline: float | None = None,
    prefix: str = "",
    progress: bool = True,
    sync: Sync = "second",
    client: Client | None = None,
    extra_body: Mapping[str, Any] | None = None,
    **params: Any,
) -> pd.DataFrame:
    """Have each row labelled with exactly one of `labels`.

    The request holds the model to the labels by a JSON schema (structured outputs). An answer that is none of them all
    the same makes the row `failed` with error_code `off_label`; it never becomes a wrong label.

    Args:
        labels: the labels, two or more: texts, numbers or members of an Enum, or the Enum itself.
        system: the system message; None: one that names the labels.

    The other arguments, the errors and the columns are those of `process_dataframe`, with a categorical column `label`
    in the place of `response`.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["A wonderful lamp.", "It broke in a week, terrible."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.label_dataframe(df, "What is the sentiment? {text}", labels=["positive", "negative"],
    ...                              model="gpt-4o-mini", client=po.Client(server.base_url), progress=False)
    >>> out["label"].tolist()
    ['positive', 'negative']
    """
    by_text = check_labels(labels)
    recipe = _recipe(by_text, prompt, model, system, samples, metadata, extra_body, params)
    options = Options(save_to, retry_failed, prefix, progress, sync, repair, budget_usd, budget_tokens, deadline)
    return execute(df, recipe, _label_reader(recipe.endpoint, by_text), client or default_client(), options)


async def alabel_dataframe(
    df: pd.DataFrame,
    prompt: Prompt,
    *,
    labels: Iterable[Any],
    model: str | None,
    system: Prompt | None = None,
    samples: int = 1,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    repair: bool | int = False,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    deadline: float | None = None,
    prefix: str = "",
    progress: bool = True,
    sync: Sync = "second",
    client: Client | None = None,
    extra_body: Mapping[str, Any] | None = None,
    **params: Any,
) -> pd.DataFrame:
    """`label_dataframe` for code that awaits; the caller's loop stays free meanwhile."""
    by_text = check_labels(labels)
    recipe = _recipe(by_text, prompt, model, system, samples, metadata, extra_body, params)
    options = Options(save_to, retry_failed, prefix, progress, sync, repair, budget_usd, budget_tokens, deadline)
    return await aexecute(df, recipe, _label_reader(recipe.endpoint, by_text), client or default_client(), options)


def _recipe(
    by_text: Mapping[str, Any],
    prompt: Prompt,
    model: str | None,
    system: Prompt | None,
    samples: int,
    metadata: Hashable | Sequence[Hashable],
    extra_body: Mapping[str, Any] | None,
    params: dict[str, Any],
) -> Recipe:
    if "response_format" in params:
        raise InvalidInputError("label_dataframe makes its own response_format; use process_dataframe for another.")
    if params.get("n", 1) != 1:
        raise InvalidInputError(f"n={params['n']!r} would be paid for and give one label; use samples= for several.")
    if system is None:
        system = label_instruction(list(by_text))
    return make_recipe(
        prompt, model, system, "chat.completions", label_format(list(by_text)), samples, metadata, extra_body, params
    )


def label_instruction(texts: Sequence[str]) -> str:
    """The system text that names the labels. Braces in a label are doubled, since a system text is a template too.

    The wording was chosen by trying some on a small model, where an example of the JSON helped most.

    >>> print(label_instruction(["spam", "ham"]))
    Choose the label that fits the text best: spam, ham. Answer with JSON, such as {{"label": "ham"}}.
    """
    example = f'{{"label": {dumps(texts[-1]).decode()}}}'
    text = f"Choose the label that fits the text best: {', '.join(texts)}. Answer with JSON, such as {example}."
    return text.replace("{", "{{").replace("}", "}}")


def _label_reader(endpoint: Endpoint, by_text: Mapping[str, Any]) -> Reader:
    def read(response: Mapping[str, Any]) -> Reading:
        answer = endpoint.read(response)
        if answer.error_code is not None or answer.text is None:
            code = answer.error_code or "empty"
            return Reading(None, answer.finish_reason, answer.model, code, answer.error or "There is no answer.")
        try:
            label = read_label(answer.text, by_text)
        except ValueError as error:
            return Reading(None, answer.finish_reason, answer.model, "off_label", str(error))
        return Reading(label, answer.finish_reason, answer.model)

    categories = _categories(by_text)

    def column(values: Sequence[Any]) -> Any:
        if any(isinstance(value, list) for value in values):
            return object_column(values)
        return pd.Categorical(list(values), dtype=categories)

    return Reader.of_one_column("label", read, column)


def _categories(by_text: Mapping[str, Any]) -> pd.CategoricalDtype:
    """Made before anything is sent, since pandas takes fewer things for categories than a list holds.

    Raises:
        InvalidInputError: pandas does not take them.
    """
    labels = list(by_text.values())
    try:
        frozenset(labels)  # pandas itself would find out only when the answers are there
        # As objects where they are an Enum's, or a `class Tone(str, Enum)` would come back as texts.
        return pd.CategoricalDtype(pd.Index(labels, dtype=object) if _has_members(labels) else labels)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"The labels {labels} cannot be told apart by pandas: {error}") from None


def _has_members(labels: Sequence[Any]) -> bool:
    return any(isinstance(label, enum.Enum) for label in labels)
