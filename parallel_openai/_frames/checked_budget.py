"""Makes the budget of a call on a frame, and checks before anything is sent that each request has a worst case."""

from __future__ import annotations

import pandas as pd

from parallel_openai._frames.columns.table import has_column
from parallel_openai._frames.request_builder import RequestBuilder
from parallel_openai._records import APIRequest
from parallel_openai._requests.tokens import size_of
from parallel_openai._run.spending.budget import Budget, PriceOf
from parallel_openai._run.spending.caps import SpendingCaps
from parallel_openai.errors import InvalidInputError


def make_budget(
    bounds: SpendingCaps, builder: RequestBuilder, df: pd.DataFrame, price: PriceOf, *, tier: str | None = None
) -> Budget | None:
    """The budget of a call; None without one. `tier` is the service tier that every answer is sure to have, if any."""
    budget = bounds.budget(price, tier)
    objection = None if budget is None else _objection(budget, builder)
    if budget is None or objection is None:
        return budget
    if isinstance(builder.prompt, str) and not has_column(df, builder.prompt):
        raise InvalidInputError(objection)
    for request in builder.requests(df):  # rows with whole bodies may have the model and the cap too
        if isinstance(request, APIRequest) and (objection := budget.objection(request)) is not None:
            raise InvalidInputError(objection)
    return budget


def _objection(budget: Budget, builder: RequestBuilder) -> str | None:
    body = {**({} if builder.model is None else {"model": builder.model}), **builder.params}
    request = APIRequest(body, path=builder.endpoint.path)
    request.size = size_of(request)
    return budget.objection(request)
