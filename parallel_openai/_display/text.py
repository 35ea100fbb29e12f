"""Render blocks as text for a terminal, fitted to its width and without control characters."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from textwrap import wrap

from parallel_openai._display.blocks import (
    Advice,
    Bars,
    Block,
    Code,
    Fact,
    Facts,
    Heading,
    Matrix,
    Number,
    Sentence,
    Table,
)
from parallel_openai._printable import printable, printable_lines

_INDENT, _GAP = "  ", "  "
#: Words up to this length are not broken; the least width of the column of facts' names.
_WORD, _NAMES = 24, 9
#: Characters of a full bar, and the most characters of a `Code`.
_BAR, _CODE = 14, 1200
#: Size without a terminal, such as in a notebook or a file.
_NO_TERMINAL = (120, 24)
_NARROWEST = 20


def to_text(blocks: Sequence[Block], width: int | None = None) -> str:
    """Render the blocks for a terminal of a width; None: the current terminal's.

    Charts are omitted; the facts hold their essence.
    """
    width = shutil.get_terminal_size(_NO_TERMINAL).columns if width is None else width
    room = max(_NARROWEST, width) - len(_INDENT)
    text = "\n".join(line for block in blocks for line in _lines(block, room))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def to_line(blocks: Sequence[Block]) -> str:
    """Render heading, facts and sentences as one line, for a log."""
    heading = ""
    facts: list[str] = []
    sentences: list[str] = []
    for block in blocks:
        match block:
            case Heading(text, simulated):
                heading = ("SIMULATED answers. " if simulated else "") + text
            case Facts(those):
                facts += filter(None, map(_in_line, those))
            case Sentence(text) | Advice(text):
                sentences.append(text)
    return printable(" ".join([f"{heading}: {', '.join(facts)}.", *sentences]))


def _in_line(fact: Fact) -> str:
    if fact.in_line is not None:
        return fact.in_line
    return f"{fact.figure} {fact.name}".strip() + (f", {fact.note}" if fact.note else "")


def text_table(rows: Sequence[Sequence[str]], room: int) -> Iterator[str]:
    """Lines of a table. Long text is wrapped; columns that still do not fit follow below, with the first repeated.

    >>> print(*text_table([("", "rows"), ("all of them", Number("12")), ("some", Number("3"))], 40), sep="\\n")
                 rows
    all of them    12
    some            3
    """
    cells = [[type(cell)(printable(cell)) for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True))
    widths = _fitting(columns, room)
    group = [0]
    for number in range(1, len(columns)):
        if sum(widths[each] + len(_GAP) for each in group) + widths[number] > room and len(group) > 1:
            yield from _drawn(cells, widths, group)
            group = [0]
        group.append(number)
    yield from _drawn(cells, widths, group)


def _fitting(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """The columns' widths: their cells', with the widest text columns narrowed until all fit, if possible."""
    widths = [min(max(map(cell_width, column)), room) for column in columns]
    least = [max(map(_least, column)) for column in columns]
    gaps = len(_GAP) * (len(widths) - 1)
    if sum(least) + gaps > room:  # half the width each, so that any two fit side by side
        return [min(width, (room - len(_GAP)) // 2) for width in widths]
    while sum(widths) + gaps > room:
        shrinkable = [number for number, width in enumerate(widths) if width > least[number]]
        widths[max(shrinkable, key=widths.__getitem__)] -= 1
    return widths


def _least(cell: str) -> int:
    if isinstance(cell, Number):
        return len(cell)
    return max([min(_WORD, cell_width(word)) for word in cell.split()], default=0)


def _drawn(cells: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int]) -> Iterator[str]:
    right = {number for number in columns if any(isinstance(row[number], Number) for row in cells)}
    for row in cells:
        wrapped = {number: _wrapped(row[number], widths[number]) for number in columns}
        for line in range(max(map(len, wrapped.values()))):
            parts = []
            for number, lines in wrapped.items():
                part = lines[line] if line < len(lines) else ""
                blank = " " * (widths[number] - cell_width(part))
                parts.append(blank + part if number in right else part + blank)
            yield _GAP.join(parts).rstrip()


def _wrapped(cell: str, width: int) -> list[str]:
    if cell_width(cell) <= width or isinstance(cell, Number):
        return [cell]
    # `wrap` counts characters, of which some are two columns wide.
    return wrap(cell, width if cell_width(cell) <= len(cell) else max(1, width // 2)) or [""]


def cell_width(text: str) -> int:
    """The number of columns that text takes in a terminal.

    >>> cell_width("abc"), cell_width("日本"), cell_width("e\\u0301")
    (3, 4, 1)
    """
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _lines(block: Block, room: int) -> Iterator[str]:
    match block:
        case Heading(text, simulated):
            yield printable(text) + (" (simulated)" if simulated else "")
        case Sentence(text) | Advice(text):
            yield printable(text)
        case Facts(facts):
            rows = [(fact.name.ljust(_NAMES), f"{fact.figure} {fact.note}".strip()) for fact in facts]
            yield from _table("", (), rows, room)
        case Table(title, head, cells):
            yield from _table(title, head, cells, room)
        case Bars(title, head, bars, most):
            drawn = [(*bar.cells, "█" * round(_BAR * min(1.0, bar.length / most))) for bar in bars]
            yield from _table(title, (*head, "") if head else (), drawn, room)
        case Matrix(title, corner, down, across, cells):
            named = [(name, *row) for name, row in zip(down, cells, strict=True)]
            yield from _table(title, (" \\ ".join(filter(None, corner)), *across), named, room)
        case Code(title, text):
            more = " ..." if len(text) > _CODE else ""
            yield from ("", f"{printable(title)}:", printable_lines(text[:_CODE]) + more, "")


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> Iterator[str]:
    if not rows:
        return
    if title:
        yield from ("", printable(title))
    yield from (_INDENT + line for line in text_table([*([head] if head else []), *rows], room))
    if title:
        yield ""
