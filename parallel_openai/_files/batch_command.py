"""The command `parallel-openai batch`."""

from __future__ import annotations

import argparse

from parallel_openai._files.run_command import add_anywhere_argument, exit_code
from parallel_openai.errors import InvalidInputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("submit", "status", "collect", "cancel"), metavar="submit|status|collect|cancel"
    )
    parser.add_argument("--requests_filepath", metavar="FILE", help="the requests, as for `run`; only for `submit`")
    parser.add_argument(
        "--save_filepath",
        metavar="FILE",
        help="the results, or the journal of a frame (default: beside the requests, as ..._results.jsonl)",
    )
    parser.add_argument("--request_url", metavar="URL", help="the endpoint, as for `run`")
    parser.add_argument("--api_key", metavar="KEY", help="the key; better in the environment, as OPENAI_API_KEY")
    add_anywhere_argument(parser)
    parser.add_argument("--wait", action="store_true", help="`submit` also waits for the answers")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often an expired request is submitted (default: 3)"
    )
    parser.add_argument(
        "--then",
        choices=("fail", "online"),
        default="fail",
        help="what happens to it then; online: it is sent at once, at the usual price (default: fail)",
    )
    parser.add_argument(
        "--forget",
        action="append",
        default=[],
        metavar="ID",
        help="`collect` and `cancel` give up this batch, such as one that the server lost; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    from parallel_openai._batch.lane_options import BatchLane
    from parallel_openai._batch.manage import batch_status, cancel_batches, collect_batches
    from parallel_openai._client.client import Client
    from parallel_openai._files.endpoint_url import split_url
    from parallel_openai._files.process_file import process_api_requests_from_file

    if args.what == "submit":
        if args.requests_filepath is None:
            raise InvalidInputError("batch submit needs --requests_filepath.")
        lane = BatchLane(rounds=args.rounds, then=args.then, wait=args.wait)
        status = process_api_requests_from_file(
            args.requests_filepath,
            args.save_filepath,
            args.request_url,
            args.api_key,
            None,
            None,
            lane=lane,
            resume_from_anywhere=args.resume_from_anywhere,
        )
        return 0 if status.ended == "submitted" else exit_code(status)
    if args.save_filepath is None:
        raise InvalidInputError(f"batch {args.what} needs --save_filepath.")
    with Client(None if args.request_url is None else split_url(args.request_url)[0], args.api_key) as client:
        if args.what == "collect":
            lane = BatchLane(rounds=args.rounds, then=args.then)
            status = collect_batches(args.save_filepath, client=client, lane=lane, forget=args.forget)
            return exit_code(status)
        if args.what == "cancel":
            found = cancel_batches(args.save_filepath, client=client, forget=args.forget)
        else:
            found = batch_status(args.save_filepath, client=client)
    print("\n".join(map(str, found)) or "There are no batches in progress.")
    return 0
