"""What is known of finished requests, in a few bytes for each, and read without parsing the lines."""

from __future__ import annotations

import random
from hashlib import blake2b
from pathlib import Path

import pytest

from parallel_openai.engine.digests import DigestTable
from parallel_openai.engine.finished import FinishedRequests
from parallel_openai.engine.resume import KnownResults, result_line
from parallel_openai.records import APIRequest, Result

REQUESTS = [APIRequest({"model": "m", "messages": [{"role": "user", "content": str(n)}]}) for n in range(50)]
LINES = [result_line(Result(each, "succeeded", raw=b'{"id": "text"}'), record=True) + b"\n" for each in REQUESTS]
PLACE = Path("answers.jsonl")


def known(content: bytes) -> KnownResults:
    PLACE.write_bytes(content)
    return KnownResults(PLACE)


def test_a_table_holds_what_a_dict_does() -> None:
    chance, table, plain = random.Random(5), DigestTable(), dict[str, int]()
    for _ in range(20_000):
        digest = blake2b(str(chance.randrange(8000)).encode()).hexdigest()
        table[digest] = plain[digest] = chance.randrange(1, 1 << 50)
    assert len(table) == len(plain)
    assert all(table[digest] == number for digest, number in plain.items())
    copy = table.copy()
    copy[blake2b(b"another").hexdigest()] = 1
    assert len(copy) == len(table) + 1


@pytest.mark.parametrize("digest", ["", "no digest", "-1"])
def test_what_is_no_digest_is_not_in_a_table(digest: str) -> None:
    table = DigestTable()
    with pytest.raises(ValueError, match=r"digest|base 16"):
        table[digest] = 1
    assert (table[digest], len(table)) == (0, 0)


def test_finished_requests_count_answers_and_forget_a_failure_that_was_mended() -> None:
    finished = FinishedRequests()
    for good in (False, True, True):
        finished.put("a", good=good)
    finished.put("b", good=False)
    assert (finished.count("a"), finished.has_failed("a"), finished.has_failed("b"), len(finished)) == (
        2,
        False,
        True,
        2,
    )
    assert [finished.take(name) for name in ("a", "a", "a", "b", "c")] == [True, True, False, False, False]


def test_an_answer_damaged_within_its_line_is_asked_for_again() -> None:
    found = known(b"".join([*LINES[:7], LINES[7].replace(b'"text"', b'"te"xt'), *LINES[8:]]))
    assert [found.get(request) is not None for request in REQUESTS].count(False) == 1
    assert (found.get(REQUESTS[7]), found.damaged_lines > 0) == (None, True)
    found.close()


def test_an_answer_under_another_request_of_nearly_the_same_digest_is_not_taken() -> None:
    key = REQUESTS[0].key
    other = key[:20] + ("0" if key[20] != "0" else "1") + key[21:]
    found = known(LINES[0].replace(key.encode(), other.encode()))
    assert found.get(REQUESTS[0]) is None
    found.close()


@pytest.mark.parametrize("key", ["-100000000000000123456789abcdef00", "no digest", "", "-1"])
def test_a_key_that_is_none_of_ours_stops_no_run(key: str) -> None:
    found = known(LINES[1] + LINES[0].replace(REQUESTS[0].key.encode(), key.encode()))
    assert len(found) == 1
    found.close()
    assert APIRequest({"model": "m"}).key not in found


def test_what_looks_like_a_record_within_a_request_is_none() -> None:
    fake = ',{"key":"' + "a" * 32 + '","status":"succeeded"}]'
    request = APIRequest(
        {"model": "m", "messages": [], "tools": [1, {"key": "a" * 32, "status": "succeeded"}], "x": fake}
    )
    found = known(result_line(Result(request, "failed", errors=("no",), error="no"), record=True) + b"\n")
    assert (request.key in found, found.was_asked(request.key), "a" * 32 in found) == (False, True, False)
    found.close()
