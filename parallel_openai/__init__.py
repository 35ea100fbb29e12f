"""Ask an OpenAI-compatible API once per row of a DataFrame, as fast as the limits allow, and never lose an answer.

>>> import pandas as pd
>>> import parallel_openai as po
>>> df = pd.DataFrame({"text": ["Arrived early, works well.", "It leaks."]})
>>> with po.local.simulator.serve() as server:  # a rehearsal on this machine; leave client= out for the real API
...     out = po.process_dataframe(df, "What is the sentiment of this review? {text}", model="gpt-5-mini",
...                                client=po.Client(server.base_url), progress=False)
>>> out["status"].tolist()
['succeeded', 'succeeded']
"""

from importlib import import_module
from typing import TYPE_CHECKING

from parallel_openai import (
    _accessor,  # noqa: F401  # df.openai
    errors,
    local,
)
from parallel_openai._batch.lane_options import BatchLane
from parallel_openai._client.client import Client
from parallel_openai._frames.process import aprocess_dataframe, process_dataframe
from parallel_openai._frames.reporting.report import RunReport, last_run
from parallel_openai._labels.label import alabel_dataframe, label_dataframe
from parallel_openai._progress.status_tracker import StatusTracker
from parallel_openai._records import APIRequest
from parallel_openai._run.lane import RayLane

if TYPE_CHECKING:
    from parallel_openai._batch.manage import batch_status, cancel_batches, collect_batches
    from parallel_openai._files.cookbook import (
        api_endpoint_from_url,
        num_tokens_consumed_from_request,
        task_id_generator_function,
    )
    from parallel_openai._files.process_file import (
        append_to_jsonl,
        aprocess_api_requests_from_file,
        process_api_requests_from_file,
    )
    from parallel_openai._frames.embedding.embed import aembed_dataframe, embed_dataframe
    from parallel_openai._frames.embedding.vectors import vectors
    from parallel_openai._frames.exporting.saving import load, save
    from parallel_openai._frames.exporting.to_jsonl import to_jsonl
    from parallel_openai._frames.inspecting.explain import explain
    from parallel_openai._frames.inspecting.journal_frame import read_journal
    from parallel_openai._frames.inspecting.peek import peek
    from parallel_openai._labels.evaluation.agreement import Agreement, agreement
    from parallel_openai._labels.evaluation.compare import Comparison, acompare, compare
    from parallel_openai._labels.evaluation.evaluate import evaluate
    from parallel_openai._labels.evaluation.evaluation_result import Evaluation
    from parallel_openai._labels.reviewing.review import Review, review
    from parallel_openai._preview.preview import Preview, preview
    from parallel_openai._ray.dataset import process_dataset

__version__ = "0.1.0"

__all__ = [
    "APIRequest",
    "Agreement",
    "BatchLane",
    "Client",
    "Comparison",
    "Evaluation",
    "Preview",
    "RayLane",
    "Review",
    "RunReport",
    "StatusTracker",
    "acompare",
    "aembed_dataframe",
    "agreement",
    "alabel_dataframe",
    "api_endpoint_from_url",
    "append_to_jsonl",
    "aprocess_api_requests_from_file",
    "aprocess_dataframe",
    "batch_status",
    "cancel_batches",
    "collect_batches",
    "compare",
    "embed_dataframe",
    "errors",
    "evaluate",
    "explain",
    "label_dataframe",
    "last_run",
    "load",
    "local",
    "num_tokens_consumed_from_request",
    "peek",
    "preview",
    "process_api_requests_from_file",
    "process_dataframe",
    "process_dataset",
    "read_journal",
    "review",
    "save",
    "task_id_generator_function",
    "to_jsonl",
    "vectors",
]


#: What the first call mostly does not need, by where it is: imported when it is first asked for.
_LATER = {
    "_batch.manage": "batch_status cancel_batches collect_batches",
    "_files.cookbook": "api_endpoint_from_url num_tokens_consumed_from_request task_id_generator_function",
    "_files.process_file": "append_to_jsonl aprocess_api_requests_from_file process_api_requests_from_file",
    "_frames.embedding.embed": "aembed_dataframe embed_dataframe",
    "_frames.embedding.vectors": "vectors",
    "_frames.exporting.saving": "load save",
    "_frames.exporting.to_jsonl": "to_jsonl",
    "_frames.inspecting.explain": "explain",
    "_frames.inspecting.journal_frame": "read_journal",
    "_frames.inspecting.peek": "peek",
    "_labels.evaluation.agreement": "Agreement agreement",
    "_labels.evaluation.compare": "Comparison acompare compare",
    "_labels.evaluation.evaluate": "evaluate",
    "_labels.evaluation.evaluation_result": "Evaluation",
    "_labels.reviewing.review": "Review review",
    "_preview.preview": "Preview preview",
    "_ray.dataset": "process_dataset",
}

if not TYPE_CHECKING:  # else every name would be taken for one that there is

    def __getattr__(name: str) -> object:
        for place, names in _LATER.items():
            if name in names.split():
                found = globals()[name] = getattr(import_module(f"{__name__}.{place}"), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
