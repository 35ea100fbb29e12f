"""Log messages beside a run's progress bar, in a kernel."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import run
from tests.test_log_above_bar import LOGGING_RUN

ON_STDOUT = "logging.basicConfig(format='%(message)s', stream=sys.stdout)"
WITHOUT_WIDGETS = "sys.modules['ipywidgets'] = None"


@pytest.mark.parametrize(
    "set_up",
    ["", ON_STDOUT, WITHOUT_WIDGETS, f"{WITHOUT_WIDGETS}; {ON_STDOUT}"],
    ids=["widget", "widget-log-on-stdout", "text", "text-log-on-stdout"],
)
def test_each_line_of_the_log_comes_once_and_not_into_the_bar(set_up: str, tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell(LOGGING_RUN.format(set_up=set_up))
    run.execute(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert "3 rows" in run.text(cell).replace("\u00a0", " ")
    assert re.findall(r"[^\r\n]*A request failed\.", printed) == ["A request failed."]
