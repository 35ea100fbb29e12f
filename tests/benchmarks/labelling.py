"""How good a small real model's labels are, and how far its confidence can be trusted. Run by hand:

    python -m tests.benchmarks.labelling reviews.csv --rows 1000 --what review

The file has columns `text` and `score`: what people think of its sentiment on the mean, from -4 to 4, as in the data
sets that came with VADER (Hutto and Gilbert, 2014). Positive is 0.5 and more, negative -0.5 and less. It takes about
half a second a row on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd

import parallel_openai as po
from parallel_openai.local import model

LABELS = ["positive", "negative", "neutral"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--what", default="text")
    arguments = parser.parse_args()
    rows = pd.read_csv(arguments.file)
    rows = with_gold(rows.sample(min(arguments.rows, len(rows)), random_state=0))
    with tempfile.TemporaryDirectory() as folder:
        found = po.evaluate(label(rows, arguments.what, Path(folder)))
    print(f"\n{arguments.file.name}\n{found}\n")
    print(found.per_label[["precision", "recall", "f1", "gold", "given"]].round(3).to_string(), "\n")
    print(found.calibration.round(3).to_string(index=False))


def with_gold(rows: pd.DataFrame) -> pd.DataFrame:
    gold = pd.Series("neutral", index=rows.index)
    return rows.assign(gold=gold.mask(rows["score"] >= 0.5, "positive").mask(rows["score"] <= -0.5, "negative"))


def label(rows: pd.DataFrame, what: str, folder: Path) -> pd.DataFrame:
    with (
        model.serve() as server,
        po.Client(server.base_url, "local", max_concurrent_requests=model.PARALLEL) as client,
    ):
        return po.label_dataframe(
            rows,
            f"What is the sentiment of this {what}? {{text}}",
            labels=LABELS,
            model=server.model,
            gold="gold",
            temperature=0,
            confidence="logprobs",
            save_to=folder / "answers.jsonl",
            client=client,
        )


if __name__ == "__main__":
    main()
