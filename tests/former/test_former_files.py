"""Files written by earlier versions still work: the same call resumes from them and sends nothing again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import parallel_openai as po
from parallel_openai._batch.batch_state import live_parts
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._ray.worker_journals import Index, KnownParts, scan
from parallel_openai.local.simulator import Server
from tests.former import calls

FILES = Path(__file__).with_name("files")


@pytest.fixture(params=sorted(path.name for path in FILES.iterdir()))
def former(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Path:
    """The files as they would be if that version had asked this server."""
    folder = tmp_path / "former"
    shutil.copytree(FILES / request.param, folder)
    for path in folder.rglob("*.*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(calls.PLACE.encode(), server.base_url.encode()))
    return folder


@pytest.fixture
def given(client: po.Client) -> dict[str, Any]:
    return {"client": client, "progress": False}


def sent(server: Server) -> int:
    return int(server.stats(charged=False)["received"])


@pytest.mark.parametrize("kind", [*calls.FRAMES, "batch"])
def test_a_journal_of_an_earlier_version_answers_the_same_call(
    former: Path, kind: str, server: Server, given: dict[str, Any]
) -> None:
    call = {**calls.FRAMES, "batch": calls.batch}[kind]
    out = call(save_to=former / f"{kind}.jsonl", **given)
    assert out["status"].tolist() == ["succeeded"] * 3 + ["failed"]
    assert out["error_code"].tolist()[3] == "missing_prompt"
    assert sent(server) == 0
    assert po.read_journal(former / f"{kind}.jsonl")["status"].eq("succeeded").all()


def test_results_of_an_earlier_version_are_not_requested_again(former: Path, server: Server, client: po.Client) -> None:
    says_where = (former / "results.jsonl.origins").exists()
    status = po.process_api_requests_from_file(
        former / "requests.jsonl", former / "results.jsonl", client=client, resume_from_anywhere=not says_where
    )
    assert (status.num_tasks_restored, sent(server)) == (2, 0)


def test_batches_of_an_earlier_version_are_collected_and_not_submitted_again(
    former: Path, server: Server, given: dict[str, Any]
) -> None:
    server.set(batch_speed=1.0)
    calls.batch(save_to=former / "now.jsonl", lane=po.BatchLane(wait=False), **given)
    server.set(batch_speed=5 * 86_400)
    journal = former / "waiting.jsonl"
    [before], [now] = live_parts(journal), live_parts(former / "now.jsonl")
    text = journal.read_text("utf-8").replace(str(before.file_id), str(now.file_id))
    journal.write_text(text.replace(str(before.batch_id), str(now.batch_id)), "utf-8")
    out = calls.batch(save_to=journal, lane=po.BatchLane(poll_seconds=0.02), **given)
    assert out["status"].tolist() == ["succeeded"] * 3 + ["failed"]
    assert server.stats()["batches"]["created"] == 1


def test_cluster_workers_know_the_answers_of_an_earlier_versions_journals(former: Path) -> None:
    paths = [str(path) for path in sorted((former / "dataset").glob("*.jsonl"))]
    with Path(paths[0]).open("a") as damaged:
        damaged.write('[{"model":"m"},{"choices":[]},null,{"key":"no digest","status":"succeeded","version":1}]\n')
    known = KnownParts([], Index.of(paths, [scan(paths, 0, False, True)]))
    requests = list(RequestBuilder("Say {text}", "gpt-4o-mini").requests(calls.ROWS[:3]))
    assert len(paths) == 2
    assert [getattr(known.get(each), "status", None) for each in requests] == ["succeeded"] * 3  # type: ignore[arg-type]
    assert [known.status(each.key) for each in requests] == ["finished"] * 3  # type: ignore[union-attr]


def test_a_frame_saved_by_an_earlier_version_is_recognised(former: Path) -> None:
    out = po.load(former / "labels.csv")
    out["right"] = ["positive", "negative", "positive", None]
    assert po.evaluate(out, gold="right").rows == 3
    assert "Row 0" in str(po.explain(out, 0))
    out.attrs["parallel_openai"]["journal"] = str(former / "labels.jsonl")
    po.to_jsonl(out, former / "train.jsonl", format="results")
    assert len((former / "train.jsonl").read_bytes().splitlines()) == 3
    review = po.review(out, text="text", save_to=former / "labels.review.jsonl")
    assert (review.reviewed, review.frame()["label_reviewed"].tolist()[1]) == (1, "negative")
    assert review.frame()["review_note"].tolist()[1] == "Yes."
