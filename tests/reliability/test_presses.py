"""A stop at any moment, in a real terminal and kernel: it is quick, and nothing is sent after it or paid twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.reliability.presses import press_in_kernel, press_in_terminals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no terminals of this kind")


def test_ctrl_c_in_a_terminal_ends_the_script_and_the_same_command_resumes(tmp_path: Path) -> None:
    stops = press_in_terminals(tmp_path, 2)
    assert stops.good, str(stops)


def test_the_stop_button_also_stops_queued_cells_and_no_later_cell(tmp_path: Path) -> None:
    stops = press_in_kernel(tmp_path, 2)
    assert stops.good, str(stops)
