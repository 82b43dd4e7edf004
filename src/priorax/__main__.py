"""`python -m priorax` is the same as the command `priorax`."""

import sys

from priorax.cli import main

if __name__ == "__main__":
    sys.exit(main())
