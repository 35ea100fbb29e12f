"""`df.openai`: the package's functions as methods of a DataFrame."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import pandas as pd


class _Verb:
    """Makes a method of a function whose first argument is the frame, with the same docstring and other arguments.

    The function is imported on first use.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __get__(self, verbs: Verbs, _: type | None = None) -> Callable[..., Any]:
        function = getattr(import_module(f"parallel_openai.{self._module}"), self._name)

        @wraps(function)
        def verb(*args: Any, **options: Any) -> Any:
            return function(verbs.df, *args, **options)

        parameters = list(inspect.signature(function).parameters.values())
        verb.__signature__ = inspect.Signature(parameters[1:])  # type: ignore[attr-defined]
        return verb


@pd.api.extensions.register_dataframe_accessor("openai")
class Verbs:
    """The package's functions as methods: `df.openai.label("Good? {text}", labels=["yes", "no"], model="m")`.

    Each takes the arguments of its function after the frame: `process` is `process_dataframe`, and so on.

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

    preview = _Verb("_preview.preview", "preview")
    process = _Verb("_frames.process", "process_dataframe")
    aprocess = _Verb("_frames.process", "aprocess_dataframe")
    label = _Verb("_labels.label", "label_dataframe")
    alabel = _Verb("_labels.label", "alabel_dataframe")
    embed = _Verb("_frames.embedding.embed", "embed_dataframe")
    aembed = _Verb("_frames.embedding.embed", "aembed_dataframe")
    compare = _Verb("_labels.evaluation.compare", "compare")
    acompare = _Verb("_labels.evaluation.compare", "acompare")
    evaluate = _Verb("_labels.evaluation.evaluate", "evaluate")
    review = _Verb("_labels.reviewing.review", "review")
    to_jsonl = _Verb("_frames.exporting.to_jsonl", "to_jsonl")
    save = _Verb("_frames.exporting.saving", "save")
