"""Whatever a server answers or a disk holds, nothing crashes or hangs, and no complete line is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reliability.fuzz import CHECKS, fuzz


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_no_input_breaks_what_must_hold(check: Callable[..., None]) -> None:
    fuzz(check, 100)
