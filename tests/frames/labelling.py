"""Scripted answers with labels, samples and token probabilities."""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field

from parallel_openai.local.simulator import Server

TONES = ["positive", "negative", "neutral"]


class Topic(enum.Enum):
    ORDER = "order"
    REFUND = "refund"


class Review(BaseModel):
    tone: Literal["positive", "negative"]
    topics: list[Topic]
    stars: Annotated[int, Field(ge=1, le=5)]
    is_spam: bool
    gist: str


def answer(content: Any, logprobs: Any = None) -> dict[str, Any]:
    text = content if isinstance(content, str) else json.dumps(content)
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": logprobs}
    return {"body": {"model": "m", "choices": [choice]}}


def says(server: Server, matching: str, *answers: Any) -> None:
    server.script([each if "body" in each else answer(each) for each in answers], matching=matching)


def tokens(*steps: tuple[str, dict[str, float]]) -> dict[str, Any]:
    """An answer of tokens, each with the probabilities of what could stand in its place; it is the first of them."""

    def one(token: str, share: float) -> dict[str, Any]:
        return {"token": token, "logprob": float(np.log(share)), "bytes": list(token.encode())}

    content = []
    for token, listed in steps:
        top = [one(each, share) for each, share in listed.items()]
        content.append({**one(token, listed[token]), "top_logprobs": top})
    return answer("".join(token for token, _ in steps), {"content": content, "refusal": None})


def frame(*texts: str) -> pd.DataFrame:
    return pd.DataFrame({"text": list(texts)})


def cells(column: pd.Series) -> list[Any]:
    return [None if np.isscalar(value) and pd.isna(value) else value for value in column]
