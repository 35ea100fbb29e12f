"""Names in a journal, which is not trusted, never lead out of the run's own folder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._batch import batch_state as state
from parallel_openai._batch.submitting.input_files import InputFiles
from tests.batch.conftest import Verb, lane, texts
from tests.batch.scripted import Scripted


@pytest.mark.parametrize("name", ["/home/me/thesis", "../thesis", "a/b", "a\\b", "..", "", "a\0b", 7, None])
def test_a_part_with_an_unsafe_name_is_skipped(tmp_path: Path, name: object) -> None:
    journal = tmp_path / "answers.jsonl"
    good = state.Part("part-1", "gpt-4o-mini", "chat/completions", 1, 10, 5, 1, 0.0, True)
    bad = state.Part(name, "gpt-4o-mini", "chat/completions", 1, 10, 5, 1, 0.0, True)  # type: ignore[arg-type]
    lines = [state.planned(bad), state.planned(good)]
    journal.write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))
    assert [part.name for part in state.live_parts(journal)] == ["part-1"]


def test_a_folder_of_parts_that_is_a_link_is_refused_and_nothing_in_its_target_is_removed(client: po.Client) -> None:
    thesis = Path("thesis")
    thesis.mkdir()
    for name in ("chapter-0001.jsonl", "chapter.rows", "notes.error"):
        (thesis / name).write_text("years of work")
    Path("answers.jsonl.batches").symlink_to(thesis.absolute())
    ask = pd.DataFrame({"text": ["a"]})
    with pytest.raises(po.errors.JournalError, match="is a link"):
        po.process_dataframe(ask, "text", model="m", client=client, lane="batch", save_to="answers.jsonl")
    assert sorted(each.name for each in thesis.iterdir()) == ["chapter-0001.jsonl", "chapter.rows", "notes.error"]


@pytest.mark.parametrize("name", ["cancelled", "{}.output", "{}.error", "{}.jsonl", "{}.rows"])
def test_a_file_of_a_batch_that_is_a_link_is_refused_and_its_target_stays_as_it_is(
    scripted: Scripted, submit: Verb, tmp_path: Path, name: str
) -> None:
    scripted.on_end = lambda batch, asked: None
    submit(texts(2), lane=lane(wait=False))
    thesis, journal = tmp_path / "thesis", tmp_path / "answers.jsonl"
    thesis.write_text("years of work")
    [part] = state.live_parts(journal)
    link = InputFiles(journal).folder / name.format(part.name)
    link.unlink(missing_ok=True)
    link.symlink_to(thesis)
    [batch] = scripted.batches.values()
    asked = [json.loads(line) for line in scripted.files[batch["input_file_id"]].splitlines()]
    batch["error_file_id"] = scripted.file(scripted.failed(asked[1]))
    batch["output_file_id"] = scripted.file(scripted.line(asked[0]))
    scripted.end(batch, 1, 1)
    manage = po.cancel_batches if name == "cancelled" else partial(po.collect_batches, progress=False, lane=lane())
    with pytest.raises(po.errors.JournalError, match=r"answers\.jsonl\.batches.* is a link"):
        manage(journal, client=po.Client(scripted.base_url, api_key="sk-none"))  # type: ignore[operator]
    assert thesis.read_text() == "years of work"


def test_only_files_named_like_parts_are_removed() -> None:
    spool = InputFiles(Path("answers.jsonl"))
    spool.folder.mkdir()
    for name in ("run-0001.jsonl", "run-0001.rows", "run-0002.jsonl", "thesis.jsonl", "thesis.txt"):
        (spool.folder / name).write_text("{}")
    spool.tidy({"run-0002"})
    assert sorted(each.name for each in spool.folder.iterdir()) == ["run-0002.jsonl", "thesis.jsonl", "thesis.txt"]
