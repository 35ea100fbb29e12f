"""The command `parallel-openai run`."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parallel_openai._progress.status_tracker import StatusTracker

BAD_INPUT, USED_UP = 2, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requests_filepath",
        required=True,
        metavar="FILE",
        help="the requests: one JSON object per line, the body of a call; its field `metadata`, if any, is copied to "
        "the results; or lines in the Batch API's format; - reads standard input; may also be a pipe",
    )
    parser.add_argument(
        "--save_filepath",
        metavar="FILE",
        help="the results (default: beside the requests, as ..._results.jsonl); - also writes them to standard "
        "output at the end, which is the default if the requests are -",
    )
    parser.add_argument(
        "--request_url",
        metavar="URL",
        help="the endpoint (default: OPENAI_BASE_URL, otherwise OpenAI's; /embeddings for a request with an `input`, "
        "/completions for a `prompt`, otherwise /chat/completions)",
    )
    parser.add_argument(
        "--api_key",
        metavar="KEY",
        help="the key; better in the environment, as OPENAI_API_KEY: others on the machine can read a command line",
    )
    for name, limit in (("max_requests_per_minute", 1500.0), ("max_tokens_per_minute", 125_000.0)):
        parser.add_argument(
            f"--{name}",
            type=_limit,
            default=limit,
            metavar="N",
            help=f"the account's limit (default: {limit:.0f}); none: read from the server",
        )
    parser.add_argument(
        "--token_encoding_name",
        default="cl100k_base",
        metavar="NAME",
        help="the tiktoken encoding for counting tokens (default: cl100k_base)",
    )
    parser.add_argument(
        "--max_attempts",
        type=int,
        default=5,
        metavar="N",
        help="failed attempts of a request after which it fails (default: 5)",
    )
    parser.add_argument(
        "--budget_usd",
        type=float,
        metavar="DOLLARS",
        help="the most that this call may spend; each request then needs a cap on its answer (max_completion_tokens)",
    )
    parser.add_argument("--budget_tokens", type=int, metavar="N", help="the same in prompt and completion tokens")
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="after this time nothing more is sent; answers in flight have 10 s",
    )
    parser.add_argument(
        "--resubmit", action="store_true", help="send requests in batches of an earlier call again, and pay twice"
    )
    add_anywhere_argument(parser)
    parser.add_argument(
        "--logging_level",
        type=_logging_level,
        default=logging.INFO,
        metavar="LEVEL",
        help="a number or name; 20 (INFO, the default) logs each failed request, 50 (CRITICAL) nothing",
    )


def add_anywhere_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume_from_anywhere",
        action="store_true",
        help="accept answers in the results from another server or deployment, or of unknown origin",
    )


def _limit(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def _logging_level(text: str) -> int:
    level = logging.getLevelName(text.upper())
    if isinstance(level, int):
        return level
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a level; give 10, 20, 30, 40 or 50") from None


def run(args: argparse.Namespace) -> int:
    from parallel_openai._files.pipes import piped
    from parallel_openai._files.process_file import process_api_requests_from_file

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log = logging.getLogger("parallel_openai")
    log.addHandler(handler)
    try:
        with piped(args.requests_filepath, args.save_filepath) as (requests_filepath, save_filepath):
            options = {**vars(args), "requests_filepath": requests_filepath, "save_filepath": save_filepath}
            del options["verb"]  # the others are called as the function's own
            status = process_api_requests_from_file(**options)
    finally:
        log.removeHandler(handler)
    return exit_code(status)


def exit_code(status: StatusTracker) -> int:
    if status.ended != "finished":
        return USED_UP
    return BAD_INPUT if 0 < status.num_tasks_done == status.errors["invalid_line"] else 0
