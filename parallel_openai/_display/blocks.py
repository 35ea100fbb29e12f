"""The blocks that a result consists of; text, HTML and charts are rendered from one list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class Number(str):
    """A numeric cell: right-aligned and never wrapped."""


def number(value: float, form: str = ",") -> Number:
    """A number as a cell; empty for NaN.

    >>> number(1234), number(0.4567, ".1%"), number(float("nan"), ".3f")
    ('1,234', '45.7%', '')
    """
    return Number("" if value != value else format(value, form))


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "row"), counted(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shortened(text: str, most: int = 160) -> str:
    """The text, truncated to `most` characters.

    >>> shortened("a long story", 7)
    'a long…'
    """
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@dataclass(frozen=True)
class Heading:
    """The title of a result; marked if the result is simulated."""

    text: str
    simulated: bool = False


@dataclass(frozen=True)
class Sentence:
    text: str


@dataclass(frozen=True)
class Advice:
    """A sentence that asks the reader to do something."""

    text: str


@dataclass(frozen=True)
class Fact:
    """A named figure."""

    name: str
    figure: str
    note: str = ""  # a remark on it
    in_line: str | None = None  # its form in a one-line report; None: figure, name and note; empty: omitted


@dataclass(frozen=True)
class Facts:
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Table:
    """Rows of cells; without a head the first column holds the names. Renders as nothing without rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bar:
    """A bar: its cells, of which the first is its name, its length, and the length's interval if it has one."""

    cells: Sequence[str]
    length: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bars:
    """A horizontal bar chart; renders as nothing without bars."""

    title: str
    head: Sequence[str]
    bars: Sequence[Bar]
    most: float  # the length of a full bar
    unit: str = ""  # of the lengths


@dataclass(frozen=True)
class Matrix:
    """A two-way table."""

    title: str
    corner: tuple[str, str]  # the names of the rows' and the columns' dimension
    down: Sequence[str]
    across: Sequence[str]
    cells: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]]  # each cell's darkness, from 0 to 1


@dataclass(frozen=True)
class Axis:
    """An axis of a chart: its name, range, and the labels of its ends."""

    name: str
    low: float
    high: float
    ends: tuple[str, str]


#: Colours by purpose, see `Curve.tone`.
Tone = Literal[0, 1, 2] | None


@dataclass(frozen=True)
class Curve:
    """A series of a chart; NaN leaves a gap."""

    name: str
    # `steps` have one more x than y, the edges of the interval of each y; `area` are filled steps.
    form: Literal["area", "steps", "line", "dots"]
    x: Sequence[float]
    y: Sequence[float]
    tone: Tone = 0  # 0 for the main series, 1 and 2 for others; None for a bound, which is dashed
    sizes: Sequence[float] = ()  # of `dots`, from 0 to 1
    label: str = ""  # written next to the curve in a small chart


@dataclass(frozen=True)
class Picture:
    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    note: str = ""


@dataclass(frozen=True)
class Code:
    """Preformatted text with a title."""

    title: str
    text: str


Block = Heading | Sentence | Advice | Facts | Table | Bars | Matrix | Picture | Code
