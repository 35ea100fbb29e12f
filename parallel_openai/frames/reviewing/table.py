"""A review without widgets: as a table to look at, and as a CSV file to fill in with a spreadsheet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from parallel_openai.errors import InvalidInputError

#: Rows that the table shows.
SHOWN = 20
#: Between the labels of a row that has several.
BETWEEN = " | "
#: A spreadsheet takes a cell that starts so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(rows: Sequence[dict[str, Any]], path: Path) -> int:
    """Write the rows as UTF-8 with the mark that Excel wants; gives how many."""
    texts = [name for name, _ in rows[0]["fields"]] if rows else []
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["request_key", "row", *texts, "label", "confidence", "label_reviewed", "review_note"])
    for row in rows:
        fields = [_harmless(text) for _, text in row["fields"]]
        judged = [_joined(row["judged"]), _harmless(row["note"])]
        confidence = "" if row["confidence"] is None else f"{row['confidence']:.4f}"
        writer.writerow([row["key"], row["row"], *fields, _joined(row["label"]), confidence, *judged])
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(b"\xef\xbb\xbf" + buffer.getvalue().encode("utf-8", "replace"))
    return len(rows)


def read_csv(path: Path, *, multi: bool) -> Iterator[tuple[int, tuple[str, Any, str]]]:
    """The lines that were judged or noted: the line's number, and the row's key, label and note.

    Raises:
        InvalidInputError: it is no file that `to_csv` wrote.
    """
    try:
        content = path.read_text("utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"The file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"The file {path} is not UTF-8; save it as 'CSV UTF-8'.") from error
    first = content.split("\n", 1)[0]
    # A spreadsheet of another country writes semicolons.
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=max(",;\t", key=first.count))
    for name in ("request_key", "label_reviewed"):
        if name not in (reader.fieldnames or ()):
            raise InvalidInputError(f"The file {path} has no column {name!r}; it must be one that to_csv() wrote.")
    for row in reader:
        label = (row["label_reviewed"] or "").strip()
        note = _as_written(row.get("review_note") or "")
        if label or note:
            several = [each.strip() for each in label.split(BETWEEN.strip())] if multi and label else label or None
            yield reader.line_num, (row["request_key"] or "", several, note)


def to_html(rows: Sequence[dict[str, Any]], about: str) -> str:
    """The first rows as a table."""
    if not rows:
        return f"<p>{escape(about)}</p>"
    names = [name for name, _ in rows[0]["fields"]]
    titles = ("row", *names, "label", "confidence")
    head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in titles)
    body = "".join(_html_row(row) for row in rows)
    return f"<p>{escape(about)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_row(row: dict[str, Any]) -> str:
    confidence = "" if row["confidence"] is None else f"{row['confidence']:.2f}"
    label = _joined(row["label"])
    if row["judged"] is not None and row["judged"] != row["label"]:
        label += f" → {_joined(row['judged'])}"
    cells = [row["row"], *(text for _, text in row["fields"]), label, confidence]
    return "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell[:300])}</td>" for cell in cells) + "</tr>"


def _joined(label: Any) -> str:
    return BETWEEN.join(label) if isinstance(label, list) else label or ""


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _as_written(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
