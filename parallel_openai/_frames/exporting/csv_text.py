"""Read and write CSV text: the same bytes on every system, cells of any length, optional escaping of formulas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: Spreadsheets take a cell that starts with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_NEEDS_QUOTES = re.compile(r'[",\r\n]')


def csv_line(cells: Sequence[str | None], *, escape: bool) -> str:
    """Return one CSV line; None is an empty cell.

    Args:
        cells: the cells' text.
        escape: whether to put an apostrophe before what a spreadsheet would take for a formula.

    >>> print(csv_line(["a", None, 'say "hi" now', "=1+1", "-5"], escape=True), end="")
    a,,"say ""hi"" now",'=1+1,-5
    """
    texts = [_quoted(_escaped(cell) if escape and cell else cell or "") for cell in cells]
    if texts == [""]:  # readers skip blank lines
        return '""\n'
    return ",".join(texts) + "\n"


def csv_rows(text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line a row starts on, and its cells.

    Raises:
        ValueError: a quotation mark is not closed, or stands inside an unquoted cell.

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
            if row != [""] or quoted is not None:  # skip blank lines
                yield line, row
            line += text.count("\n", begin, at)
            begin, row = at, []


def unescape(cell: str) -> str:
    """Remove the apostrophe that `csv_line` put before a formula.

    >>> unescape("'=1+1"), unescape("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _escaped(cell: str) -> str:
    return f"'{cell}" if _is_formula(cell) and not _NUMBER.fullmatch(cell) else cell


def _is_formula(cell: str) -> bool:
    # Also behind apostrophes, so that removing one restores the original.
    return cell.lstrip("'").startswith(_FORMULA)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _NEEDS_QUOTES.search(cell) else cell
