"""`parallel-openai demo`: labels sixty reviews with a local model and compares the labels with gold."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd

from parallel_openai._client.client import Client
from parallel_openai._display.blocks import number, shortened
from parallel_openai._display.text import text_table
from parallel_openai._frames.exporting.to_jsonl import to_jsonl
from parallel_openai._labels.label import label_dataframe
from parallel_openai.errors import InvalidInputError, MissingDependencyError

PROMPT = "What is the sentiment of this review? {text}"
LABELS = ("positive", "negative", "neutral")
LABELS_FILE = "demo_labels.jsonl"
#: One file for every model: each request's body names its model. (A local model's address changes with each start.)
JOURNAL_FILE = "demo_journal.jsonl"
HEAD = 8
TEXT_WIDTH, WIDTH = 50, 100


@dataclass(frozen=True)
class Answerer:
    name: str
    model: str
    client: Client
    params: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `parallel-openai demo`.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["--rows", "5"]).rows
    5
    """
    parser.add_argument("--model", metavar="NAME", help="use this model of the real API, at OPENAI_API_KEY's expense")
    parser.add_argument("--base_url", metavar="URL", help="use this server instead, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--rows", type=int, metavar="N", help="only the first N reviews")


def run(args: argparse.Namespace) -> int:
    """Label the reviews, print the results, and return the exit code.

    Raises:
        KeyboardInterrupt: on Ctrl-C; the answers so far are in the journal.
    """
    reviews = read_reviews(args.rows)
    with _answerer(args.model, args.base_url) as answerer:
        print(f"{len(reviews)} reviews for {answerer.name}.\n", flush=True)
        out = label_dataframe(
            reviews,
            PROMPT,
            labels=LABELS,
            model=answerer.model,
            metadata=["id", "gold"],
            save_to=JOURNAL_FILE,
            client=answerer.client,
            **answerer.params,
        )
    to_jsonl(out, LABELS_FILE)
    print("\n" + describe(out))
    print(f"All rows, one JSON object a line: {os.path.abspath(LABELS_FILE)}")
    return 0


def read_reviews(rows: int | None = None) -> pd.DataFrame:
    """The reviews in the package: `id`, `text` and the correct label, `gold`.

    >>> list(read_reviews(3).columns)
    ['id', 'text', 'gold']
    """
    if rows is not None and rows < 1:
        raise InvalidInputError(f"--rows must be 1 or more, not {rows}.")
    with files("parallel_openai.local").joinpath("reviews.csv").open("rb") as file:
        return pd.read_csv(file, nrows=rows)


@contextmanager
def _answerer(model: str | None, base_url: str | None) -> Iterator[Answerer]:
    """The server that the options name, running while the context is open."""
    if base_url is not None and model is None:
        raise InvalidInputError("--base_url needs --model too, the name by which that server knows its model.")
    if model is not None:
        with Client(base_url) as client:
            yield Answerer(f"{model} at {client.base_url}", model, client, {})
        return
    try:
        with _local_model() as answerer:
            yield answerer
    except MissingDependencyError as error:
        print(f"{error} Until then a simulator answers, whose labels mean nothing.\n", file=sys.stderr, flush=True)
        with _simulator() as answerer:
            yield answerer


@contextmanager
def _local_model() -> Iterator[Answerer]:
    from parallel_openai.local import model

    with (
        model.serve() as server,
        Client(server.base_url, "local", max_concurrent_requests=model.PARALLEL) as client,
    ):
        name = f"{server.model} on this machine, a very small model that is often wrong"
        yield Answerer(name, server.model, client, {"temperature": 0})


@contextmanager
def _simulator() -> Iterator[Answerer]:
    from parallel_openai.local import simulator

    with (
        simulator.serve(latency=0.5, max_requests_per_minute=600, burst_seconds=1.0) as server,
        Client(server.base_url, "local") as client,
    ):
        yield Answerer("a simulator on this machine", "simulator", client, {})


def describe(out: pd.DataFrame) -> str:
    mark = " (simulated)" if out.attrs["parallel_openai"]["simulated"] else ""
    return f"{_head(out, mark)}\n\n{_accuracy(out, mark)}\n\n{_speed(out.attrs['parallel_openai'])}"


def _head(out: pd.DataFrame, mark: str) -> str:
    first = out.head(HEAD)
    answers = [
        f"{label}{mark}" if status == "succeeded" else f"{status}: {code}"
        for label, status, code in zip(first["label"], first["status"], first["error_code"], strict=True)
    ]
    cells = zip(first.index, first["text"], first["gold"], answers, first["seconds"], strict=True)
    rows = [
        (number(row), shortened(text, TEXT_WIDTH), gold, answer, number(seconds, ".2f"))
        for row, text, gold, answer, seconds in cells
    ]
    rest = len(out) - len(first)
    table = "\n".join(text_table([("", "text", "gold", "label", "seconds"), *rows], WIDTH))
    return table + (f"\n... and {rest} more rows" if rest else "")


def _accuracy(out: pd.DataFrame, mark: str) -> str:
    """The number of correct labels. A row without a label counts as wrong."""
    gold, label = out["gold"].astype(str), out["label"].astype(str)
    right = gold == label
    lines = [f"Correct{mark}: {right.sum()} of {len(out)} labels ({right.mean():.0%})."]
    for name in LABELS:
        lines.append(
            f"  {name:<10} {(gold == name).sum():>3} in the reviews, "
            f"{(label == name).sum():>3} labelled so{mark}, {(right & (gold == name)).sum():>3} of them correctly"
        )
    if missing := int(out["label"].isna().sum()):
        lines.append(f"  {missing} without a label; `error` says why")
    return "\n".join(lines)


def _speed(summary: dict[str, Any]) -> str:
    rows, restored = summary["rows"], summary["restored"]
    sent = rows - restored
    earlier = f"{restored} from the journal of an earlier demo ({JOURNAL_FILE}; delete it to ask again)"
    if not sent:
        return f"Nothing was sent: {earlier}."
    speed = f"{sent / summary['seconds']:.1f} rows a second"
    return f"{speed}: {sent} in {summary['seconds']:.1f} s" + (f", and {earlier}." if restored else ".")
