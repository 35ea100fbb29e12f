"""What cannot be saved or loaded is refused with the reason, and the file that was there is unchanged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import parallel_openai as po
from parallel_openai.errors import InvalidInputError
from tests.frames.test_saving_exactly import PATHS, cells_of, check_same


class Opaque:
    pass


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"x": [1, Opaque()]}), "The column 'x' holds a Opaque in row 1"),
        (pd.DataFrame({"x": [[Opaque()]]}), "The column 'x' holds a Opaque in row 0"),
        (pd.DataFrame({"x": cells_of([ENDLESS])}), "nested without end"),
        (pd.DataFrame({"x": pd.arrays.SparseArray([0, 1])}), "dtype Sparse"),
        (pd.DataFrame({"x": [1]}, index=[Opaque()]), "The index holds a Opaque in row 0"),
        (pd.DataFrame({Opaque(): [1]}), "list of columns' names"),
        (pd.DataFrame({"x": [1]}).set_axis([Opaque()]), "index"),
        (pd.DataFrame({"x": ["a\ud800"]}, dtype=object), "half of a character"),
    ],
    ids=["an object", "an object in a list", "a circle", "sparse", "index", "name", "axis", "half a character"],
)
def test_values_that_cannot_be_restored_are_refused_and_the_file_is_unchanged(
    frame: Any, words: str, path: str
) -> None:
    good = pd.DataFrame({"x": ["good"]})
    po.save(good, path)
    with pytest.raises(InvalidInputError, match=words):
        po.save(frame, path)
    check_same(po.load(path), good)
    assert not [each for each in os.listdir() if "part" in each]


@pytest.mark.parametrize("path", PATHS)
def test_attrs_that_cannot_be_restored_are_refused(path: str) -> None:
    frame = pd.DataFrame({"x": [1]})
    frame.attrs["tool"] = Opaque()
    with pytest.raises(InvalidInputError, match="attrs hold a Opaque"):
        po.save(frame, path)
    assert not Path(path).exists()


@pytest.mark.parametrize("path", PATHS)
def test_saving_to_a_missing_folder_is_an_error(path: str) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere.*cannot be written: No such file"):
        po.save(pd.DataFrame({"x": [1]}), f"nowhere/{path}")


@pytest.mark.parametrize("name", ["\0.csv", "x" * 300 + ".csv", "out.csv/out.csv", "out.csv/out.parquet"])
def test_an_invalid_file_name_is_an_error(name: str) -> None:
    po.save(pd.DataFrame({"x": [1]}), "out.csv")
    for write in (po.save, po.to_jsonl):
        with pytest.raises(InvalidInputError, match=r"cannot be written|must be a path"):
            write(pd.DataFrame({"x": [1]}), name)  # type: ignore[operator]  # both are functions


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it needs /dev/full")
def test_saving_to_a_full_disk_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="No space left"):
        po.to_jsonl(pd.DataFrame({"x": [1]}), "/dev/full")


def test_loading_an_invalid_parquet_file_is_an_error() -> None:
    Path("out.parquet").write_bytes(b"PAR1, or so it says")
    with pytest.raises(InvalidInputError, match=r"not written by save\(\)"):
        po.load("out.parquet")


def test_only_csv_files_are_for_spreadsheets() -> None:
    with pytest.raises(InvalidInputError, match=r"goes with a \.csv file"):
        po.save(pd.DataFrame(), "out.parquet", spreadsheet=True)


@pytest.mark.parametrize(
    "about", ["[]", "{}", '{"version": 2}', "{", '{"version":2,"rows":9000000000,"columns":[],"index":{}}']
)
def test_an_invalid_sidecar_file_is_an_error(about: str) -> None:
    po.save(pd.DataFrame({"x": [1]}), "out.csv")
    Path("out.csv.about.json").write_text(about)
    with pytest.raises(InvalidInputError, match=r"out\.csv"):
        po.load("out.csv")
