"""The benchmark of calls, as a test: an additional call per row is noticed."""

from __future__ import annotations

import pytest

from tests.benchmarks.calls import in_process
from tests.servers.nginx import needs_nginx

pytestmark = needs_nginx


@pytest.mark.parametrize(
    ("arguments", "most"),
    [(["label"], 130), (["label", "--limits"], 183), (["process"], 124), (["process", "--limits"], 173)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_further_row_takes_few_calls_of_our_functions(arguments: list[str], most: float) -> None:
    printed = in_process(*arguments, "--rows=300")
    print(printed)
    assert float(printed.split()[0]) <= most, printed
