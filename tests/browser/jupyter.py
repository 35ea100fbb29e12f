"""A real JupyterLab on this machine, and one notebook open in it in a real browser."""

from __future__ import annotations

import http.client
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [
    name for name in ("jupyterlab", "ipywidgets", "anywidget", "playwright") if importlib.util.find_spec(name) is None
]
if BROWSER is None:
    MISSING.append("a Chromium on the PATH")

REPOSITORY = Path(__file__).parents[2]
START_WITHIN = 40.0
PATIENCE = 30_000  # milliseconds

# A question about news lies over the notebook otherwise.
QUIET = '{"fetchNews": "false", "checkForUpdates": false}'
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Lab:
    """A running JupyterLab.

    Attributes:
        root: the folder that it shows, where its kernels work.
    """

    def __init__(self, root: Path, port: int, token: str) -> None:
        self.root = root
        self._port, self._token = port, token

    def write(self, name: str, *cells: str) -> str:
        """Put a notebook of these cells into the folder; its address."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(notebook, self.root / name)
        return self.address(name)

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self._port}/lab/tree/{name}?reset&token={self._token}"

    def is_up(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", f"/api/status?token={self._token}")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def start_lab(folder: Path) -> Iterator[Lab]:
    """JupyterLab with nothing of this user's: settings, runtime files and history lie in `folder`."""
    root, home = folder / "work", folder / "home"
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    for each in (root, home, quiet.parent):
        each.mkdir(parents=True)
    quiet.write_text(QUIET)
    port, token = _free_port(), secrets.token_hex(16)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "OPENAI_"))},
        "HOME": str(home),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_TOKEN": token,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))),
    }
    options = ["--no-browser", "--allow-root", f"--ServerApp.root_dir={root}", "--ServerApp.ip=127.0.0.1"]
    options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    with open(folder / "jupyter.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    lab = Lab(root, port, token)
    try:
        _wait_until_up(lab, process, folder / "jupyter.log")
        yield lab
    finally:
        process.terminate()  # it ends its kernels
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(lab: Lab, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + START_WITHIN
    while not lab.is_up():
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"JupyterLab did not start: {log.read_text(errors='replace')[-2_000:]}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


class Notebook:
    """A notebook in the browser, as its user has it: cells to run, a stop button, outputs to read."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        page.goto(address)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        self.page.locator(".jp-StatusBar-TextItem", has_text="| Idle").wait_for(timeout=PATIENCE)

    def run(self, cell: int) -> None:
        """Press Shift-Enter in a cell; its old output is gone when this returns."""
        self._cell(cell).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")

    def run_to_end(self, cell: int) -> str:
        """The same, and wait for the end; the output's text."""
        self.run(cell)
        self.wait_for_end(cell)
        return self.output(cell)

    def wait_for_end(self, cell: int) -> None:
        """Until the prompt shows a number and the kernel is idle."""
        prompt = self._cell(cell).locator(".jp-InputPrompt")
        self.page.wait_for_function(
            "prompt => /\\[\\d+\\]/.test(prompt.textContent)", arg=prompt.element_handle(), timeout=PATIENCE
        )
        self.wait_until_idle()

    def stop(self) -> None:
        """Press the stop button."""
        self.page.locator('.jp-NotebookPanel [data-command="notebook:interrupt-kernel"]').first.click()

    def output(self, cell: int) -> str:
        return "\n".join(self._cell(cell).locator(".jp-OutputArea-output").all_inner_texts())

    def tables(self, cell: int) -> int:
        """How many rendered frames the cell shows."""
        count: int = self._cell(cell).locator(".jp-OutputArea-output table.dataframe").count()
        return count

    def counters(self, cell: int) -> str:
        """The text beside the bar, or nothing yet."""
        texts = self._cell(cell).locator(".jupyter-widgets.widget-html").all_inner_texts()
        return " ".join(" ".join(texts).split())

    def bar(self, cell: int) -> str:
        """The classes of the bar, which give its colour."""
        return self._cell(cell).locator(".widget-hprogress .progress-bar").get_attribute("class") or ""

    def bar_width(self, cell: int) -> float:
        """How much of the bar is filled, 0 to 1."""
        box = self._cell(cell).locator(".widget-hprogress .progress").bounding_box()
        filled = self._cell(cell).locator(".widget-hprogress .progress-bar").bounding_box()
        return filled["width"] / box["width"] if box and filled else 0.0

    def _cell(self, cell: int) -> Any:
        return self.page.locator(".jp-NotebookPanel .jp-CodeCell").nth(cell)


def see(wanted: Callable[[], object], seconds: float = 20) -> None:
    give_up_at = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
