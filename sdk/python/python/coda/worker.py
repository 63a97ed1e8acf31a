"""`coda-worker`, and `python -m coda.worker`: runs worker processes. `--help` teaches."""

from __future__ import annotations

import sys

from ._cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
