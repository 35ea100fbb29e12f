"""Labels are reviewed in a real JupyterLab, with the keys of a real keyboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.jupyter import MISSING, Lab, Notebook, see

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"a browser drives JupyterLab in these; missing: {', '.join(MISSING)}"),
]

SET_UP = """\
import pandas as pd
import parallel_openai as po

out = pd.DataFrame({
    "text": ["The <b>soup</b> was fine, I suppose.", "Cold soup, and they laughed.", "Best soup of my life!", "Soup."],
    "label": pd.Categorical(["good", "bad", "good", None], categories=["good", "bad", "unclear"]),
    "confidence": [0.51, 0.8, 0.99, None],
})
"""
REVIEW = 'review = po.review(out, save_to="soup.review.jsonl")\nreview'
FRAME = 'print(review.frame()["label_reviewed"].dropna().to_dict(), review.frame()["review_note"].dropna().to_dict())'


def test_keys_choose_labels_and_each_choice_is_kept_at_once(lab: Lab, page: Any, tmp_path: Path) -> None:
    notebook = Notebook(page, lab.write("soup.ipynb", SET_UP, REVIEW, FRAME))
    file = lab.root / "soup.review.jsonl"
    notebook.run_to_end(0)
    notebook.run_to_end(1)
    widget = page.locator(".po-review")
    widget.wait_for()

    def shows(text: str) -> None:
        see(lambda: text in widget.inner_text())

    def kept() -> list[tuple[Any, str]]:
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        return [(line["label_reviewed"], line["note"]) for line in map(json.loads, lines)]

    shows("Row 1 of 4")
    shows("The model gave no label")
    widget.locator(".po-field").click()
    page.keyboard.press("3")
    shows("The <b>soup</b> was fine")
    assert kept() == [("unclear", "")]
    shows("confidence 0.51")
    page.keyboard.press("n")
    page.keyboard.type("1 of a kind")
    page.keyboard.press("Enter")
    see(lambda: kept()[-1] == (None, "1 of a kind"))
    page.keyboard.press("Enter")  # agrees with the model
    shows("Cold soup")
    assert kept()[-1] == ("good", "1 of a kind")
    page.screenshot(path=tmp_path / "review.png")
    page.keyboard.press("ArrowLeft")
    shows("Row 2 of 4")
    page.keyboard.press("u")
    see(lambda: kept()[-1] == (None, "1 of a kind"))
    page.keyboard.press("2")
    shows("Cold soup")
    widget.get_by_role("button", name="bad").click()
    shows("Best soup")
    page.keyboard.press("1")
    shows("All 4 rows are judged")

    assert notebook.run_to_end(2).strip() == "{0: 'bad', 1: 'bad', 2: 'good', 3: 'unclear'} {0: '1 of a kind'}"
    # JupyterLab itself makes headings of cells with these keys.
    assert page.locator(".jp-NotebookPanel .jp-MarkdownCell").count() == 0
