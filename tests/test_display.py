"""How blocks are rendered in a terminal, in a notebook and as a figure, whatever their content."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._display import blocks as b
from parallel_openai._display.display import Display
from parallel_openai._display.html import to_html
from parallel_openai._display.text import cell_width, to_line, to_text
from parallel_openai._frames.inspecting.explain import Explanation
from parallel_openai._frames.reporting.report import RunReport

HOSTILE = "</td></style><script>alert('&\"')</script>\x1b]0;owned\x07\u202egnp.exe\ud83d\r\n{{ 7 * 7 }}"
LONG = "A sentence that goes on for longer than a terminal is wide, since somebody had much to say of it. " * 2


def every_kind(text: str) -> list[b.Block]:
    """A block of each kind, with a text wherever one may stand."""
    axis = b.Axis(text, 0.0, 1.0, (text, text))
    curves = [
        b.Curve(text, "area", [0, 1, 2], [0.5, 2.0], label=text),
        b.Curve(text, "steps", [0, 1, 2], [0.5, float("nan")], None, label=text),
        b.Curve(text, "line", [0, 1], [0, 1], 1),
        b.Curve(text, "dots", [0.5], [0.5], sizes=[1.0]),
    ]
    return [
        b.Heading(text, simulated=True),
        b.Sentence(text),
        b.Advice(text),
        b.Facts([b.Fact(text, text, text), b.Fact(text, "")]),
        b.Table(text, (text, text), [(text, b.Number("12"))]),
        b.Bars(text, (text, text), [b.Bar((text, text), 0.5), b.Bar((text, text), 9.0, (0.2, 0.9))], 1.0, text),
        b.Matrix(text, (text, text), [text], [text], [[text]], [[0.4]]),
        b.Picture(text, axis, axis, curves, text),
        b.Code(text, text),
    ]


class Parsed(HTMLParser):
    """The tags of a page and the text between them; fails if they do not close each other."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_in_texts_is_escaped() -> None:
    page, plain = Parsed(to_html(every_kind(HOSTILE))), Parsed(to_html(every_kind("x" * 40)))
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    assert "{{ 7 * 7 }}" in page.text
    to_html(every_kind(HOSTILE)).encode()


@pytest.mark.parametrize("show", [to_text, to_line, to_html], ids=["text", "line", "page"])
def test_no_text_moves_the_cursor_or_reverses_the_writing_direction(show: Any) -> None:
    shown = show(every_kind(HOSTILE))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
    assert "\\x1b]0;owned\\x07" in shown


def test_html_uses_the_theme_of_jupyterlab_vs_code_and_colab() -> None:
    page = to_html(every_kind("x"))
    style, body = page.split("</style>")
    assert all(name in style for name in ("--jp-content-font-color1", "--vscode-editor-foreground", 'theme="dark"'))
    assert 'data-jp-theme-light="false"' in style
    assert not re.search(r"(?<!-)color: ?(#|black|white)|background: ?(#|white|black)", page)
    assert "#" not in body  # colours are the stylesheet's


def test_html_is_self_contained() -> None:
    assert not re.search(r"https?:|src=|url\(|@import|<link|<script", to_html(every_kind("x")))


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize(
    "text", ["word", LONG, "日本語のレビューです。" * 9, "x" * 300], ids=["short", "long", "wide", "unbroken"]
)
def test_a_table_is_as_wide_as_the_terminal_and_loses_nothing(text: str, width: int) -> None:
    table = b.Table("", ("name", "text", "cost"), [("one", text, b.Number("$0.0012")), ("two", "", b.Number("$1.00"))])
    lines = to_text([table], width).splitlines()
    assert max(map(cell_width, lines)) <= width
    assert "".join(text.split()) in "".join("".join(line.split()) for line in lines).replace("one", "").replace(
        "$0.0012", ""
    )


def test_numbers_are_never_wrapped_and_are_aligned_right() -> None:
    rows = [(LONG, b.number(1234567), b.number(0.5, ".1%")), ("short", b.number(1), b.number(float("nan"), ".1%"))]
    told = to_text([b.Table("", ("", "rows", "share"), rows)], 60)
    first, second = (next(line for line in told.splitlines() if word in line) for word in ("1,234,567", "short"))
    assert first.index("7  50.0%") == second.index("1")
    assert not second.endswith(" ")


