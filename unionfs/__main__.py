"""``python -m unionfs``: the same as the command ``unionfs``."""

import sys

from unionfs.cli import main

sys.exit(main())
