"""What a call may take: its budget and its deadline, checked before anything is sent."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from parallel_openai.engine.budget import Budget
from parallel_openai.errors import InvalidInputError
from parallel_openai.frames.recipe import Recipe
from parallel_openai.frames.table import has_column
from parallel_openai.records import APIRequest, Usage
from parallel_openai.requests.prices import price
from parallel_openai.requests.tokens import encoding_for_model, request_size


def check_bounds(**bounds: Any) -> None:
    """See that each is a number above 0, or None.

    >>> check_bounds(budget_usd=0.5, deadline=None)
    >>> check_bounds(deadline=0)
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: deadline must be a number above 0 or None, not 0.
    """
    for name, value in bounds.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InvalidInputError(f"{name} must be a number above 0 or None, not {value!r}.")


def make_budget(
    usd: float | None, tokens: int | None, recipe: Recipe, df: pd.DataFrame, base_url: str
) -> Budget | None:
    """The budget of a call, once it is sure that a worst case can be told for each of its requests.

    Raises:
        InvalidInputError: a request has no cap on its answer, or a price is not known.
    """
    if usd is None and tokens is None:
        return None

    def price_of(model: str, usage: Usage, tier: str | None) -> float:
        return price(
            model,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            base_url=base_url,
            tier=tier,
        )

    budget = Budget(usd=usd, tokens=tokens, price=price_of)
    objection = _objection(budget, recipe)
    if objection is None:
        return budget
    if isinstance(recipe.prompt, str) and not has_column(df, recipe.prompt):
        raise InvalidInputError(objection)
    for request in recipe.requests(df):  # rows that bring whole bodies may bring the model and the cap too
        if isinstance(request, APIRequest) and (objection := budget.objection(request)) is not None:
            raise InvalidInputError(objection)
    return budget


def _objection(budget: Budget, recipe: Recipe) -> str | None:
    body = {**({} if recipe.model is None else {"model": recipe.model}), **recipe.params}
    request = APIRequest(body, path=recipe.endpoint.path)
    request.size = request_size(body, encoding_for_model(recipe.model))
    return budget.objection(request)


def why_cancelled(ended: str, *, usd: float | None, tokens: int | None, deadline: float | None) -> str:
    """The sentence for a row that the run did not come to.

    >>> why_cancelled("budget", usd=0.5, tokens=None, deadline=None)
    'The budget of $0.5 does not suffice for this row too. The same call again goes on from here.'
    """
    if ended == "deadline":
        return f"The deadline of {deadline:g} s came before the answer. The same call again goes on from here."
    limits = [f"${usd:g}"] if usd is not None else []
    limits += [f"{tokens:,} tokens"] if tokens is not None else []
    return f"The budget of {' and '.join(limits)} does not suffice for this row too. " + (
        "The same call again goes on from here."
    )
