"""``python -m unionfs``: the same as the command ``unionfs``."""

import os
import sys

from unionfs.cli import main

status = main()
# Exit without interpreter shutdown: its tables may be large, and the launcher waits for this process.
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)
