"""How fast `embed_dataframe` is on short rows, in how many requests, and what memory it takes. By hand:

    python -m tests.benchmarks.embedding [--rows 100000] [--dimensions 256]

The simulator runs in a process of its own; it makes a vector a row, so its share of the time is told too. The same
again then comes from the journal. For comparison, a fiftieth of the rows is asked about one by one.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import parallel_openai as po
from parallel_openai.local import simulator
from tests.benchmarks.machine import about

MODEL = "text-embedding-3-small"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=256)
    given = parser.parse_args()
    print(about("pandas", "numpy", "aiohttp"))
    df = pd.DataFrame({"text": [f"Row {n}: a lamp of kind {n % 97} for {n % 89} euros." for n in range(given.rows)]})
    few = df.head(max(1, given.rows // 50))
    with (
        simulator.serve(separate_process=True, max_requests_per_minute=None) as server,
        po.Client(server.base_url) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        options: dict[str, Any] = {"model": MODEL, "dimensions": given.dimensions, "client": client, "progress": False}
        packed = {**options, "save_to": Path(folder) / "packed.jsonl"}
        alone = {**options, "save_to": Path(folder) / "alone.jsonl", "endpoint": "embeddings"}
        vectors = given.rows * given.dimensions * 4 / 1e6
        print(f"{given.dimensions} dimensions: {vectors:,.0f} MB of vectors; memory before: {peak():,.0f} MB")
        tell("packed", lambda: po.embed_dataframe(df, "text", **packed))
        tell("from the journal", lambda: po.embed_dataframe(df, "text", **packed))
        tell("one by one", lambda: po.process_dataframe(few, "text", encoding_format="base64", **alone))


def tell(name: str, run: Callable[[], pd.DataFrame]) -> None:
    began = time.monotonic()
    out = run()
    seconds = time.monotonic() - began
    assert out["status"].eq("succeeded").all()
    requests = out.attrs["parallel_openai"]["requests_sent"]
    print(
        f"{name}: {len(out):,} rows in {seconds:.1f} s, {len(out) / seconds:,.0f} rows a second, "
        f"{requests:,} requests, memory at the most {peak():,.0f} MB"
    )


def peak() -> float:
    """The most memory that this process has ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
