"""`to_jsonl` in all its formats, from frames in every state."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import stat
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import ColumnNotFoundError, InvalidInputError, QuotaExceededError
from parallel_openai.local.simulator import Server
from tests.frames.conftest import Verb, asked, journal_of

pytestmark = pytest.mark.filterwarnings("ignore:For fine-tuning")  # frames of three rows


class Tone(enum.Enum):
    GOOD = "positive"
    BAD = "negative"


def lines(path: str = "out.jsonl") -> list[Any]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def test_records_hold_all_columns_of_all_rows(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text")
    assert po.to_jsonl(out, "out.jsonl") == 3
    assert [list(line) for line in lines()] == [list(out)] * 3
    assert [line["response"] for line in lines()] == out["response"].tolist()


def test_a_row_that_cannot_be_written_is_named_and_the_older_file_stays() -> None:
    endless: list[Any] = []
    endless.append(endless)
    Path("out.jsonl").write_text("older")
    with pytest.raises(InvalidInputError, match="Row 1 cannot be written as JSON: RecursionError"):
        po.to_jsonl(pd.DataFrame({"text": ["a", endless]}), "out.jsonl")
    assert Path("out.jsonl").read_text() == "older"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("Zoë 日本 🎈", "Zoë 日本 🎈"),
        ('"\\\n\t\x00\u2028', '"\\\n\t\x00\u2028'),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (pd.NA, None),
        (pd.NaT, None),
        (np.datetime64("NaT", "s"), None),
        (np.int8(5), 5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.5], [float("nan")]]), [[1.5], [None]]),
        (np.array(["a", None, {"b": 1}], dtype=object), ["a", None, {"b": 1}]),
        (np.datetime64("2026-03-01T12:00"), "2026-03-01T12:00:00"),
        (pd.Timestamp("2026-03-01 12:00"), "2026-03-01T12:00:00"),
        (pd.Timestamp("2026-03-01 12:00", tz="UTC"), "2026-03-01T12:00:00+00:00"),
        (pd.Timedelta("1h"), "P0DT1H0M0S"),
        (pd.Period("2026-03"), "2026-03"),
        (pd.Interval(0, 1), "(0, 1]"),
        (pd.Series([1, 2]), [1, 2]),
        (pd.Categorical(["a"]), ["a"]),
        (datetime.datetime(2026, 3, 1, 12), "2026-03-01T12:00:00"),
        (datetime.date(2026, 3, 1), "2026-03-01"),
        (datetime.time(12, 30), "12:30:00"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("a") / "b", str(Path("a") / "b")),
        (b"ab", "YWI="),
        (bytearray(b"ab"), "YWI="),
        pytest.param({"b", "a"}, ["a", "b"], id="a set, whose order differs from process to process"),
        (frozenset([2, 1]), [1, 2]),
        ((1, "a"), [1, "a"]),
        (Tone.GOOD, "positive"),
        (2**70, 2**70),
        (1j, "1j"),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
        ({("a", 1): {"nested": {decimal.Decimal(1)}}}, {"('a', 1)": {"nested": ["1"]}}),
        ([{"deep": [np.int64(1), pd.NA, {Tone.BAD}]}], [{"deep": [1, None, ["negative"]]}]),
        ("lone \ud800", "lone \ud800"),
        (["lone \ud800", float("nan"), 2**70], ["lone \ud800", None, 2**70]),
    ],
    ids=repr,
)
def test_a_cell_of_any_type_is_written_as_json(value: Any, written: Any) -> None:
    cells = np.empty(1, dtype=object)
    cells[0] = value
    po.to_jsonl(pd.DataFrame({"cell": pd.Series(cells, dtype=object)}), "out.jsonl")
    assert lines() == [{"cell": written}]


def test_non_ascii_text_is_written_unescaped() -> None:
    po.to_jsonl(pd.DataFrame({"who": ["Zoë 日本"]}), "out.jsonl")
    assert Path("out.jsonl").read_text("utf-8") == '{"who":"Zoë 日本"}\n'


@pytest.mark.parametrize("dtype", ["Int64", "string", "category", "datetime64[ns, UTC]", "Float64", "boolean"])
def test_missing_values_of_every_dtype_are_null(dtype: str) -> None:
    po.to_jsonl(pd.DataFrame({"x": pd.Series([None, None], dtype=dtype)}), "out.jsonl")
    assert lines() == [{"x": None}] * 2


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (pd.Index([7]), ["index"]),
        (pd.Index([7], name="id"), ["id"]),
        (pd.MultiIndex.from_tuples([("a", 7)], names=["group", None]), ["group", "index1"]),
    ],
    ids=["unnamed", "named", "several"],
)
def test_the_index_is_written_on_request(index: Any, names: list[str]) -> None:
    df = pd.DataFrame({"text": ["a"]}, index=index)
    po.to_jsonl(df, "out.jsonl", index=True)
    assert list(lines()[0]) == [*names, "text"]


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (pd.Index([7], name="text"), "text"),
        (pd.Index([7]), "index"),
        (pd.MultiIndex.from_tuples([("a", 7)], names=["id", "id"]), "id"),
        (pd.MultiIndex.from_tuples([("a", 7)], names=["index1", None]), "index1"),
        (pd.Index([7], name=1), "1"),
    ],
    ids=["a column's", "unnamed", "two levels of one name", "a level named as another would be", "a number"],
)
def test_an_index_named_like_a_column_is_refused(index: Any, name: str) -> None:
    df = pd.DataFrame({"text": ["a"], "index": ["b"], "1": ["c"]}, index=index)
    with pytest.raises(InvalidInputError, match=rf"2 columns would all be named '{name}'.*rename_axis"):
        po.to_jsonl(df, "out.jsonl", index=True)
    assert po.to_jsonl(df, "out.jsonl") == 1


def test_columns_of_several_levels_have_one_name(ask: Verb) -> None:
    columns = pd.MultiIndex.from_tuples([("review", "text"), ("id", "")])
    po.to_jsonl(ask(pd.DataFrame([["Hi.", 1]], columns=columns), "{review text}"), "out.jsonl")
    assert list(lines()[0])[:4] == ["review text", "id", "response", "status"]


@pytest.mark.parametrize("columns", [["a", "a"], [1, "1"]], ids=str)
def test_columns_that_would_have_the_same_name_are_refused(columns: list[Any]) -> None:
    Path("out.jsonl").write_text("what was there")
    with pytest.raises(InvalidInputError, match="2 columns"):
        po.to_jsonl(pd.DataFrame([[1, 2]], columns=columns), "out.jsonl")
    assert Path("out.jsonl").read_text() == "what was there"
    assert list(Path().iterdir()) == [Path("out.jsonl")]


def test_a_frame_without_rows_makes_a_file_without_lines() -> None:
    assert po.to_jsonl(pd.DataFrame({"a": []}), "out.jsonl") == 0
    assert Path("out.jsonl").read_bytes() == b""


def test_an_existing_file_is_replaced() -> None:
    for n in range(2):
        po.to_jsonl(pd.DataFrame({"n": [n]}), "out.jsonl")
    assert lines() == [{"n": 1}]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_the_file_is_for_its_owner_only() -> None:
    po.to_jsonl(pd.DataFrame({"n": [1]}), "out.jsonl")
    assert stat.S_IMODE(Path("out.jsonl").stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_symbolic_link_is_followed() -> None:
    Path("real.jsonl").touch()
    Path("out.jsonl").symlink_to("real.jsonl")
    po.to_jsonl(pd.DataFrame({"n": [1]}), "out.jsonl")
    assert Path("out.jsonl").is_symlink()
    assert lines("real.jsonl") == [{"n": 1}]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev/null")
def test_a_device_is_written_to_and_not_replaced() -> None:
    assert po.to_jsonl(pd.DataFrame({"n": [1]}), "/dev/null") == 1
    assert not Path("/dev/null").is_file()


def test_an_unknown_format_is_refused(ask: Verb, reviews: pd.DataFrame) -> None:
    with pytest.raises(
        InvalidInputError, match="records, results, batch, fine-tuning, label-studio, argilla, not 'csv'"
    ):
        po.to_jsonl(ask(reviews, "text"), "out.jsonl", format="csv")  # type: ignore[arg-type]  # the point


def test_to_jsonl_refuses_anything_but_a_frame() -> None:
    with pytest.raises(InvalidInputError, match="not a list"):
        po.to_jsonl([1], "out.jsonl")  # type: ignore[arg-type]  # the point


def test_results_are_request_response_and_metadata(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text", metadata="stars")
    assert po.to_jsonl(out, "out.jsonl", format="results") == 3
    for (request, response, metadata), body, row in zip(lines(), asked(out), out.itertuples(), strict=True):
        assert request == body
        assert response["choices"][0]["message"]["content"] == row.response
        assert metadata == {"stars": row.stars}


def test_results_without_metadata_are_pairs(ask: Verb, reviews: pd.DataFrame) -> None:
    po.to_jsonl(ask(reviews, "text"), "out.jsonl", format="results")
    assert [len(line) for line in lines()] == [2, 2, 2]


def test_results_of_a_failed_row_are_its_errors(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    server.script([{"status": 400, "message": "Too odd."}], matching="terrible")
    po.to_jsonl(ask(reviews, "text"), "out.jsonl", format="results")
    assert lines()[1][1] == ["HTTP 400: Too odd."]


def test_rows_that_were_never_sent_have_no_results(ask: Verb) -> None:
    out = ask(pd.DataFrame({"text": ["a", None]}), "text")
    assert po.to_jsonl(out, "out.jsonl", format="results") == 1


def test_cancelled_rows_are_left_out_of_results_but_not_of_a_batch(ask: Verb, server: Server) -> None:
    server.set(insufficient_quota_after=2)
    with pytest.raises(QuotaExceededError) as stopped:
        ask(pd.DataFrame({"text": list("abcdef")}), "text")
    assert po.to_jsonl(stopped.value.partial, "out.jsonl", format="results") == 2
    assert po.to_jsonl(stopped.value.partial, "out.jsonl", format="batch") == 6


def test_the_batch_format_is_accepted_by_the_batch_api(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text", system="Be brief.", seed=1)
    po.to_jsonl(out, "out.jsonl", format="batch")
    assert lines() == [
        {"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n, body in enumerate(asked(out))
    ]


def test_a_batch_leaves_out_rows_that_cannot_be_asked(ask: Verb) -> None:
    po.to_jsonl(ask(pd.DataFrame({"text": ["a", None, "c"]}), "text"), "out.jsonl", format="batch")
    assert [line["custom_id"] for line in lines()] == ["row-0", "row-2"]


def test_fine_tuning_examples_are_the_messages_with_the_answer(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text", system="Be brief.")
    po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    assert [line["messages"] for line in lines()] == [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": row.text},
            {"role": "assistant", "content": row.response},
        ]
        for row in out.itertuples()
    ]


def test_fine_tuning_leaves_out_rows_without_an_answer(ask: Verb, reviews: pd.DataFrame, server: Server) -> None:
    server.script([400], matching="terrible")
    assert po.to_jsonl(ask(reviews, "text"), "out.jsonl", format="fine-tuning") == 2


def test_a_column_of_the_frames_own_is_not_taken_for_the_answer(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews.assign(label="mine"), "text")
    po.to_jsonl(out, "out.jsonl", format="fine-tuning")
    assert [line["messages"][-1]["content"] for line in lines()] == out["response"].tolist()


@pytest.mark.parametrize("form", ["results", "batch", "fine-tuning"])
class TestEveryFormatOfRequests:
    def test_exports_of_a_reordered_part_of_the_frame_are_right(
        self, ask: Verb, reviews: pd.DataFrame, form: Any
    ) -> None:
        out = ask(reviews, "text")
        po.to_jsonl(out, "all.jsonl", format=form)
        po.to_jsonl(out[out["stars"] > 1][::-1], "out.jsonl", format=form)
        first, _, last = (
            json.dumps({**line, "custom_id": 0} if "body" in line else line) for line in lines("all.jsonl")
        )
        assert [json.dumps({**line, "custom_id": 0} if "body" in line else line) for line in lines()] == [last, first]

    def test_exports_of_a_frame_with_a_prefix_are_right(self, ask: Verb, reviews: pd.DataFrame, form: Any) -> None:
        out = ask(reviews.assign(status="mine"), "text", prefix="po_")
        assert po.to_jsonl(out, "out.jsonl", format=form) == 3

    def test_exports_of_a_frame_with_samples_are_right(self, ask: Verb, reviews: pd.DataFrame, form: Any) -> None:
        assert po.to_jsonl(ask(reviews, "text", samples=2), "out.jsonl", format=form) == 3

    def test_requests_made_by_a_function_are_read_from_the_journal(
        self, ask: Verb, reviews: pd.DataFrame, form: Any
    ) -> None:
        po.to_jsonl(ask(reviews, "text"), "expected.jsonl", format=form)
        po.to_jsonl(ask(reviews, lambda row: row.text), "out.jsonl", format=form)
        assert len(lines()) == 3
        strip = [{**line, "messages": line["messages"][:-1]} if "messages" in line else line for line in lines()]
        assert len(strip) == len(lines("expected.jsonl"))

    def test_requests_are_read_from_the_journal_if_columns_are_missing(
        self, ask: Verb, reviews: pd.DataFrame, form: Any
    ) -> None:
        out = ask(reviews, "text").drop(columns="text")
        assert po.to_jsonl(out, "out.jsonl", format=form) == 3

    def test_exporting_without_columns_and_journal_is_an_error(
        self, ask: Verb, reviews: pd.DataFrame, form: Any
    ) -> None:
        out = ask(reviews, lambda row: row.text)
        journal_of(out).unlink()
        with pytest.raises(InvalidInputError, match="does not hold a row's request"):
            po.to_jsonl(out, "out.jsonl", format=form)
        assert not Path("out.jsonl").exists()

    def test_exporting_a_frame_without_attrs_is_an_error(self, ask: Verb, reviews: pd.DataFrame, form: Any) -> None:
        out = pd.DataFrame(ask(reviews, "text").to_dict("list"))
        with pytest.raises(InvalidInputError, match=r"lost its attrs.*new.attrs = out.attrs"):
            po.to_jsonl(out, "out.jsonl", format=form)

    def test_exporting_without_a_result_column_is_an_error(self, ask: Verb, reviews: pd.DataFrame, form: Any) -> None:
        out = ask(reviews, "text").drop(columns="request_key")
        with pytest.raises(ColumnNotFoundError, match="request_key"):
            po.to_jsonl(out, "out.jsonl", format=form)

    def test_exports_of_an_empty_frame_are_empty(self, ask: Verb, reviews: pd.DataFrame, form: Any) -> None:
        assert po.to_jsonl(ask(reviews[:0], "text"), "out.jsonl", format=form) == 0

    def test_exports_of_a_frame_loaded_from_parquet_are_right(
        self, ask: Verb, reviews: pd.DataFrame, form: Any
    ) -> None:
        pytest.importorskip("pyarrow")
        ask(reviews, "{text}", metadata=["stars"]).to_parquet("out.parquet")
        assert po.to_jsonl(pd.read_parquet("out.parquet"), "out.jsonl", format=form) == 3


def test_a_batch_of_rows_without_known_requests_is_refused(ask: Verb, server: Server) -> None:
    server.set(insufficient_quota_after=2)
    with pytest.raises(QuotaExceededError) as stopped:
        ask(pd.DataFrame({"text": list("abcdef")}), lambda row: row.text)
    with pytest.raises(InvalidInputError, match=r"Row \d was never sent"):
        po.to_jsonl(stopped.value.partial, "out.jsonl", format="batch")
    assert po.to_jsonl(stopped.value.partial, "out.jsonl", format="results") == 2


def test_a_row_that_was_edited_afterwards_is_exported_as_it_was_asked(ask: Verb, reviews: pd.DataFrame) -> None:
    out = ask(reviews, "text")
    expected = asked(out)
    out.loc[0, "text"] = "edited"
    po.to_jsonl(out, "out.jsonl", format="batch")
    assert [line["body"] for line in lines()] == expected
