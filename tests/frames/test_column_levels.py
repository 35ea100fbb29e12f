"""Frames whose columns have several levels: their labels are used as those of any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from tests.frames.conftest import Verb

LABELS = ["good", "bad"]
FLAT = pd.DataFrame(
    {"text": ["A good one.", "A bad one.", "Good.", "Bad."], "gold": ["good", "bad", "bad", "bad"], "n": range(4)}
)
LEVELS = FLAT.set_axis(pd.MultiIndex.from_tuples([("text", ""), ("gold", ""), ("shop", "n")]), axis=1)


def exported(out: pd.DataFrame, form: Any) -> bytes:
    po.to_jsonl(out, "out.jsonl", format=form)
    return Path("out.jsonl").read_bytes()


def reviewed(out: pd.DataFrame) -> pd.DataFrame:
    review = po.review(out, save_to="corrections.jsonl")
    review.correct(0, "bad", note="no")
    return review.frame()


USES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "evaluate": lambda out: (po.evaluate(out).accuracy, po.evaluate(out).cost_usd, po.evaluate(out).ece),
    "evaluate what was reviewed": lambda out: po.evaluate(reviewed(out), label="label_reviewed").accuracy,
    "agreement": lambda out: po.agreement({"model": out, "gold": out["gold"]}).cohen_kappa,
    "review": lambda out: [po.review(out).item(each) for each in range(4)],
    "corrections": lambda out: reviewed(out)["label_reviewed"].astype(str).tolist(),
    "label-studio": lambda out: exported(reviewed(out), "label-studio"),
    "argilla": lambda out: exported(reviewed(out), "argilla"),
    "results": lambda out: exported(out, "results"),
    "batch": lambda out: exported(out, "batch"),
    "fine-tuning": lambda out: exported(reviewed(out), "fine-tuning"),
    "explain": lambda out: po.explain(out, 1).sends,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.filterwarnings("ignore:For fine-tuning")
def test_every_use_of_labels_has_the_same_result(label: Verb, use: Callable[[pd.DataFrame], Any]) -> None:
    flat, levels = (
        label(frame, "Is {text}?", labels=LABELS, confidence="logprobs", gold="gold", save_to="answers.jsonl")
        for frame in (FLAT, LEVELS)
    )
    assert use(levels) == use(flat)


def test_variants_are_compared(client: po.Client) -> None:
    flat, levels = (
        po.compare(
            frame,
            {"v1": "Is {text}?", "v2": "Is it {text}?"},
            labels=LABELS,
            gold="gold",
            model="gpt-4o-mini",
            client=client,
            progress=False,
        )
        for frame in (FLAT, LEVELS)
    )
    pd.testing.assert_frame_equal(levels.table, flat.table)
