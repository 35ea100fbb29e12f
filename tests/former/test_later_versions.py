"""Files written by a later version are refused with a message rather than misread."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai._frames.columns.run_info import RunInfo, runs_of
from parallel_openai.errors import InvalidInputError, JournalError
from parallel_openai.local.simulator import Server
from tests.former import calls

LATER = re.compile(rb'"version":1,')


def later(path: Path) -> Path:
    path.write_bytes(LATER.sub(b'"version":2,', path.read_bytes()))
    return path


def test_a_journal_of_a_later_version_is_refused_before_anything_is_sent(
    server: Server, client: po.Client, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    out = calls.chat(save_to=path, client=client, progress=False)
    sent = server.stats(charged=False)["received"]
    whole = later(path).read_bytes()
    readers = [
        lambda: calls.chat(save_to=path, client=client, progress=False),
        lambda: po.read_journal(path),
        lambda: po.peek(path),
        lambda: po.explain(out, 0),
        lambda: po.to_jsonl(out, tmp_path / "results.jsonl", format="results"),
    ]
    for read in readers:
        with pytest.raises(JournalError, match=r"answers\.jsonl holds a line of version 2 of the journal.*Update it"):
            read()
    assert server.stats(charged=False)["received"] == sent
    assert path.read_bytes() == whole


def test_another_journal_of_a_later_version_is_skipped(
    server: Server, client: po.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls.chat(client=client, progress=False)
    [path] = Path(".parallel_openai").glob("*.jsonl")
    later(path.rename(path.with_name(re.sub("-[0-9a-f]{12}", "-0123456789ab", path.name))))
    out = calls.chat(client=client, progress=False)
    assert out["status"].tolist() == ["succeeded"] * 3 + ["failed"]
    assert server.stats(charged=False)["received"] == 4


def test_a_frame_of_a_later_version_is_refused_and_accepted_without_its_attrs(
    client: po.Client, server: Server
) -> None:
    out = calls.labels(client=client, progress=False)
    assert out.attrs["parallel_openai"]["version"] == 1
    sent = server.stats(charged=False)["received"]
    out.attrs["parallel_openai"]["version"] = 2
    uses = [
        lambda: po.explain(out, 0),
        lambda: po.review(out, text="text"),
        lambda: po.evaluate(out, gold="text"),
        lambda: po.to_jsonl(out, "out.jsonl", format="results"),
        lambda: po.label_dataframe(out, "text", labels=calls.LABELS, model="m", client=client, progress=False),
    ]
    for use in uses:
        with pytest.raises(InvalidInputError, match=r"attrs are of version 2, .* reads up to 1\. Update"):
            use()
    assert server.stats(charged=False)["received"] == sent
    out.attrs.pop("parallel_openai")
    assert po.evaluate(out, gold="label").accuracy == 1.0


def test_the_run_info_in_a_frames_attrs_round_trips(client: po.Client) -> None:
    once = po.label_dataframe(calls.ROWS, "text", labels=["a", "b"], model="m", client=client, progress=False)
    out = po.process_dataframe(once, "text", model="m", prefix="own_", client=client, progress=False)
    said = out.attrs["parallel_openai"]
    said["of another program"] = [1]
    info = RunInfo.load(said)
    assert info is not None
    assert info.dump() == said
    assert [(run.prefix, run.answer) for run in runs_of(out)] == [("own_", "response"), ("", "label")]
    assert info.report["requests_sent"] == 2
    for few in (RunInfo(), RunInfo(labels={"label": {"kind": "one"}})):
        assert RunInfo.load(few.dump()) == few


@pytest.mark.parametrize("told", [7, {"labels": ["a"]}, {"prefix": None}, {"columns": [{}]}, {"version": "2"}])
def test_attrs_not_written_by_a_run_are_ignored(told: object) -> None:
    df = calls.ROWS.copy()
    df.attrs["parallel_openai"] = told
    assert runs_of(df) == []
