"""Whatever a server answers or a disk holds, nothing crashes or hangs, and no complete line is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reliability.fuzz import CHECKS, fuzz


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_random_inputs_never_break_an_invariant(check: Callable[..., None]) -> None:
    fuzz(check, 100)
