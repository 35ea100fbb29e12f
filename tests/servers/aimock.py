"""A run against aimock, a server from npm that refuses, breaks off and garbles at random. By hand, as it needs npm:

    python -m tests.servers.aimock                      installs it into a temporary folder with npm, 300 rows
    python -m tests.servers.aimock --command PATH       uses the `llmock` of an installed @copilotkit/aimock

The server drops 5 % of the requests with a 500, destroys 5 % of the connections, answers 5 % with what is no JSON, and
refuses 10 % with a 429. Exit code 0: each row has an answer or a named error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pandas as pd

import parallel_openai as po
from tests.servers.processes import free_port, running

PACKAGE = "@copilotkit/aimock@1"
CHAOS = ("--chaos-ratelimit", ".1", "--chaos-disconnect", ".05", "--chaos-malformed", ".05", "--chaos-drop", ".05")
FIXTURES = {"fixtures": [{"match": {"userMessage": "review"}, "response": {"content": "Positive."}}]}


def install(folder: Path) -> Path:
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", PACKAGE], cwd=folder, check=True, timeout=300)
    return folder / "node_modules" / ".bin" / "llmock"


def run(command: Path, folder: Path, *, rows: int, max_attempts: int) -> bool:
    """Ask once for each row, print what became of them, and say whether each has an answer or a named error."""
    fixtures = folder / "fixtures.json"
    fixtures.write_text(json.dumps(FIXTURES))
    port = free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--fixtures", str(fixtures), "--journal-max", "0"]
    frame = pd.DataFrame({"text": [f"review {row}" for row in range(rows)]})
    with (
        running([str(command), *arguments, "--log-level", "warn", *CHAOS], port, log=folder / "aimock.log"),
        po.Client(f"http://127.0.0.1:{port}/v1", "key", max_attempts=max_attempts, max_wait=120) as client,
    ):
        began = time.monotonic()
        out = po.process_dataframe(
            frame, "Label this {text}", model="gpt-4o-mini", client=client, save_to=folder / "answers.jsonl"
        )
        seconds = time.monotonic() - began
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/__aimock/journal", timeout=10) as answer:
            served = json.load(answer)
    chaos = Counter(entry["response"].get("chaosAction", "answered") for entry in served)
    print(f"{rows} rows in {seconds:.1f} s, {rows / seconds:.1f} a second")
    print(f"the server: {len(served)} requests, {dict(chaos)}")
    print(f"the rows:   {out['status'].value_counts().to_dict()}, {out['error_code'].value_counts().to_dict()}")
    print(f"attempts:   {out['attempts'].value_counts().sort_index().to_dict()}")
    print(po.last_run())
    named = (out["status"] == "succeeded") | out["error_code"].notna()
    right = out.loc[out["status"] == "succeeded", "response"] == "Positive."
    return bool(named.all() and right.all() and chaos["answered"] == (out["status"] == "succeeded").sum())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", type=Path, help="aimock's `llmock`; left out, npm installs it")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--max-attempts", type=int, default=5)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        command = options.command or install(Path(folder))
        good = run(command.absolute(), Path(folder), rows=options.rows, max_attempts=options.max_attempts)
    print("each row has an answer or a named error" if good else "NOT each row has an answer or a named error")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
