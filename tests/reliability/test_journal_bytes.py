"""Whatever bytes a file of results holds: whole lines are kept, torn and damaged ones are not taken for answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parallel_openai as po
from parallel_openai.engine.journal import Journal, parse_line, read_entries
from parallel_openai.engine.resume import KnownResults
from parallel_openai.errors import JournalError
from parallel_openai.records import APIRequest

PLACE = Path("journal.jsonl")


def line(number: int, *, key: str | None = None, answer: Any = None) -> bytes:
    request = APIRequest({"model": "m", "messages": [{"role": "user", "content": f"Zoë asks {number}?"}]})
    record = {"key": key or request.key, "status": "succeeded", "attempts": [{"at": 1.0, "status": 200}]}
    body = {"choices": [{"message": {"content": "[{}]\\n"}}]} if answer is None else answer
    return json.dumps([request.request_json, body, None, record], ensure_ascii=False).encode() + b"\n"


LINES = [line(number) for number in range(20)]


def entries() -> list[Any]:
    return [entry for _, entry in read_entries(PLACE)]


def test_a_journal_cut_at_any_byte_opens_with_exactly_the_whole_lines() -> None:
    lines = [f'[{{"n":{number}}},{{"a":"Zoë \\n]"}},null,{{"key":"{number}"}}]\n'.encode() for number in range(20)]
    whole = b"".join(lines)
    ends = [len(b"".join(lines[:count])) for count in range(21)]
    for cut in range(len(whole) + 1):
        PLACE.write_bytes(whole[:cut])
        Journal(PLACE, sync="never").close()
        # A line that lacks nothing but its end is whole too.
        count = sum(end <= cut for end in ends) - 1 + (cut + 1 in ends[1:])
        assert PLACE.read_bytes() == b"".join(lines[:count]), f"cut at byte {cut}"


def test_reading_a_torn_journal_leaves_the_torn_line_out_and_alone() -> None:
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


@pytest.mark.parametrize("content", [b"text,stars\nFine.,5", b"one line", b'{"a": 1}\n{"b": 2}', b"\n" * 5], ids=repr)
def test_the_end_of_a_file_that_is_something_else_is_not_cut_off(content: bytes) -> None:
    PLACE.write_bytes(content)
    with pytest.raises(JournalError, match="is no file of results"):
        Journal(PLACE)
    assert PLACE.read_bytes() == content


def test_a_long_file_that_is_something_else_is_not_read_to_its_end() -> None:
    PLACE.write_bytes(b"a\n" * 2000 + LINES[0])
    with pytest.raises(JournalError, match="is no file of results"):
        Journal(PLACE)


pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(LINES),
    st.sampled_from(LINES).flatmap(lambda each: st.integers(0, len(each)).map(lambda end: each[:end])),
    st.just(b"\n"),
)
oddities = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def opens_and_keeps_what_is_whole(content: bytes) -> None:
    PLACE.write_bytes(content)
    whole = [each for each in content.split(b"\n") if parse_line(each) is not None]
    try:
        with Journal(PLACE, sync="never") as journal:
            journal.append(LINES[0].strip())
    except JournalError:
        assert not whole
        assert PLACE.read_bytes() == content
        return
    after = PLACE.read_bytes()
    assert [each for each in after.split(b"\n") if parse_line(each) is not None] == [*whole, LINES[0].strip()]
    assert after.endswith(b"\n")
    assert len(po.read_journal(PLACE)) <= len(whole) + 1


@settings(max_examples=200)
@given(st.lists(pieces, max_size=8).map(b"".join))
def test_any_bytes_open_or_are_refused_and_no_whole_line_is_lost(content: bytes) -> None:
    opens_and_keeps_what_is_whole(content)


def reads_any_record(answer: Any, record: Any) -> None:
    request = APIRequest({"model": "m", "messages": []})
    if isinstance(record, dict):
        record = {**record, "key": request.key}
    text = json.dumps([{"model": "m", "messages": []}, answer, None, record]).encode() + b"\n"
    PLACE.write_bytes(LINES[0] + text)
    known = KnownResults(PLACE, failures=True)
    result = known.get(request)
    known.close()
    assert (result is not None) == isinstance(record, dict)
    assert len(po.read_journal(PLACE)) == 2


RECORDS = st.fixed_dictionaries({}, optional=dict.fromkeys(("attempts", "error", "error_code", "status"), oddities))
ATTEMPTS = st.lists(st.dictionaries(st.sampled_from(["at", "seconds", "status", "request_id"]), oddities), max_size=3)


@settings(max_examples=200)
@given(oddities, st.one_of(oddities, RECORDS, ATTEMPTS.map(lambda attempts: {"attempts": attempts})))
def test_whatever_a_line_holds_beside_its_request_stops_no_run(answer: Any, record: Any) -> None:
    reads_any_record(answer, record)
