"""Runs the project's notebooks. As a command, it also saves them with their output.

`python -m tests.notebooks.run 02 03` takes those whose names begin so; without names it takes all.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call,unused-ignore]
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run all cells in a kernel that works in `folder` and knows no key and none of its user's settings.

    Raises:
        CellExecutionError: a cell ended with an error.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
        "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))),
        "IPYTHONDIR": str(folder / ".ipython"),
    }
    client = NotebookClient(
        notebook,
        timeout=90,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
    )
    return client.execute(env=environment)


def text(cell: nbformat.NotebookNode) -> str:
    """What a cell shows, as plain text."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
    return "\n".join(shown)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave what a page can show: the bars as text, and nothing about this machine and moment."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)


if __name__ == "__main__":
    for path in NOTEBOOKS:
        if sys.argv[1:] and not path.name.startswith(tuple(sys.argv[1:])):
            continue
        executed = read(path)
        with tempfile.TemporaryDirectory() as empty:
            execute(executed, Path(empty))
        tidy(executed)
        nbformat.write(executed, path)  # type: ignore[no-untyped-call,unused-ignore]
        print(f"{path.relative_to(REPOSITORY)} saved", file=sys.stderr)
