"""Journals of arbitrary bytes: complete lines are kept, and torn or damaged ones never count as answers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai._journal.entry import JournalEntry
from parallel_openai._journal.journal import Journal
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._journal.lines import read_entries
from parallel_openai._json import dumps
from parallel_openai.errors import JournalError
from parallel_openai.local.simulator import Server
from tests.reliability.fuzz import LINES, PLACE


def entries() -> list[Any]:
    return [entry for _, entry in read_entries(PLACE)]


def test_a_journal_truncated_at_any_byte_keeps_exactly_its_complete_lines() -> None:
    lines = [f'[{{"n":{number}}},{{"a":"Zoë \\n]"}},null,{{"key":"{number}"}}]\n'.encode() for number in range(20)]
    whole = b"".join(lines)
    ends = [len(b"".join(lines[:count])) for count in range(21)]
    for cut in range(len(whole) + 1):
        PLACE.write_bytes(whole[:cut])
        Journal(PLACE, sync="never").close()
        # A line that lacks nothing but its end is whole too.
        count = sum(end <= cut for end in ends) - 1 + (cut + 1 in ends[1:])
        assert PLACE.read_bytes() == b"".join(lines[:count]), f"cut at byte {cut}"


def test_reading_a_journal_skips_a_torn_line_and_does_not_change_the_file() -> None:
    torn = b"".join(LINES[:3]) + LINES[3][:40]
    PLACE.write_bytes(torn)
    assert len(entries()) == 3
    assert PLACE.read_bytes() == torn


@pytest.mark.parametrize("damaged", [0, 1, 10, 19])
@pytest.mark.parametrize("damage", [b"\x00" * 300, b"[{},", b"\xff", b"[1, 2]", b""], ids=repr)
def test_a_damaged_line_is_counted_and_the_others_are_known(damaged: int, damage: bytes) -> None:
    PLACE.write_bytes(b"".join([*LINES[:damaged], damage + b"\n", *LINES[damaged + 1 :]]))
    with Journal(PLACE) as journal:
        journal.append(LINES[damaged].strip())
    known = KnownResults(PLACE)
    known.close()
    assert (len(known), known.damaged_lines) == (20, 1)


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_line_of_which_only_the_end_is_valid_is_damaged_wherever_it_is(damaged: int) -> None:
    good = b'"status":"succeeded","attempts":[]}]\n'
    lines = [b'[{"model":"m"},{"choices":[]},null,{"key":"%032x",%s' % (number, good) for number in range(4)]
    lines[damaged] = lines[damaged].replace(b'{"choices', b'"choices')
    PLACE.write_bytes(b"".join(lines))
    known = KnownResults(PLACE)
    known.close()
    assert [f"{number:032x}" in known for number in range(4) if number != damaged] == [True] * 3


@pytest.mark.parametrize("content", [b"text,stars\nFine.,5", b"one line", b'{"a": 1}\n{"b": 2}', b"\n" * 5], ids=repr)
def test_a_file_that_is_not_a_journal_is_not_truncated(content: bytes) -> None:
    PLACE.write_bytes(content)
    with pytest.raises(JournalError, match="is no file of results"):
        Journal(PLACE)
    assert PLACE.read_bytes() == content


FOREIGN = [
    b'[{"a":1,"b":"x"},{"a":2,"b":"y"}]',
    b'[{"prompt":"p","model":"x"},{"prompt":"q","model":"y"}]',
    b'[{"a":1},{"a":2},{"a":3},{"a":4},{"a":5},{"a":6}]',
    b'[{"a":NaN},{"a":Infinity}]',
    b'[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi."}]',
    b'[{"role":"user","content":"Hi."},{"role":"assistant","content":null,"tool_calls":[]}]\n',
    b'[{"messages":[]},{"messages":[]}]\n',
    b'[{"a":1},{"a":',
    b'[{"a":"\\ud800"},{"a":1}]',
    b"[{'a': 1}, {'a': 2}]",
    b'[{"prompt":"a"},{"completion":"b"}]',
    b'[{"input":"a"},{"output":"b"}]\n',
    b'[{"model":"a","price":1},{"model":"b","price":2,"note":"c"}]\n',
    b'[{"input":"a","id":1},{"input":"b","id":2,"label":"c"}]\n',
    b"[{}]",
    b"[{},{}]",
    b"[{},null]",
    b"[]",
    b"[{",
    b" ",
]


@pytest.mark.parametrize("content", FOREIGN, ids=repr)
def test_a_foreign_file_of_json_lists_is_refused_and_unchanged(content: bytes) -> None:
    PLACE.write_bytes(content)
    for _ in range(2):
        with pytest.raises(JournalError, match="is no file of results"):
            Journal(PLACE)
        assert {each.name: each.read_bytes() for each in Path().iterdir()} == {PLACE.name: content}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_journal_saved_in_another_encoding_is_refused_and_unchanged(encoding: str) -> None:
    content = b"".join(LINES).decode().encode(encoding)
    Path("j.jsonl").write_bytes(content)
    with pytest.raises(JournalError, match="is no file of results"):
        Journal("j.jsonl")
    assert Path("j.jsonl").read_bytes() == content


@pytest.mark.parametrize("content", [each for each in FOREIGN if each not in (b"[{", b" ", FOREIGN[7])], ids=repr)
def test_read_journal_refuses_a_foreign_file_of_json_lists(content: bytes) -> None:
    PLACE.write_bytes(content)
    with pytest.raises(JournalError, match="is no file of results"):
        po.read_journal(PLACE)


@pytest.mark.parametrize(
    "line",
    [
        b'[{"model":"m","messages":[]},{"choices":[]}]',
        b'[{"model":"m","messages":[]},["HTTP 400", "HTTP 400"],{"row":1}]',
        b'[{"input":"a"},{"data":[]},{"row":1}]',
        b'[{},null,{"batch":{"event":"planned","name":"a"}}]',
        b'[{"n":1},{"a":1},null,{"key":"0123"}]',
    ],
    ids=repr,
)
@pytest.mark.parametrize("end", [b"\n", b"", b'\n[{"model"'], ids=["whole", "without its end", "with a torn one"])
def test_a_journal_is_recognised_by_its_first_line_alone(line: bytes, end: bytes) -> None:
    PLACE.write_bytes(line + end)
    Journal(PLACE).close()
    assert PLACE.read_bytes() == line + b"\n"


def test_a_long_file_that_is_not_a_journal_is_not_read_to_its_end() -> None:
    PLACE.write_bytes(b"a\n" * 2000 + LINES[0])
    with pytest.raises(JournalError, match="is no file of results"):
        Journal(PLACE)


@pytest.mark.parametrize("text", ["Say hi.", 'Why is a][{"b":1}] no JSON?'])
@pytest.mark.parametrize("end", [b"", b"\n"], ids=["torn end", "whole end"])
def test_files_joined_without_a_newline_between_them_lose_no_answer(server: Server, text: str, end: bytes) -> None:
    rows = pd.DataFrame({"text": [f"{number}. {text}" for number in range(4)]})
    with po.Client(server.base_url) as client:
        ask = partial(po.process_dataframe, prompt="text", model="gpt-4o-mini", client=client, progress=False)
        first = ask(rows[:2], save_to="a.jsonl"), ask(rows[2:], save_to="b.jsonl")
        joined = Path("a.jsonl").read_bytes().strip() + Path("b.jsonl").read_bytes().strip() + end
        Path("joined.jsonl").write_bytes(joined)
        out = ask(rows, save_to="joined.jsonl")
    assert out["response"].tolist() == pd.concat(first)["response"].tolist()
    assert server.stats(charged=False)["received"] == 4
    assert Path("joined.jsonl").read_bytes() == joined + (b"" if end else b"\n")
    assert len(po.read_journal("joined.jsonl")) == 4


@pytest.mark.parametrize("answer", [{"choices": []}, ["refused"]], ids=["answered", "failed"])
@pytest.mark.parametrize("metadata", [(), ("row 1",), ([1],), ({"row": 1},)], ids=repr)
def test_lines_of_any_kind_that_were_joined_are_both_read(answer: Any, metadata: tuple[Any, ...]) -> None:
    line = dumps([{"model": "m", "prompt": "a"}, answer, *metadata])
    PLACE.write_bytes(line + line + b"\n" + line + line[:-9] + b"\n" + line + b"\n")
    good, damaged = JournalEntry.read(line), None
    assert entries() == [good, good, good, damaged, good]
