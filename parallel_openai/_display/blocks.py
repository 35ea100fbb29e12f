"""What a result shows, as a list of blocks: a result gives one list, and text, pages and charts are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class Number(str):
    """A cell that is a figure: it stands flush right and is never broken into lines."""


def number(value: float, form: str = ",") -> Number:
    """A number as a cell; an empty one if it is not known.

    >>> number(1234), number(0.4567, ".1%"), number(float("nan"), ".3f")
    ('1,234', '45.7%', '')
    """
    return Number("" if value != value else format(value, form))


def counted(count: int, noun: str) -> str:
    """How many there are of a thing.

    >>> counted(1, "row"), counted(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shortened(text: str, most: int = 160) -> str:
    """The text, or its beginning.

    >>> shortened("a long story", 7)
    'a long…'
    """
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@dataclass(frozen=True)
class Heading:
    """What the whole is about. Simulated results say so beside it."""

    text: str
    simulated: bool = False


@dataclass(frozen=True)
class Sentence:
    text: str


@dataclass(frozen=True)
class Advice:
    """A sentence that asks the reader for something."""

    text: str


@dataclass(frozen=True)
class Fact:
    """A figure with its name.

    Attributes:
        note: what else is to be said of it.
        in_line: how a line of prose says it; None: the figure and its name; empty: not at all.
    """

    name: str
    figure: str
    note: str = ""
    in_line: str | None = None


@dataclass(frozen=True)
class Facts:
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Table:
    """Rows of cells; without a head the first column names what stands beside it. Without rows nothing is shown."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bar:
    """A row with a length: its cells, the first one its name, and the interval of the length if it has one."""

    cells: Sequence[str]
    length: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bars:
    """Bars below each other; without bars nothing is shown.

    Attributes:
        most: the length of a full bar.
        unit: what the lengths are.
    """

    title: str
    head: Sequence[str]
    bars: Sequence[Bar]
    most: float
    unit: str = ""


@dataclass(frozen=True)
class Matrix:
    """Cells by two things.

    Attributes:
        corner: what stands down and what across.
        shades: for each cell how dark it is, from 0 to 1.
    """

    title: str
    corner: tuple[str, str]
    down: Sequence[str]
    across: Sequence[str]
    cells: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Axis:
    """A side of a picture: what is counted along it, from where to where, and how its ends are written."""

    name: str
    low: float
    high: float
    ends: tuple[str, str]


#: Colours by what they are for.
Tone = Literal[0, 1, 2] | None


@dataclass(frozen=True)
class Curve:
    """Points of a picture; NaN leaves a gap.

    Attributes:
        form: `steps` have one more x than y, the edges between which each y holds; `area` is filled below them.
        tone: 0 for what the picture is about, 1 and 2 for what stands beside it; None for a bound, which is dashed.
        sizes: of `dots`, from 0 to 1.
        label: what is written beside it in a small picture.
    """

    name: str
    form: Literal["area", "steps", "line", "dots"]
    x: Sequence[float]
    y: Sequence[float]
    tone: Tone = 0
    sizes: Sequence[float] = ()
    label: str = ""


@dataclass(frozen=True)
class Picture:
    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    note: str = ""


@dataclass(frozen=True)
class Code:
    """A text that stands as it is, under its title."""

    title: str
    text: str


Block = Heading | Sentence | Advice | Facts | Table | Bars | Matrix | Picture | Code
