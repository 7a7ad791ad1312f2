"""``python -m sandbox``: the same as the command ``sandbox``."""

import sys

from sandbox.cli.main import main

sys.exit(main())
