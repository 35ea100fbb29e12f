"""The picture in the README: a real notebook in a real browser, answered by the small model on this machine.

python -m tests.browser.picture docs/pictures/notebook.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.jupyter import BROWSER, CHROMIUM, Notebook, start_lab

SET_UP = """
import warnings; warnings.simplefilter("ignore")
import parallel_openai as po
server = po.local.model.serve()
client, model, reviews = po.Client(server.base_url), server.model, po.local.reviews()
"""
CALL = """out = po.label_dataframe(
    reviews,
    "What is the sentiment of this review? {text}",
    labels=["positive", "negative", "neutral"],
    model=model,
    client=client,
    confidence="logprobs",
)
out[["text", "label", "confidence", "status", "prompt_tokens"]].head(6)"""
PATIENCE = 300_000  # milliseconds, for sixty rows on a busy machine
SIZE = {"width": 1180, "height": 900}


def take(target: Path) -> None:
    """Run the call in JupyterLab and keep its cell, with what came out, as a PNG."""
    with tempfile.TemporaryDirectory() as folder, start_lab(Path(folder)) as lab, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(CHROMIUM))
        page = browser.new_page(viewport=SIZE)
        notebook = Notebook(page, lab.write("reviews.ipynb", SET_UP, CALL))
        notebook.run_to_end(0)
        notebook.run(1)
        page.locator("table.dataframe").wait_for(timeout=PATIENCE)
        page.locator(".jp-CodeCell").nth(1).screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
