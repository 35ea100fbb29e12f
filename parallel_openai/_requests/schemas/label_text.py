"""Labels as text: as the model sees them, and as files and spreadsheets write them."""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterable
from typing import Any

from parallel_openai._json import dumps, loads


def text_of(label: Any) -> str:
    """A label as the string that the model sees.

    >>> class Tone(enum.Enum):
    ...     GOOD = "positive"
    >>> text_of(Tone.GOOD), text_of(3)
    ('positive', '3')
    """
    return str(label.value if isinstance(label, enum.Enum) else label)


def text_of_several(labels: Iterable[Any]) -> str:
    """Several labels in one cell, separated by `|`; as JSON if a label contains that, or there are none.

    >>> text_of_several(["hot", "thick"]), text_of_several(["a | b"]), text_of_several([])
    ('hot | thick', '["a | b"]', '[]')
    """
    texts = [text_of(label) for label in labels]
    if not texts or any("|" in text or text != text.strip() or text.startswith("[") for text in texts):
        return dumps(texts).decode()
    return " | ".join(texts)


def read_label(given: Any, labels: Iterable[Any]) -> Any:
    """The label that a cell means: by its text, or else as files and spreadsheets write numbers and bools.

    Raises:
        ValueError: it is none of the labels.

    >>> read_label(2.0, [1, 2]), read_label("TRUE", [True, False]), read_label("no", ["yes", "no"])
    (2, True, 'no')
    """
    known, text, spelt = list(labels), text_of(given), spelling(given)
    alike = [label for label in known if text_of(label) == text]
    if not alike:
        spellings = [spelling(label) for label in known]
        if {"true", "false"}.issuperset(spellings):
            spelt = {"1": "true", "0": "false"}.get(spelt, spelt)
        alike = [label for label, each in zip(known, spellings, strict=True) if each == spelt]
    if len(alike) != 1:
        raise ValueError(f"is none of {', '.join(map(text_of, known))}")
    return alike[0]


def read_several(given: Any, labels: Iterable[Any]) -> list[Any]:
    """The labels that a cell means: a list, or a string as from `text_of_several`, JSON or Python's repr.

    Raises:
        ValueError: one of them is not a label.

    >>> read_several("hot | thick", ["thick", "hot"]), read_several("['hot']", ["thick", "hot"])
    (['hot', 'thick'], ['hot'])
    """
    known = list(labels)
    if not isinstance(given, str):
        return [read_label(each, known) for each in given]
    try:
        return [read_label(each, known) for each in _parts(given.strip())]
    except ValueError:  # a single label that contains a bar
        return [read_label(given, known)]


def _parts(text: str) -> list[Any]:
    for read in (loads, ast.literal_eval) if text.startswith("[") else ():
        try:
            found = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, list):
            return found
    return [part.strip() for part in text.split("|")]


def spelling(label: Any) -> str:
    """A label's text, normalised for the ways that files and spreadsheets write numbers and bools.

    >>> spelling("2.0"), spelling(2), spelling("TRUE")
    ('2', '2', 'true')
    """
    text = text_of(label).strip()
    whole = re.fullmatch(r"([+-]?\d+)\.0+", text)
    return whole[1] if whole else text.lower() if text.lower() in ("true", "false") else text
