"""One JupyterLab for all tests of a process, and one browser for each file, since starting them takes the longest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.jupyter import BROWSER, CHROMIUM, Lab, start_lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with start_lab(tmp_path_factory.mktemp("jupyter")) as running:
        yield running


# Not for the whole session: while it lives, its thread counts as running an event loop.
@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=BROWSER,
            args=list(CHROMIUM),
            viewport={"width": 1200, "height": 900},
        )
        yield browser.pages[0]
        browser.close()
