"""`python -m flows.votes`: how many blind votes there are on the challenger; close the round, and be told what they say."""

import argparse
import sys

from tasks.registry.names import registered_name_here
from tasks.registry.votes import close_round, open_pair, read_round
from tasks.tracking.store import explained_failures, open_store
from tlora.errors import TloraError


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.votes", description="Blind votes on the challenger against the champion."
    )
    parser.add_argument("--model", default="", help="name of the registered model, by default this tree's")
    parser.add_argument("--close", metavar="NAME", help="close the round; NAME is who does")
    options = parser.parse_args()
    try:
        with explained_failures():
            store = open_store()
            challenger, champion = open_pair(store, options.model or registered_name_here())
            held = read_round(store, challenger, champion)
            held = held if options.close is None else close_round(store, challenger, champion, options.close)
    except (TloraError, OSError) as error:
        print(f"votes: error: {error}", file=sys.stderr)
        return 1
    print(f"votes: version {held.challenger} against champion {held.champion}: {held.tally()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
