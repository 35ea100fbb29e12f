"""The moderations endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parallel_openai._requests.endpoints.base import Answer, Endpoint, Packing, list_of, mappings
from parallel_openai._requests.endpoints.usage import model_of
from parallel_openai._requests.template import BadPromptError, check_text, check_whole, kind_of


class Moderations(Endpoint):
    """`/moderations`. An answer's value is the result: `flagged`, `categories` and `category_scores`."""

    name = "moderations"
    path = "moderations"
    own = frozenset({"input"})
    parameters = frozenset({"input", "model"})
    gives_text = False
    answers = ("results", None)
    packing = Packing(inputs=32, tokens=32_768, tokens_each=32_768)

    def ask(self, prompt: Any, system: Any) -> Mapping[str, Any]:
        prompt = list_of(prompt)
        if isinstance(prompt, Mapping):
            return {"input": [prompt]} if "type" in prompt else check_whole(prompt)
        if isinstance(prompt, str):
            return {"input": check_text(prompt)}
        if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(part, Mapping) for part in prompt):
            return {"input": list(prompt)}
        raise BadPromptError(
            "invalid_prompt",
            f"The prompt is a {kind_of(prompt)}; it must be a string, a list of content parts or a body.",
        )

    def read_all(self, response: Mapping[str, Any]) -> list[Answer]:
        model = model_of(response)
        results = mappings(response.get("results"))
        return [Answer(None, None, model, value=result) for result in results] or [
            Answer(None, None, model, "empty", "The response has no results.")
        ]
