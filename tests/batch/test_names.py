"""A journal may come from a stranger: no name in it leads out of the run's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallel_openai.batch import state


@pytest.mark.parametrize("name", ["/home/me/thesis", "../thesis", "a/b", "a\\b", "..", "", "a\0b", 7, None])
def test_a_part_whose_name_is_no_plain_name_is_passed_over(tmp_path: Path, name: object) -> None:
    journal = tmp_path / "answers.jsonl"
    good = state.Part("part-1", "gpt-4o-mini", "chat/completions", 1, 10, 5, 1, 0.0, True)
    bad = state.Part(name, "gpt-4o-mini", "chat/completions", 1, 10, 5, 1, 0.0, True)  # type: ignore[arg-type]
    lines = [state.planned(bad), state.planned(good)]
    journal.write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))
    assert [part.name for part in state.live_parts(journal)] == ["part-1"]
