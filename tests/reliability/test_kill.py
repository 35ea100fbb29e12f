"""Kill -9 at any moment: every row is answered in the end, and only requests in flight are paid for again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.reliability.kills import kill_and_resume

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9 and no fork")


@pytest.mark.parametrize("face", ["frame", "file"])
def test_a_killed_run_resumes_and_loses_nothing(face: str, tmp_path: Path) -> None:
    tally = kill_and_resume(face, tmp_path, rows=200, kills=4)
    assert tally.good, str(tally)
    assert tally.kills == 4
