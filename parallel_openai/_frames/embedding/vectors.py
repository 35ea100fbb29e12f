"""Keeps the vectors of a frame in one array, whose rows are the cells of a column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from parallel_openai._frames.columns.answer_columns import Reader
from parallel_openai._frames.columns.run_info import last_run_of
from parallel_openai._frames.columns.table import check_frame, find_column, is_missing
from parallel_openai._requests.endpoints import EMBEDDINGS, Answer, of_length
from parallel_openai.errors import InvalidInputError

Matrix = np.ndarray[Any, np.dtype[np.float32]]


def vectors(out: pd.DataFrame, column: str | None = None) -> Matrix:
    """The vectors of a frame as one array of 32-bit floats, a row for each of its rows; NaN if a row has none.

    For a frame as `embed_dataframe` returned it, this is the array that its cells are rows of, without a copy.

    Args:
        out: what `embed_dataframe` returned, or a part of it in any order, also read back from a file.
        column: the column of the vectors; None: `embedding`, with the prefix that was asked for.

    Raises:
        InvalidInputError: the column holds something else, or vectors of several lengths.

    >>> vectors(pd.DataFrame({"embedding": [[1.0, 2.0], None]})).tolist()
    [[1.0, 2.0], [nan, nan]]
    """
    check_frame(out)
    if column is None:
        column = last_run_of(out).prefix + "embedding"
    cells = out[find_column(out, column, "vectors")].tolist()
    whole = _whole(cells)
    return whole if whole is not None else _stacked(cells, column)


def _whole(cells: Sequence[Any]) -> Matrix | None:
    """The array whose rows the cells are, in order; None if they are not."""
    found = next((cell.base for cell in cells if isinstance(cell, np.ndarray)), None)
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape[:1] != (len(cells),):
        return None
    start, step = found.__array_interface__["data"][0], found.strides[0]
    for number, cell in enumerate(cells):
        if isinstance(cell, np.ndarray):
            is_row = cell.base is found and cell.shape == found.shape[1:] and cell.strides == found.strides[1:]
            if not is_row or cell.__array_interface__["data"][0] != start + number * step:
                return None
        elif not np.isnan(found[number, 0]):
            return None
    return found


def _stacked(cells: Sequence[Any], column: str) -> Matrix:
    rows = [None if is_missing(cell) else _vector(cell, column, number) for number, cell in enumerate(cells)]
    lengths = {len(row) for row in rows if row is not None}
    if len(lengths) > 1:
        raise InvalidInputError(f"The vectors in {column!r} have several lengths: {sorted(lengths)}.")
    matrix = np.full((len(rows), *lengths) if lengths else (len(rows), 0), np.nan, dtype=np.float32)
    for number, row in enumerate(rows):
        if row is not None:
            matrix[number] = row
    return matrix


def _vector(cell: Any, column: str, number: int) -> Matrix:
    try:
        vector = np.asarray(cell, dtype=np.float32)
    except (ValueError, TypeError):
        vector = np.empty(0, dtype=np.float32)
    if vector.ndim != 1 or not vector.size:
        raise InvalidInputError(f"Row {number} of {column!r} holds no vector but {cell!r:.100}.")
    return vector


class VectorColumn:
    """Collects the vectors of a run in one array, made when the first one shows their length."""

    def __init__(self, rows: int, dimensions: Any = None) -> None:
        self.slot = 0  # the row whose vector is read next
        self._dimensions = dimensions  # as requested; None: the model's own
        self._rows = rows
        self._matrix: Matrix | None = None

    def reader(self) -> Reader:
        """The reader that fills the array; its values are the rows of the array."""
        return Reader.of_one_column("embedding", self._read, self._column)

    def length(self, answers: Sequence[Answer]) -> Any:
        """The length that all vectors must have: the requested one, or the most frequent in the first request."""
        if self._dimensions is not None or self._matrix is not None:
            return self._dimensions if self._matrix is None else self._matrix.shape[1]
        lengths = Counter(len(answer.value) for answer in answers if answer.value is not None)
        return max(lengths, key=lengths.__getitem__, default=None)

    def _read(self, response: Mapping[str, Any]) -> Answer:
        answer = of_length(EMBEDDINGS.read(response), self._dimensions)
        if answer.error_code is not None:
            return answer._replace(value=None)
        vector = np.frombuffer(answer.value, dtype=np.float32)
        if self._matrix is None:
            self._matrix = np.empty((self._rows, len(vector)), dtype=np.float32)
        if len(vector) != self._matrix.shape[1]:
            sentence = f"The vector has {len(vector):,} dimensions, and those before it {self._matrix.shape[1]:,}."
            return answer.unusable("malformed_response", sentence)
        self._matrix[self.slot] = vector
        return answer._replace(value=self.slot)

    def _column(self, rows: Sequence[int | None]) -> Any:
        """The finished column; rows that share an answer get copies of its vector."""
        cells = np.empty(len(rows), dtype=object)
        matrix = self._matrix
        if matrix is not None:
            for number, row in enumerate(rows):
                if row is None:
                    matrix[number] = np.nan
                else:
                    if row != number:
                        matrix[number] = matrix[row]
                    cells[number] = matrix[number]
        return cells
