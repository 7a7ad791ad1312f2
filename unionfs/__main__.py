"""``python -m unionfs``: the same as the command ``unionfs``."""

import os
import sys

from unionfs.cli import main

status = main()
# Exit without interpreter shutdown: its tables may be large, and the launcher waits for this process.
for stream in (sys.stdout, sys.stderr):
    if stream is not None:  # it is if its descriptor is closed
        stream.flush()
os._exit(status)
