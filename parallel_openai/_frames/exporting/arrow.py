"""Import pyarrow, which parquet files and Arrow-backed columns need, only when it is used."""

from __future__ import annotations

import base64
from typing import Any

from parallel_openai.errors import MissingDependencyError


def need_pyarrow() -> Any:
    """Return pyarrow with `pyarrow.parquet` loaded."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError.of("Parquet files, unlike .csv, need", "pyarrow", error) from error
    return pyarrow


def type_to_text(kind: Any) -> str:
    """Encode an Arrow type as base64."""
    return base64.b64encode(need_pyarrow().schema([("", kind)]).serialize()).decode()


def type_from_text(text: str) -> Any:
    pyarrow = need_pyarrow()
    return pyarrow.ipc.read_schema(pyarrow.BufferReader(base64.b64decode(text))).field(0).type
