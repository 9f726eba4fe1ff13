"""`python -m hgenv`: the `hgenv` command, where it is not in the PATH."""

import sys

from hgenv.benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
