"""Unpack an archive as the store does, and print the memory and the time that this took.

python -m tests.unit.sandbox.images.measured_program ARCHIVE DESTINATION [MEMORY]
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

from sandbox.errors import ImageError
from sandbox.images.bounded import MEMORY, unpack_bounded
from sandbox.images.layer_stream import LayerStream


def main(archive: str, destination: str, memory: str = str(MEMORY)) -> None:
    """Print a JSON object: the error, if there was one, entries, seconds of processor time, and the peak of resident memory in bytes."""
    fd = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    result: dict[str, object] = {"error": None, "entries": None}
    begun = time.process_time()
    try:
        with open(archive, "rb") as file, LayerStream(file, "a.tar") as layer:
            report = unpack_bounded(layer.open_archive(), fd, single_id=True, memory=int(memory))
            layer.finish()
        result["entries"] = report.entries
    except (ImageError, OSError) as error:
        result["error"] = str(error)
    result["seconds"] = time.process_time() - begun
    # Not ru_maxrss, which execve(2) does not reset; see proc_pid_status(5).
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert peak is not None
    result["peak"] = int(peak[1]) << 10
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
