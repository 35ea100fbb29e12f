"""Nothing is paid for twice: the journal, and resuming from it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from parallel_openai import Client, aprocess_dataframe
from parallel_openai._frames.columns.answer_columns import COLUMNS
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai.errors import JournalError, JournalLockedError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, journal_of


def received(server: Server) -> int:
    count: int = server.stats(charged=False)["received"]
    return count


def test_running_again_sends_nothing_and_gives_the_same(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    first = ask(reviews, "text")
    again = ask(reviews, "text")
    assert received(server) == 3
    pd.testing.assert_frame_equal(again, first)


def test_the_closing_line_counts_answers_from_the_journal(ask: Verb, reviews: pd.DataFrame) -> None:
    ask(reviews, "text")
    about = ask(reviews, "text").attrs["parallel_openai"]
    assert (about["restored"], about["requests_sent"], about["cost_usd"]) == (3, 0, 0)


def test_only_edited_and_added_rows_are_sent(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    ask(reviews, "text")
    edited = pd.concat([reviews[::-1], pd.DataFrame({"text": ["Too big."], "stars": [2]})], ignore_index=True)
    edited.loc[0, "text"] = "Edited."
    out = ask(edited, "text")
    assert received(server) == 5
    assert [answer.split(maxsplit=1)[1][:5] for answer in out["response"]] == ["Edite", "It br", "A won", "Too b"]


def test_a_changed_prompt_sends_all_rows(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    ask(reviews, "Good? {text}")
    ask(reviews, "Bad? {text}")
    ask(reviews, "Good? {text}", temperature=0)
    ask(reviews, "Good? {text}", model="gpt-4o")
    assert received(server) == 12


def test_each_prompt_has_its_own_journal_in_a_private_folder(ask: Verb, reviews: pd.DataFrame) -> None:
    journals = {journal_of(ask(reviews, "Good? {text}")), journal_of(ask(reviews, "Bad? {text}"))}
    assert {path.parent for path in journals} == {Path(".parallel_openai")}
    assert len(journals) == 2
    assert Path(".parallel_openai/.gitignore").read_text().endswith("\n*\n")


def test_an_empty_gitignore_in_the_folder_is_written_again(ask: Verb, reviews: pd.DataFrame) -> None:
    Path(".parallel_openai").mkdir()
    Path(".parallel_openai/.gitignore").touch()
    ask(reviews, "text")
    assert Path(".parallel_openai/.gitignore").read_text().endswith("\n*\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_the_journal_is_for_its_owner_only(ask: Verb, reviews: pd.DataFrame) -> None:
    path = journal_of(ask(reviews, "text"))
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_metadata_columns_do_not_change_the_request_key(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    ask(reviews, "text")
    ask(reviews, "text", metadata="stars")
    assert received(server) == 3


def test_more_samples_send_only_the_additional_ones(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    ask(reviews, "text", save_to="answers.jsonl")
    ask(reviews, "text", save_to="answers.jsonl", samples=3)
    assert received(server) == 9


def test_a_failed_row_is_sent_again(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    server.script([400], matching="terrible")
    assert ask(reviews, "text")["status"].tolist() == ["succeeded", "failed", "succeeded"]
    out = ask(reviews, "text")
    assert received(server) == 4
    assert out["status"].tolist() == ["succeeded"] * 3
    assert out["error"].isna().all()


def test_with_retry_failed_false_failed_rows_are_not_sent_again(
    ask: Verb, reviews: pd.DataFrame, server: Server
) -> None:
    server.script([400], matching="terrible")
    first = ask(reviews, "text")
    again = ask(reviews, "text", retry_failed=False)
    assert received(server) == 3
    pd.testing.assert_frame_equal(again, first)


def test_a_prompt_function_may_return_another_prompt_for_a_failed_row(
    ask: Verb, reviews: pd.DataFrame, server: Server, tmp_path: Path
) -> None:
    said = iter(["One.", "Two.", "Three.", "One.", "Two.", "Three.", "Four.", "One."])
    df, path = pd.concat([reviews, reviews[:1]], ignore_index=True), tmp_path / "answers.jsonl"
    server.script([400], matching="Three.")
    first = ask(reviews, lambda row: next(said), save_to=path)
    assert first["status"].tolist() == ["succeeded", "succeeded", "failed"]
    again = ask(df, lambda row: next(said), save_to=path)  # of the failed row it says One. the second time
    assert again["status"].tolist() == ["succeeded"] * 4
    assert again["request_key"][2] == again["request_key"][0]
    assert received(server) == 4


def test_an_off_label_answer_is_requested_again_and_replaced(label: Verb, server: Server) -> None:
    df = pd.DataFrame({"text": ["great"]})
    server.set(fault_off_schema=1)
    assert label(df, "text", labels=["good", "bad"])["error_code"].tolist() == ["off_label"]
    server.set(fault_off_schema=0)
    out = label(df, "text", labels=["good", "bad"])
    assert received(server) == 2
    assert out["status"].tolist() == ["succeeded"]
    assert out[["error_code", "error"]].isna().all(axis=None)


def test_with_retry_failed_false_an_off_label_answer_is_kept(label: Verb, server: Server) -> None:
    df = pd.DataFrame({"text": ["great"]})
    server.set(fault_off_schema=1)
    first = label(df, "text", labels=["good", "bad"])
    again = label(df, "text", labels=["good", "bad"], retry_failed=False)
    assert received(server) == 1
    pd.testing.assert_frame_equal(again, first)


def test_save_to_sets_the_path_of_the_journal(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text", save_to=Path("deep/er/answers.jsonl"))
    assert journal_of(out) == Path("deep/er/answers.jsonl")
    assert len(Path("deep/er/answers.jsonl").read_bytes().splitlines()) == 3
    assert not Path(".parallel_openai").exists()


def test_two_prompts_may_share_a_journal(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    for _ in range(2):
        ask(reviews, "Good? {text}", save_to="answers.jsonl")
        ask(reviews, "Bad? {text}", save_to="answers.jsonl")
    assert received(server) == 6


def test_a_torn_last_line_sends_one_row_again(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    path = journal_of(ask(reviews, "text"))
    path.write_bytes(path.read_bytes()[:-20])
    out = ask(reviews, "text")
    assert received(server) == 4
    assert out["status"].tolist() == ["succeeded"] * 3
    assert len([json.loads(line) for line in path.read_bytes().splitlines()]) == 3


@pytest.mark.parametrize("damage", [b"\x00" * 40, b"{}", b'["', b"\xff\xfe", b"[[1],{}]", b"[{},{},null,{}]"], ids=repr)
def test_a_damaged_line_sends_one_row_again(ask: Verb, reviews: pd.DataFrame, server: Server, damage: bytes) -> None:
    path = journal_of(ask(reviews, "text"))
    first, _, last = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join((first, damage, last, b"")))
    assert ask(reviews, "text")["status"].tolist() == ["succeeded"] * 3
    assert received(server) == 4


@pytest.mark.parametrize("content", ["text,stars\nFine.,5\n", '{"text": "Fine."}\n', "plain text"], ids=repr)
def test_a_file_that_is_not_a_journal_is_refused_and_unchanged(
    ask: Verb, reviews: pd.DataFrame, server: Server, content: str
) -> None:
    Path("data.csv").write_text(content)
    with pytest.raises(JournalError, match=r"data.csv is no file of results.*another path"):
        ask(reviews, "text", save_to="data.csv")
    assert Path("data.csv").read_text() == content
    assert received(server) == 0


def test_a_folder_as_journal_is_refused(ask: Verb, reviews: pd.DataFrame) -> None:
    Path("answers").mkdir()
    with pytest.raises(JournalError, match="answers cannot be opened: Is a directory"):
        ask(reviews, "text", save_to="answers")


def test_a_path_whose_folder_cannot_be_created_is_an_error(ask: Verb, reviews: pd.DataFrame) -> None:
    Path(".parallel_openai").write_text("in the way")
    with pytest.raises(JournalError, match=r"\.parallel_openai for the answers cannot be made or read.*save_to="):
        ask(reviews, "text")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a folder that somebody works in")
def test_a_removed_working_directory_is_an_error(
    ask: Verb, reviews: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(JournalError, match=r"\.parallel_openai for the answers cannot be made or read.*save_to="):
        ask(reviews, "text")


def test_a_journal_in_use_is_an_error_that_names_the_process(ask: Verb, reviews: pd.DataFrame) -> None:
    with Journal("answers.jsonl"), pytest.raises(JournalLockedError, match=f"process {os.getpid()}"):
        ask(reviews, "text", save_to="answers.jsonl")


def test_a_journal_in_use_is_an_error_in_async_calls_too(client: Client, reviews: pd.DataFrame) -> None:
    call = aprocess_dataframe(reviews, "text", model="m", client=client, save_to="answers.jsonl", progress=False)
    with Journal("answers.jsonl"), pytest.raises(JournalLockedError, match=f"process {os.getpid()}"):
        asyncio.run(call)


def test_simulated_answers_count_for_the_simulator_only(ask: Verb, reviews: pd.DataFrame) -> None:
    path = journal_of(ask(reviews, "text"))
    for simulated, count in ((True, 3), (False, 0)):
        known = KnownResults(path, simulated=simulated)
        assert len(known) == count
        known.close()


def test_rows_from_the_journal_have_every_column(ask: Verb, reviews: pd.DataFrame) -> None:
    ask(reviews, "text")
    out = ask(reviews, "text")
    assert out[[name for name in COLUMNS if "error" not in name]].notna().all(axis=None)


def test_many_known_rows_are_read_quickly(ask: Verb, server: Server) -> None:
    df = pd.DataFrame({"text": [f"Review {n}" for n in range(450)]})
    first = ask(df, "text")
    pd.testing.assert_frame_equal(ask(df, "text"), first)
    assert received(server) == 450
