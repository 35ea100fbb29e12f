"""Start a module of this package in a child process that ends with its parent, and end it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

#: Variables whose names tell that a secret may be in them; a proxy's address may hold a password.
_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|PROXY", re.IGNORECASE)
_RUN = """\
import runpy, sys
if '' in sys.path:
    sys.path.remove('')
runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"""


def start_child(
    module: str, arguments: Iterable[str], *, stderr: IO[bytes] | None = None, **environment: str
) -> subprocess.Popen[bytes]:
    """Run a module with pipes as stdin and stdout. It must exit when its stdin closes, as when this process ends.

    Unlike with `python -m`, nothing is imported from the working directory, whose files may not be trustworthy. A local
    server needs no keys and connects to nobody, so it inherits no variables that may hold secrets.
    """
    # The child must find this package even if it runs from a checkout or the caller only extended sys.path.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
    inherited = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    return subprocess.Popen(
        [sys.executable, "-c", _RUN.format(module=module), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**inherited, "PYTHONPATH": path, **environment},
    )


def end_child(process: subprocess.Popen[bytes], *, patience: float = 5.0) -> None:
    """Close the child's stdin, and kill it if it does not exit within `patience` seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
