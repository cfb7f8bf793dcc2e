"""`tlora VERB ...`: adapters without the pipeline. A new verb is a module in `tlora/commands` and a line in `VERBS`."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from tlora.commands import card, doctor, export, import_, infer, inspect, keys, publish, train, verify
from tlora.errors import TloraError
from tlora.runtime.preemption import PREEMPTED, Preempted
from tlora.runtime.remedies import CONFIG, explain


@dataclass(frozen=True)
class Verb:
    """A verb: what it does in one line, its options, and what runs it."""

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


VERBS = {
    "doctor": Verb("say whether training can start here, and what it will cost", doctor.add_options, doctor.run),
    "train": Verb("train an adapter from a flat configuration file", train.add_options, train.run),
    "infer": Verb("draw pictures with an adapter", infer.add_options, infer.run),
    "export": Verb("write an adapter as the files that other tools load", export.add_options, export.run),
    "import": Verb("make an adapter of another tool's LoRA", import_.add_options, import_.run),
    "inspect": Verb("say what an adapter file holds, without loading a model", inspect.add_options, inspect.run),
    "card": Verb("write a model card beside an adapter, from files only", card.add_options, card.run),
    "publish": Verb(
        "put an adapter with its card on the Hugging Face hub; without --yes, say what would go", publish.add_options, publish.run
    ),
    "keys": Verb("make the keys that adapters are signed and verified with", keys.add_options, keys.run),
    "verify": Verb("say who signed an adapter or a registered model, or refuse it", verify.add_options, verify.run),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit; whatever is wrong with what was given is one line."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        options.run(options)
    except TloraError as error:
        sys.exit(f"tlora {options.verb}: error: {explain(error, CONFIG)}")
    except Preempted as stop:
        print(f"tlora {options.verb}: stopped: {stop}", file=sys.stderr)
        sys.exit(PREEMPTED)
    except KeyboardInterrupt:
        print(f"tlora {options.verb}: stopped by the keyboard", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"tlora {options.verb}: error: {where}{error.strerror or error}")


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(prog="tlora", description="Train, use and look at T-LoRA adapters for FLUX.1.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False)
        verb.add_options(command)
        command.set_defaults(run=verb.run)
    return parser


if __name__ == "__main__":
    main()
