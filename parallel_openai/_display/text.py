"""Blocks as text for a terminal: tables as wide as it is, and nothing that would move its cursor."""

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
#: Words up to this length stay whole; facts' names stand in a column of at least so much.
_WORD, _NAMES = 24, 9
#: Characters of a full bar, and those of a `Code` that are shown.
_BAR, _CODE = 14, 1200
#: Where there is no terminal, such as in a notebook or a file.
_ELSEWHERE = (120, 24)
_NARROWEST = 20


def to_text(blocks: Sequence[Block], width: int | None = None) -> str:
    """The blocks below each other, for a terminal of a width; None: that of this one.

    Pictures are left out: what they come to is said by the facts.
    """
    width = shutil.get_terminal_size(_ELSEWHERE).columns if width is None else width
    room = max(_NARROWEST, width) - len(_INDENT)
    text = "\n".join(line for block in blocks for line in _lines(block, room))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def to_line(blocks: Sequence[Block]) -> str:
    """All in one line, for a log: heading and facts, then the sentences."""
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
    """Lines of a table. Long texts are broken; what is still too wide goes on below, beside the first column again.

    >>> print(*text_table([("", "rows"), ("all of them", Number("12")), ("some", Number("3"))], 40), sep="\\n")
                 rows
    all of them    12
    some            3
    """
    cells = [[type(cell)(printable(cell)) for cell in row] for row in rows]
    columns = list(zip(*cells, strict=True))
    widths = _fitting(columns, room)
    shown = [0]
    for number in range(1, len(columns)):
        if sum(widths[each] + len(_GAP) for each in shown) + widths[number] > room and len(shown) > 1:
            yield from _drawn(cells, widths, shown)
            shown = [0]
        shown.append(number)
    yield from _drawn(cells, widths, shown)


def _fitting(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """How wide the columns are: as wide as their cells, the widest texts made narrower until all fit, if they can."""
    widths = [min(max(map(cell_width, column)), room) for column in columns]
    least = [max(map(_least, column)) for column in columns]
    gaps = len(_GAP) * (len(widths) - 1)
    if sum(least) + gaps > room:  # two of them fit beside each other, whichever they are
        return [min(width, (room - len(_GAP)) // 2) for width in widths]
    while sum(widths) + gaps > room:
        soft = [number for number, width in enumerate(widths) if width > least[number]]
        widths[max(soft, key=widths.__getitem__)] -= 1
    return widths


def _least(cell: str) -> int:
    if isinstance(cell, Number):
        return len(cell)
    return max([min(_WORD, cell_width(word)) for word in cell.split()], default=0)


def _drawn(cells: Sequence[Sequence[str]], widths: Sequence[int], shown: Sequence[int]) -> Iterator[str]:
    right = {number for number in shown if any(isinstance(row[number], Number) for row in cells)}
    for row in cells:
        broken = {number: _broken(row[number], widths[number]) for number in shown}
        for line in range(max(map(len, broken.values()))):
            parts = []
            for number, lines in broken.items():
                part = lines[line] if line < len(lines) else ""
                blank = " " * (widths[number] - cell_width(part))
                parts.append(blank + part if number in right else part + blank)
            yield _GAP.join(parts).rstrip()


def _broken(cell: str, width: int) -> list[str]:
    if cell_width(cell) <= width or isinstance(cell, Number):
        return [cell]
    # Broken by the number of characters, of which some take two places.
    return wrap(cell, width if cell_width(cell) <= len(cell) else max(1, width // 2)) or [""]


def cell_width(text: str) -> int:
    """Places that a text takes in a terminal.

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
