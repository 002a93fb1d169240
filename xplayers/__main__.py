"""``python -m xplayers`` is the command ``xplayers``."""

import sys

from xplayers.cli import main

if __name__ == "__main__":
    sys.exit(main())
