"""A review without widgets: as a table, and as a CSV file to fill in with a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parallel_openai._disk.atomic_write import replacing
from parallel_openai._display.blocks import Block, Number, Sentence, Table, shortened
from parallel_openai._frames.exporting.csv_text import csv_line, csv_rows, unescape
from parallel_openai._requests.schemas.label_text import text_of_several
from parallel_openai.errors import InvalidInputError

#: Rows in the table.
SHOWN = 20
#: The columns after the text columns.
_COLUMNS = ("label", "confidence", "label_reviewed", "review_note")


def to_csv(rows: Sequence[dict[str, Any]], path: Path, *, escape: bool) -> int:
    """Write the rows as UTF-8 with the byte order mark that Excel needs; returns their number."""
    texts = [name for name, _ in rows[0]["fields"]] if rows else []
    lines = [csv_line(["request_key", "row", *texts, *_COLUMNS], escape=escape)]
    for row in rows:
        confidence = "" if row["confidence"] is None else f"{row['confidence']:.4f}"
        cells = [row["key"], row["row"], *(text for _, text in row["fields"]), _text(row["label"]), confidence]
        lines.append(csv_line([*cells, _text(row["judged"]), row["note"]], escape=escape))
    with replacing(path) as file:
        file.write(b"\xef\xbb\xbf" + "".join(lines).encode("utf-8", "replace"))
    return len(rows)


def read_csv(path: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Yield the number of each line with a label or a note, and its key, label and note."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"The file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"The file {path} is not UTF-8; save it as 'CSV UTF-8'.") from error
    first = content.split("\n", 1)[0]
    try:  # in some locales spreadsheets save with semicolons
        (_, header), *rows = list(csv_rows(content, max(",;\t", key=first.count))) or [(0, [])]
    except ValueError as error:
        raise InvalidInputError(f"The file {path} is not valid CSV: {error}.") from None
    for name in ("request_key", "label_reviewed"):
        if name not in header:
            raise InvalidInputError(f"The file {path} has no column {name!r}; it must be one that to_csv() wrote.")
    for line, cells in rows:
        row = {name: unescape(cell) for name, cell in zip(header, cells, strict=False)}
        key, label, note = (row.get(name, "") for name in ("request_key", "label_reviewed", "review_note"))
        if label or note:
            yield line, (key, label, note)


def to_blocks(rows: Sequence[dict[str, Any]], about: str) -> list[Block]:
    if not rows:
        return [Sentence(about)]
    head = ("row", *(name for name, _ in rows[0]["fields"]), "label", "confidence")
    return [Sentence(about), Table("", head, [_cells(row) for row in rows])]


def _cells(row: dict[str, Any]) -> list[str]:
    label = _text(row["label"])
    if row["judged"] is not None and row["judged"] != row["label"]:
        label += f" → {_text(row['judged'])}"
    confidence = Number("" if row["confidence"] is None else f"{row['confidence']:.2f}")
    return [*(shortened(text, 300) for text in (row["row"], *(text for _, text in row["fields"]), label)), confidence]


def _text(label: Any) -> str:
    return text_of_several(label) if isinstance(label, list) else label or ""
