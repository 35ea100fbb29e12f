"""Checks the parameters that a call passes on: the endpoint's own, and those that other servers are known to take.

Any other is refused before the first send. It may be misspelt, an option of another function, or a key, which would be
sent and stored with every request. So no message shows a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from parallel_openai._arguments import mapping_of
from parallel_openai._requests.endpoints import ENDPOINTS, Endpoint, names_in
from parallel_openai.errors import InvalidInputError

#: Our own options, each with a function that has it.
OPTIONS: dict[str, str] = {
    **dict.fromkeys(
        names_in(
            "system endpoint response_format samples explode metadata save_to retry_failed parse repair keep_reasoning "
            "budget_usd budget_tokens deadline lane resubmit prefix progress client model"
        ),
        "process_dataframe",
    ),
    **dict.fromkeys(
        names_in("labels multi scale examples explain confidence abstain_below gold"),
        "label_dataframe",
    ),
    "dimensions": "embed_dataframe",
    "rows_per_request": "embed_dataframe",
    "workers": "process_dataset",
    "label": "compare",
    "models": "compare",
}
#: Options of the account by the names of the SDK, litellm and our own client, with what to write instead.
ACCOUNT: dict[str, str] = {
    **{
        name: f"Client({name}=...)"
        for name in names_in(
            "base_url api_key organization project max_requests_per_minute max_tokens_per_minute "
            "max_concurrent_requests max_attempts timeout burst max_wait give_up_after shared headers query "
            "azure_endpoint azure_deployment api_version loop sync trust_env ssl"
        )
    },
    **dict.fromkeys(("extra_headers", "default_headers"), "Client(headers={...})"),
    **dict.fromkeys(("extra_query", "default_query"), "Client(query={...})"),
    **dict.fromkeys(("azure_ad_token", "azure_ad_token_provider", "openai_api_key", "token"), "Client(api_key=...)"),
    **dict.fromkeys(("api_base", "openai_api_base", "request_url"), "Client(base_url=...)"),
    **dict.fromkeys(("max_retries", "num_retries"), "Client(max_attempts=...)"),
    "request_timeout": "Client(timeout=...)",
    **dict.fromkeys(("max_workers", "concurrency", "max_concurrency"), "Client(max_concurrent_requests=...)"),
    "rpm": "Client(max_requests_per_minute=...)",
    "tpm": "Client(max_tokens_per_minute=...)",
}
#: Those of them that hold a key, which is never part of a body.
SECRET = names_in("api_key openai_api_key azure_ad_token azure_ad_token_provider headers extra_headers default_headers")
#: Former options of a call, with what to write instead.
MOVED = {"ray": "lane='ray' or lane=po.RayLane(workers=...), in process_dataframe and label_dataframe"}
#: Parameters of vLLM, SGLang, llama.cpp, Ollama, OpenRouter, Mistral, Groq, Together, Perplexity, xAI, Azure ...
VENDORS = names_in(
    """
    top_k min_p top_a typical_p tfs_z repetition_penalty repeat_penalty repeat_last_n length_penalty use_beam_search
    min_tokens ignore_eos stop_token_ids include_stop_str_in_output skip_special_tokens spaces_between_special_tokens
    bad_words allowed_token_ids truncate_prompt_tokens prompt_logprobs add_special_tokens add_generation_prompt
    continue_final_message chat_template chat_template_kwargs documents mm_processor_kwargs priority
    return_tokens_as_token_ids return_token_ids guided_json guided_regex guided_choice guided_grammar
    guided_decoding_backend guided_whitespace_pattern structured_outputs regex ebnf json_schema grammar
    separate_reasoning cache_prompt mirostat mirostat_tau mirostat_eta n_predict n_probs n_keep min_keep id_slot
    samplers dynatemp_range dynatemp_exponent dry_multiplier dry_base dry_allowed_length dry_penalty_last_n
    dry_sequence_breakers xtc_probability xtc_threshold reasoning_format reasoning_budget
    post_sampling_probs t_max_predict_ms lora
    keep_alive num_ctx think options format
    provider models route transforms reasoning include_reasoning plugins usage cache_control
    thinking enable_thinking thinking_budget safe_prompt random_seed prompt_mode safety_model
    context_length_exceeded_behavior search_parameters search_mode search_domain_filter search_recency_filter
    return_images return_related_questions web_search_options enable_search citation_options data_sources
    input_type truncate task late_chunking normalized
    """
)

#: The parameter, in the words of the SDK, that holds further fields of the body.
EXTRA = "extra_body"
_FORCED = " What only a server of your own takes goes into extra_body={...}."


def check_parameters(params: Mapping[str, Any], endpoint: Endpoint) -> None:
    """Check that each name is a parameter that may be sent.

    >>> check_parameters({"temperature": 0, "top_k": 5}, ENDPOINTS["chat.completions"])
    >>> check_parameters({"lables": ["yes", "no"]}, ENDPOINTS["chat.completions"])
    Traceback (most recent call last):
        ...
    parallel_openai.errors.InvalidInputError: There is no lables=; did you mean labels=, of label_dataframe?
    """
    for name in params:
        if name not in endpoint.parameters and name not in VENDORS and name != EXTRA:
            raise InvalidInputError(_objection(name, endpoint))
    for name in sorted(SECRET & _extra(params).keys()):
        raise InvalidInputError(f"{name} in {EXTRA}= would be written down with every request: {_of_client(name)}")


def with_extra(params: Mapping[str, Any], between: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fields that parameters put into the body: those of `extra_body`, as in the SDK, replace all others.

    >>> with_extra({"temperature": 0, "seed": 1, "extra_body": {"seed": 2}}, {"top_p": 1})
    {'temperature': 0, 'seed': 2, 'top_p': 1}
    """
    own = {name: value for name, value in params.items() if name != EXTRA}
    return {**own, **(between or {}), **_extra(params)}


def _extra(params: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping_of(params.get(EXTRA), EXTRA)


def _objection(name: str, endpoint: Endpoint) -> str:
    if name in ACCOUNT:
        return f"{name}= belongs to the account and not to a call: {_of_client(name)}"
    if name in MOVED:
        return f"{name}= is said with {MOVED[name]}."
    if name in OPTIONS:
        return f"{name}= is an option of {OPTIONS[name]}, and this function has none of that name."
    others = [each.name for each in ENDPOINTS.values() if name in each.parameters]
    if others:
        is_cap = endpoint.caps and any(name in each.caps for each in ENDPOINTS.values())
        cap = f" Its answers are capped by {endpoint.caps[0]}=." if is_cap else ""
        return f"{endpoint.name} has no parameter {name}=, which is one of {', '.join(others)}.{cap}{_FORCED}"
    names = sorted({*OPTIONS, *ACCOUNT, *VENDORS, *endpoint.parameters, EXTRA})
    near = get_close_matches(name, names, n=1, cutoff=0.75)
    if near:
        of = f", of {OPTIONS[near[0]]}" if near[0] in OPTIONS and near[0] not in endpoint.parameters else ""
        there = f" That is said with {ACCOUNT[near[0]]}." if near[0] in ACCOUNT else ""
        return f"There is no {name}=; did you mean {near[0]}={of}?{there}"
    return f"{name}= is no option of this function and no parameter of {endpoint.name}.{_FORCED}"


def _of_client(name: str) -> str:
    return f"make a client with po.{ACCOUNT[name]} and pass it as client=."
