"""What waits in a batch is not paid for a second time in another lane."""

from __future__ import annotations

from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai.local.simulator import Server
from tests.batch.conftest import DAY, Verb, charged, counts, lane, texts


@pytest.mark.parametrize("other", ["online", "flex"])
def test_another_lane_sends_only_the_rows_that_are_in_no_batch(
    ask: Verb, server: Server, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set(batch_speed=1.0)
    ask(texts(4), lane=lane(wait=False), model="o4-mini")
    out = ask(texts(6), lane=other, model="o4-mini", progress=True)
    assert out["error_code"].isin(["in_batch"]).tolist() == [True] * 4 + [False] * 2
    assert counts(out) == {"cancelled": 4, "succeeded": 2}
    assert "4 requests wait in a batch since " in out["error"][0]
    assert 'lane="batch"' in capsys.readouterr().err
    server.set(batch_speed=5 * DAY)
    assert counts(ask(texts(6), model="o4-mini")) == {"succeeded": 6}
    assert charged(server) == [1]


def test_labels_and_samples_that_wait_in_a_batch_are_not_sent(
    client: po.Client, server: Server, tmp_path: Path
) -> None:
    server.set(batch_speed=1.0)

    def label(samples: int, where: object) -> dict[str, int]:
        how = {"samples": samples, "lane": where, "save_to": tmp_path / "labels.jsonl", "progress": False}
        return counts(
            po.label_dataframe(texts(2), "text", labels=["a", "b"], model="gpt-4o-mini", client=client, **how)
        )

    label(1, lane(wait=False))
    label(2, "online")
    assert server.stats()["received"] == 2
