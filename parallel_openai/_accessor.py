"""`df.openai`: the verbs on the frame itself, for those who like that."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import pandas as pd

from parallel_openai._frames.embedding.embed import aembed_dataframe, embed_dataframe
from parallel_openai._frames.exporting.saving import save
from parallel_openai._frames.exporting.to_jsonl import to_jsonl
from parallel_openai._frames.process import aprocess_dataframe, process_dataframe
from parallel_openai._labels.evaluation.compare import acompare, compare
from parallel_openai._labels.evaluation.evaluate import evaluate
from parallel_openai._labels.label import alabel_dataframe, label_dataframe
from parallel_openai._labels.reviewing.review import review
from parallel_openai._preview.preview import preview


class _Verb:
    """A function whose first argument is the frame, as a method; its words and its other arguments stay as they are."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __get__(self, verbs: Verbs, _: type | None = None) -> Callable[..., Any]:
        function = self._function

        @wraps(function)
        def verb(*args: Any, **options: Any) -> Any:
            return function(verbs.df, *args, **options)

        parameters = list(inspect.signature(function).parameters.values())
        verb.__signature__ = inspect.Signature(parameters[1:])  # type: ignore[attr-defined]
        return verb


@pd.api.extensions.register_dataframe_accessor("openai")
class Verbs:
    """The package's verbs on a frame, as in `df.openai.label("Is it good? {text}", labels=["yes", "no"], model="m")`.

    Each takes what the function of the same kind takes after the frame: `process` is `process_dataframe`, and so on.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"text": ["A wonderful lamp.", "It broke in a week, terrible."]})
    >>> with po.local.simulator.serve() as server:
    ...     out = df.openai.label("What is the sentiment? {text}", labels=["positive", "negative"],
    ...                           model="gpt-4o-mini", client=po.Client(server.base_url), progress=False)
    >>> out["label"].tolist()
    ['positive', 'negative']
    >>> out.openai.to_jsonl("labels.jsonl")
    2
    """

    def __init__(self, df: pd.DataFrame) -> None:
        self.df = df

    preview = _Verb(preview)
    process = _Verb(process_dataframe)
    aprocess = _Verb(aprocess_dataframe)
    label = _Verb(label_dataframe)
    alabel = _Verb(alabel_dataframe)
    embed = _Verb(embed_dataframe)
    aembed = _Verb(aembed_dataframe)
    compare = _Verb(compare)
    acompare = _Verb(acompare)
    evaluate = _Verb(evaluate)
    review = _Verb(review)
    to_jsonl = _Verb(to_jsonl)
    save = _Verb(save)
