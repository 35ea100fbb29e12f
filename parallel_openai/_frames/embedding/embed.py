"""`embed_dataframe`: one vector for each row, with many rows in a request."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from parallel_openai._arguments import check_count
from parallel_openai._client.client import Client
from parallel_openai._client.default_client import client_for
from parallel_openai._frames.columns.table import check_frame
from parallel_openai._frames.embedding.pack_run import EmbedRun
from parallel_openai._frames.embedding.vectors import VectorColumn
from parallel_openai._frames.process import make_builder
from parallel_openai._frames.request_builder import Prompt
from parallel_openai._frames.run_options import Options
from parallel_openai._frames.sync_async import Call, awaitable, blocking
from parallel_openai._requests.endpoints import EMBEDDINGS
from parallel_openai.errors import InvalidInputError

#: Arguments of process_dataframe that embed_dataframe does not have, and what to do instead.
_NOT_HERE = {
    "lane": "process_dataframe(..., endpoint='embeddings', lane='batch') sends rows through the Batch API.",
    "samples": "A text has one vector.",
    "repair": "A vector cannot be mended.",
    "parse": "po.vectors(out) returns the array.",
    "system": "A text for all rows can be a part of the template.",
    "endpoint": "It always asks for embeddings.",
    "response_format": "Vectors have no format.",
}


@blocking
def embed_dataframe(
    df: pd.DataFrame,
    column: Prompt,
    *,
    model: str,
    dimensions: int | None = None,
    rows_per_request: int | None = None,
    metadata: Hashable | Sequence[Hashable] = (),
    save_to: str | os.PathLike[str] | None = None,
    retry_failed: bool = True,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    deadline: float | None = None,
    resubmit: bool = False,
    prefix: str = "",
    progress: bool = True,
    client: Client | None = None,
    **params: Any,
) -> Call[pd.DataFrame]:
    """Turn each row's text into a vector and return the frame with the vectors beside its rows.

    Up to 2,048 rows and 300,000 tokens travel in one request. If a request is refused, for its size or for one row
    in it, it is sent again in halves, so that a bad row fails alone. Rows with the same text are sent once.

    Args:
        df: the rows. It is not changed.
        column: the name of the column with the texts; or a template over the columns, as `"{title}: {text}"`; or a
            function of a row.
        model: the model.
        dimensions: the length of the vectors, for models that can shorten them.
        rows_per_request: how many rows travel together at the most, for servers that are slow or take fewer.

    The other arguments and the errors are those of `process_dataframe`.

    Returns:
        A new frame with the same rows, order and index, and the columns of `process_dataframe`, with `embedding` in
        the place of `response`. Its cells are rows of one array of 32-bit floats, which `vectors` returns whole.
        `prompt_tokens` and `cost_usd` are the row's share of its request.

    The journal holds each text's vector by itself: a frame that was extended or shuffled asks only for what is new.

    >>> import parallel_openai as po
    >>> df = pd.DataFrame({"title": ["Lamp", "Kettle", None]})
    >>> with po.local.simulator.serve() as server:
    ...     out = po.embed_dataframe(df, "title", model="text-embedding-3-small", dimensions=4,
    ...                              client=po.Client(server.base_url), progress=False)
    >>> po.vectors(out).shape, out["error_code"].tolist()[2]
    ((3, 4), 'missing_prompt')
    """
    options = Options.of("embed", locals())
    for name, number in (("dimensions", dimensions), ("rows_per_request", rows_per_request)):
        if number is not None:
            check_count(number, name)
    for name in params:
        if name in _NOT_HERE:
            raise InvalidInputError(f"embed_dataframe has no {name}=. {_NOT_HERE[name]}")
    asked = {"encoding_format": "base64", **({} if dimensions is None else {"dimensions": dimensions}), **params}
    asked = {name: value for name, value in asked.items() if value is not None}
    builder = make_builder(column, model, None, EMBEDDINGS.name, None, 1, metadata, asked)
    check_frame(df)
    vectors = VectorColumn(len(df), builder.params.get("dimensions"))
    run = EmbedRun(df, builder, vectors.reader(), client_for(client), options)
    run.take_together(vectors, rows_per_request)
    return run


aembed_dataframe = awaitable(embed_dataframe)
