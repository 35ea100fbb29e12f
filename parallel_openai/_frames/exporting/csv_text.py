"""CSV as text: the same bytes on every system, cells of any length and kind, and none that a spreadsheet would run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: A spreadsheet takes a cell that starts so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_NEEDS_QUOTES = re.compile(r'[",\r\n]')


def csv_line(cells: Sequence[str | None], *, harmless: bool) -> str:
    """A line of the cells; None is an empty one.

    Args:
        cells: the texts.
        harmless: whether to put an apostrophe before what a spreadsheet would take for a formula.

    >>> print(csv_line(["a", None, 'say "hi" now', "=1+1", "-5"], harmless=True), end="")
    a,,"say ""hi"" now",'=1+1,-5
    """
    texts = [_quoted(_harmless(cell) if harmless and cell else cell or "") for cell in cells]
    if texts == [""]:  # else the line would be blank, which readers leave out
        return '""\n'
    return ",".join(texts) + "\n"


def csv_rows(text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Each row's cells, with the number of the line in which it begins.

    Raises:
        ValueError: a quotation mark is not closed, or stands where none may be.

    >>> list(csv_rows('a,b\\n"x\\ny",\\nz,1\\n'))
    [(1, ['a', 'b']), (2, ['x\\ny', '']), (4, ['z', '1'])]
    """
    end = re.escape(delimiter)
    cell = re.compile(rf'(?:"([^"]*(?:""[^"]*)*)"|([^"{end}\r\n][^{end}\r\n]*)?)({end}|\r\n|\n|\r|\Z)')
    line, at, begin = 1, 0, 0
    row: list[str] = []
    while at < len(text) or row:
        found = cell.match(text, at)
        if found is None:
            raise ValueError(f"line {line + text.count(chr(10), begin, at)} has a quotation mark that does not fit")
        quoted, bare, after = found.groups()
        row.append(quoted.replace('""', '"') if quoted is not None else bare or "")
        at = found.end()
        if after != delimiter:
            if row != [""] or quoted is not None:  # a blank line is no row
                yield line, row
            line += text.count("\n", begin, at)
            begin, row = at, []


def as_written(cell: str) -> str:
    """A cell without the apostrophe that made it harmless.

    >>> as_written("'=1+1"), as_written("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _harmless(cell: str) -> str:
    return f"'{cell}" if _is_formula(cell) and not _NUMBER.fullmatch(cell) else cell


def _is_formula(cell: str) -> bool:
    # Behind apostrophes too, so that taking one off gives back what was there.
    return cell.lstrip("'").startswith(_FORMULA)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _NEEDS_QUOTES.search(cell) else cell
