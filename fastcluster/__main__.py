"""``python -m fastcluster`` is the command ``fastcluster``."""

import sys

from fastcluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
