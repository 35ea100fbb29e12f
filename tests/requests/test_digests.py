"""The index of finished requests: a few bytes each, and read without parsing the lines."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from parallel_openai._journal.answer_counts import AnswerCounts
from parallel_openai._journal.digest_index import DigestTable, digest_of, digest_of_key
from parallel_openai._journal.entry import result_line
from parallel_openai._journal.known_results import KnownResults
from parallel_openai._records import APIRequest, Result

REQUESTS = [APIRequest({"model": "m", "messages": [{"role": "user", "content": str(n)}]}) for n in range(50)]
LINES = [result_line(Result(each, "succeeded", raw=b'{"id": "text"}'), record=True) + b"\n" for each in REQUESTS]
PLACE = Path("answers.jsonl")


def known(content: bytes) -> KnownResults:
    PLACE.write_bytes(content)
    return KnownResults(PLACE)


def test_the_digest_index_behaves_like_a_dict() -> None:
    chance, table, plain = random.Random(5), DigestTable(), dict[int, int]()
    for _ in range(20_000):
        digest = digest_of(str(chance.randrange(8000)))
        table[digest] = plain[digest] = chance.randrange(1, 1 << 50)
    assert len(table) == len(plain)
    assert all(table[digest] == number for digest, number in plain.items())


def test_a_digest_added_twice_keeps_its_first_number() -> None:
    table = DigestTable()
    assert [table.add(5, 1), table.add(5, 2), table[5], len(table)] == [0, 1, 1, 1]


@pytest.mark.parametrize("key", ["", "no digest", "-1"])
def test_an_invalid_digest_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"digest|base 16"):
        digest_of_key(key)


def test_finished_requests_count_answers_and_forget_a_failure_that_succeeded_later() -> None:
    finished = AnswerCounts()
    for good in (False, True, True):
        finished.put(1, good=good)
    finished.put(2, good=False)
    assert (finished.count(1), finished.has_failed(1), finished.has_failed(2), len(finished)) == (2, False, True, 2)
    assert [finished.take(digest) for digest in (1, 1, 1, 2, 3)] == [True, True, False, False, False]


def test_an_answer_damaged_within_its_line_is_requested_again() -> None:
    found = known(b"".join([*LINES[:7], LINES[7].replace(b'"text"', b'"te"xt'), *LINES[8:]]))
    assert [found.get(request) is not None for request in REQUESTS].count(False) == 1
    assert (found.get(REQUESTS[7]), found.damaged_lines > 0) == (None, True)
    found.close()


def test_an_answer_to_another_request_with_a_similar_digest_is_not_used() -> None:
    key = REQUESTS[0].key
    other = key[:20] + ("0" if key[20] != "0" else "1") + key[21:]
    found = known(LINES[0].replace(key.encode(), other.encode()))
    assert found.get(REQUESTS[0]) is None
    found.close()


@pytest.mark.parametrize("key", ["-100000000000000123456789abcdef00", "no digest", "", "-1"])
def test_a_key_of_another_format_does_not_stop_a_run(key: str) -> None:
    found = known(LINES[1] + LINES[0].replace(REQUESTS[0].key.encode(), key.encode()))
    assert len(found) == 1
    found.close()
    assert APIRequest({"model": "m"}).key not in found


def test_text_that_looks_like_a_record_within_a_request_is_ignored() -> None:
    fake = ',{"key":"' + "a" * 32 + '","status":"succeeded"}]'
    request = APIRequest(
        {"model": "m", "messages": [], "tools": [1, {"key": "a" * 32, "status": "succeeded"}], "x": fake}
    )
    found = known(result_line(Result(request, "failed", errors=("no",), error="no"), record=True) + b"\n")
    assert (request.key in found, found.was_tried(request.key), "a" * 32 in found) == (False, True, False)
    found.close()


def test_text_that_looks_like_a_record_within_a_repair_is_ignored() -> None:
    record = {"key": "a" * 32, "status": "succeeded"}
    sent = APIRequest({"model": "m", "messages": [], "tools": [1, record]})
    result = Result(REQUESTS[0], "succeeded", raw=b'{"id": "text"}', sent=sent)
    found = known(result_line(result, record=True) + b"\n")
    assert (REQUESTS[0].key in found, "a" * 32 in found) == (True, False)
    found.close()
