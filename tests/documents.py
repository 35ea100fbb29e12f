"""The code blocks of the documentation's pages, and how to run them as a reader would."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.local.simulator import Server

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
#: Marks of blocks that no test here runs; the first two are run by .ci/run and by hand.
NOT_RUN = ("demo command", "test command", "not run: ")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the name in the comment above it, if there is one."""

    language: str
    code: str
    mark: str = ""

    @property
    def needs(self) -> str:
        """What it needs beside the simulator, if anything."""
        if "local.model" in self.code:
            return "model"
        return "ray" if re.search(r"\bray\b", self.code) else ""


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = re.finditer(r"^(?:<!-- ([^\n]*) -->\n)?```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(each[2], each[3], each[1] or "") for each in found]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@contextlib.contextmanager
def reader_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """What a reader has before the first block: rows, requests and a picture in files, and a key."""
    texts = ["A wonderful lamp.", "It leaks, terrible.", None, "Does what it says.", "A wonderful lamp."]
    pd.DataFrame({"id": range(5), "text": texts}).to_csv(folder / "reviews.csv", index=False)
    gold = ["positive", "negative", "neutral"]
    pd.DataFrame({"text": ["Great.", "Awful.", "A lamp."], "gold": gold}).to_csv(folder / "checked.csv", index=False)
    requests = [{"model": "gpt-5-mini", "messages": [{"role": "user", "content": f"Say {n}."}]} for n in range(3)]
    (folder / "requests.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    (folder / "lamp.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with po.local.simulator.serve(max_requests_per_minute=None, batch_speed=1e6) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-simulated")
        monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
        yield server


def run(page: Path, *needs: str) -> dict[str, Any]:
    """Run a page from top to bottom, as far as it needs no more than that; the names that it leaves behind."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks_of(page):
        if block.mark.startswith(NOT_RUN) or block.needs not in ("", *needs):
            continue
        if block.language == "python":
            printed = run_cell(block.code, names, name_of(page))
        elif block.language == "sh":
            subprocess.run(["bash", "-euc", block.code], timeout=60, check=True)
        elif block.mark == "output":
            assert without_numbers(printed) == without_numbers(block.code)
    return names


def run_cell(code: str, names: dict[str, Any], page: str) -> str:
    """Run a block as a notebook runs a cell; what it prints, and its last value as text."""
    tree = ast.parse(code, page)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        # Without what this module imports from __future__: the reader does not either.
        exec(compile(tree, page, "exec", dont_inherit=True), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), page, "eval", dont_inherit=True), names)
            if value is not None:
                print(value)
    return printed.getvalue()


def without_numbers(text: str) -> str:
    """Times and digests differ from run to run, and with them the widths of columns; a missing value with pandas."""
    same = re.sub(r"[\d.,]+", "0", re.sub(r"\bNone\b|<NA>", "NaN", text))
    return re.sub(r"[ -]+", " ", same).strip()
