"""What a later version wrote is not read as if it were of this one; a sentence says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import parallel_openai as po
from parallel_openai.errors import JournalError
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


def test_a_neighbouring_journal_of_a_later_version_is_passed_over(
    server: Server, client: po.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls.chat(client=client, progress=False)
    [path] = Path(".parallel_openai").glob("*.jsonl")
    later(path.rename(path.with_name(re.sub("-[0-9a-f]{12}", "-0123456789ab", path.name))))
    out = calls.chat(client=client, progress=False)
    assert out["status"].tolist() == ["succeeded"] * 3 + ["failed"]
    assert server.stats(charged=False)["received"] == 4