def test_columns_that_do_not_fit_continue_below() -> None:
    head = ("label", *(f"column_{number}" for number in range(20)))
    table = b.Table("", head, [("good", *(b.number(10**6 + number) for number in range(20)))])
    lines = to_text([table], 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert len(lines) // 2 == sum(line.startswith("  good") for line in lines) > 2
    assert all(f"1,000,0{number:02}" in " ".join(lines) for number in range(20))


@pytest.mark.parametrize("width", [0, 1, 5, 19])
def test_an_extremely_narrow_terminal_still_shows_everything(width: int) -> None:
    table = b.Table("", (LONG, "rows", "text"), [("good", b.Number("12,345,678,901 + 12"), "word " * 40)])
    told = to_text([table], width)
    assert "12,345,678,901 + 12" in told
    assert told.split().count("word") == 40


def test_a_table_without_rows_is_not_shown() -> None:
    empty = [b.Table("Nobody", ("name",), []), b.Bars("No time", (), [], 1.0), b.Facts([])]
    assert to_text(empty) == ""
    assert "No" not in Parsed(to_html(empty).split("</style>")[1].removesuffix("</div>\n").removesuffix("</div>")).text
    assert "Where the time went" not in str(
        RunReport(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, "finished", {}, "", True)
    )


def test_sentences_are_never_wrapped() -> None:
    assert LONG in to_text([b.Advice(LONG)], 40)


def test_simulated_results_say_so_in_each_form() -> None:
    heading = [b.Heading("3 rows", simulated=True)]
    assert to_text(heading) == "3 rows (simulated)"
    assert to_line(heading).startswith("SIMULATED answers. 3 rows")
    assert "SIMULATED answers" in to_html(heading)


def test_a_fact_without_words_is_left_out_of_the_line() -> None:
    facts = b.Facts([b.Fact("good", "3"), b.Fact("spent", "$1", in_line="$1"), b.Fact("quiet", "9", in_line="")])
    assert to_line([b.Heading("4 rows"), facts, b.Sentence("The end.")]) == "4 rows: 3 good, $1. The end."


def test_points_outside_a_chart_are_clipped_to_it() -> None:
    axis = b.Axis("", 0.0, 1.0, ("0", "1"))
    page = to_html([b.Picture("", axis, axis, [b.Curve("", "line", [-5, 0.5, 7], [2, float("nan"), -3])])])
    [points] = re.findall(r'<polyline[^>]*points="([^"]*)"', page)
    assert points.split() == ["0.0,0.0", "240.0,120.0"]


def test_every_kind_is_drawn_or_left_out_of_a_figure() -> None:
    import matplotlib

    matplotlib.use("agg")
    from parallel_openai._display.charts import draw

    figure = draw(every_kind("costs $a^$"))
    figure.canvas.draw()
    assert len(figure.axes) == 3
    matplotlib.pyplot.close(figure)


def test_importing_what_shows_results_imports_neither_jinja2_nor_matplotlib() -> None:
    code = (
        "import sys, parallel_openai._display.display; "
        "print([name for name in sys.modules if name in ('jinja2', 'matplotlib')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"


def words(block: Any) -> Iterator[str]:
    """All texts of a block that stand both in a terminal and on a page."""
    if isinstance(block, str):
        yield block
    elif isinstance(block, b.Picture):
        yield block.title
    elif isinstance(block, b.Table) and not block.rows:
        return
    elif isinstance(block, (list, tuple)):
        for each in block:
            yield from words(each)
    elif dataclasses.is_dataclass(block):
        hidden = {"in_line", "unit", "corner"}
        for field in dataclasses.fields(block):
            if field.name not in hidden:
                yield from words(getattr(block, field.name))


def results() -> dict[str, Display]:
    labels = {"gold": list("aabbc"), "label": ["a", "b", "b", None, "c"], "confidence": [0.9, 0.8, 0.7, 0.1, 0.6]}
    annotators = [pd.Series(list(labels), name=name) for labels, name in (("aab", "x"), ("abb", "y"), ("bab", "z"))]
    client = po.Client("http://127.0.0.1:9/v1")
    return {
        "evaluation": po.evaluate(pd.DataFrame(labels), gold="gold"),
        "agreement": po.agreement(*annotators),
        "preview": po.preview(pd.DataFrame({"text": ["a", None]}), "Say {text}.", model="gpt-5-mini", client=client),
        "explanation": Explanation("Row 1.", (("at", "1 s", "200", "", "2.0", "3 + 4", "req"),), ("It was answered.",)),
        "report": RunReport(3, 1, 1, 1, 0, 0, 3, 1, 1, 9, 1, 0.1, 9.0, "stopped", {"bad": 1}, "a.jsonl", True),
    }


@pytest.mark.parametrize("name", results())
def test_html_and_text_contain_everything_in_the_blocks(name: str) -> None:
    result = results()[name]
    told = list(words(result.blocks()))
    page, text = Parsed(result._repr_html_()).text, to_text(result.blocks(), 300)
    pictures = {block.title for block in result.blocks() if isinstance(block, b.Picture)}
    assert [word for word in told if word not in page] == []
    assert [word for word in told if word not in text and word not in pictures] == []


def test_html_is_written_only_by_the_template() -> None:
    root = Path(po.__file__).parent
    found = [
        path.name
        for path in root.rglob("*.py")
        if "simulator" not in path.parts
        and re.search(r"</(div|span|td|tr|table|p|h4|svg|pre)>", path.read_text("utf-8"))
    ]
    assert found == []
