"""`python -m torchtune_hp`: the command line where the program `torchtune-hp` is not on the path."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
