"""The lists of masked and read-only paths."""

from __future__ import annotations

from sandbox.kernel import masked_paths


def test_the_lists_of_paths_hold_absolute_paths_of_proc_and_sys_once_each():
    paths = (*masked_paths.MASKED_PATHS, *masked_paths.READONLY_PATHS)
    assert len(set(paths)) == len(paths)
    assert all(path.startswith(("/proc/", "/sys/")) for path in paths)
    assert "/proc/kcore" in masked_paths.MASKED_PATHS
    assert "/proc/sys" in masked_paths.READONLY_PATHS
