"""`to_jsonl`: write a result frame as JSON lines for another tool."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from parallel_openai._arguments import check_count, path_of
from parallel_openai._disk.atomic_write import replacing
from parallel_openai._frames.columns.table import check_frame, column_text, find_column, labels_of, rows_of
from parallel_openai._frames.exporting.annotation import argilla_records, label_studio_tasks
from parallel_openai._frames.exporting.fine_tuning import training_examples
from parallel_openai._frames.exporting.row_to_request import RowToRequest
from parallel_openai._frames.request_builder import last_line
from parallel_openai._journal.entry import make_line
from parallel_openai._json import dumps
from parallel_openai.errors import InvalidInputError

Format = Literal["records", "results", "batch", "fine-tuning", "label-studio", "argilla"]


def to_jsonl(
    out: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    format: Format = "records",
    index: bool = False,
    text: Hashable | Sequence[Hashable] | None = None,
    only_reviewed: bool = False,
    validation: float = 0.0,
    seed: int = 0,
) -> int:
    """Write a result frame as JSON lines, in the order of its rows.

    Args:
        out: what `process_dataframe` or `label_dataframe` returned, or any part of it in any order.
        path: the file; an existing file is replaced once the new one is complete. With a path that ends in `.json`
            the file is one JSON list, as Label Studio's import page and Argilla's `from_json` expect.
        format: `records`: one object per row with all columns, for any frame.
            `results`: `[request, response, metadata]` for each answered row and `[request, [errors], metadata]` for
            each failed one, as `process_api_requests_from_file` writes them.
            `batch`: input for OpenAI's Batch API, one request per row; `custom_id` is `row-` and the row's number.
            `fine-tuning`: the chat messages of each answered row, with the answer as the assistant's message. Labels
            are written as the JSON that `label_dataframe` asks for, with the reviewer's label (`label_reviewed`) if
            there is one. A warning lists what OpenAI's fine-tuning would refuse.
            `label-studio`: one Label Studio task per row, with the label as a prediction (`from_name` is the label
            column's name, `to_name` the first text column's) and the reviewer's label as an annotation.
            `argilla`: one record per row for Argilla's `Record.from_dict`, with the label as a suggestion.
        index: with `records`, whether to write the index too, under its names or as `index`.
        text: for annotation tools, the columns to show; None: those the prompt was made of.
        only_reviewed: with `fine-tuning`, whether to leave out rows that nobody reviewed.
        validation: with `fine-tuning`, the share of rows to write to a second file, with `.validation` before its
            suffix. Rows with the same request go to the same file.
        seed: for choosing these rows.

    Returns:
        The number of lines written, in both files if there are two.

    Raises:
        InvalidInputError: the frame does not come from this package (except with `records`), its prompts were made
            by a function and their journal no longer exists, there are no labels for an annotation tool, or the file
            cannot be written.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "out.jsonl"
    >>> to_jsonl(pd.DataFrame({"text": ["Zoë"], "score": [float("nan")]}), path)
    1
    >>> path.read_text("utf-8")
    '{"text":"Zoë","score":null}\\n'
    """
    check_frame(out)
    target = path_of(path, "path")
    writers: dict[str, Callable[[], Iterator[bytes]]] = {
        "records": lambda: _records(out, index),
        "results": lambda: _results(RowToRequest(out)),
        "batch": lambda: _batch(RowToRequest(out)),
        "fine-tuning": lambda: iter(()),
        "label-studio": lambda: map(dumps, label_studio_tasks(out, text)),
        "argilla": lambda: map(dumps, argilla_records(out, text)),
    }
    if not isinstance(format, str) or format not in writers:
        raise InvalidInputError(f"format must be one of {', '.join(writers)}, not {format!r}.")
    check_count(seed, "seed", least=0)
    _check(format, index=index, text=text, only_reviewed=only_reviewed, validation=validation)
    if format != "fine-tuning":
        return _write(target, writers[format]())
    training, held_back = training_examples(
        RowToRequest(out), only_reviewed=only_reviewed, validation=validation, seed=seed
    )
    count = _write(target, map(dumps, training))
    if validation:
        validation_file = target.with_name(f"{target.stem}.validation{target.suffix}")
        count += _write(validation_file, map(dumps, held_back))
    return count


def _check(format: str, *, index: bool, text: object, only_reviewed: bool, validation: float) -> None:
    option_formats = {
        "index": (index, ("records",)),
        "text": (text is not None, ("label-studio", "argilla")),
        "only_reviewed": (only_reviewed, ("fine-tuning",)),
        "validation": (bool(validation), ("fine-tuning",)),
    }
    for name, (given, formats) in option_formats.items():
        if given and format not in formats:
            raise InvalidInputError(f"{name}= goes with format={' or '.join(map(repr, formats))}, not with {format!r}.")
    if not isinstance(validation, (int, float)) or not 0 <= validation < 1:
        raise InvalidInputError(f"validation must be a share of the rows from 0 to below 1, not {validation!r}.")


def _write(path: Path, lines: Iterator[bytes]) -> int:
    count, as_list = 0, path.suffix == ".json"
    with replacing(path) as file:
        for line in lines:
            if as_list:
                file.write((b",\n" if count else b"[\n") + line)
            else:
                file.write(line + b"\n")
            count += 1
        if as_list:
            file.write(b"\n]\n" if count else b"[]\n")
    return count


def _records(out: pd.DataFrame, index: bool) -> Iterator[bytes]:
    columns = list(dict.fromkeys(out.columns))
    for column in columns:
        find_column(out, column, "to_jsonl")
    levels = [f"index{n or ''}" if name is None else column_text(name) for n, name in enumerate(out.index.names)]
    names = [*(levels if index else ()), *map(column_text, columns)]
    for name, count in Counter(names).items():
        if count > 1:
            advice = ", the index with out.rename_axis(...)" if index and name in levels else ""
            raise InvalidInputError(
                f"{count} columns would all be named {name!r} in the file. Rename them first{advice}."
            )
    labels = labels_of(out) if index else repeat(())
    for number, (label, values) in enumerate(zip(labels, rows_of(out, columns), strict=False)):
        index_cells = label if not index or len(levels) > 1 else (label,)
        yield _line(dict(zip(names, (*index_cells, *values), strict=True)), number)


def _line(cells: dict[str, Any], number: int) -> bytes:
    try:
        return dumps(cells)
    except Exception as error:  # circular, or an object whose str() raises
        raise InvalidInputError(f"Row {number} cannot be written as JSON: {last_line(error)}.") from None


def _results(source: RowToRequest) -> Iterator[bytes]:
    with source.journal() as known:
        for request, row in source.requests(known):
            if request is None or row["status"] == "cancelled":
                continue
            result = known.get(request)
            if result is not None and result.response is not None:
                answer = dumps(result.response)
            else:
                answer = dumps(list(result.errors) if result is not None and result.errors else [row["error"]])
            metadata = () if request.metadata is None else (dumps(request.metadata),)
            yield make_line(request.body, answer, *metadata)


def _batch(source: RowToRequest) -> Iterator[bytes]:
    url = f"/v1/{source.path}"
    with source.journal() as known:
        for number, (request, row) in enumerate(source.requests(known)):
            if request is None and row["status"] == "cancelled":
                raise InvalidInputError(
                    f"Row {number} was never sent, and its request cannot be rebuilt from the frame (a function made "
                    "it, or its columns were dropped). Run the frame to its end first."
                )
            if request is not None:
                head = dumps({"custom_id": f"row-{number}", "method": "POST", "url": url})
                yield head[:-1] + b',"body":' + request.body + b"}"
