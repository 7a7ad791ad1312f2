"""Seccomp filters and Landlock on the running kernel."""

from __future__ import annotations

import errno
import os

import pytest

from sandbox.kernel import _libc, filters
from tests.kernel.support import in_child, refusal

LSM = "/sys/kernel/security/lsm"


def seccomp_mode() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Seccomp:"))


def test_a_filter_that_allows_everything_can_be_set():
    def in_filter() -> bool:
        filters.allow_every_call()
        return seccomp_mode() == 2 and os.getpid() > 0

    assert in_child(in_filter) == 0


def test_a_filter_needs_no_new_privileges_or_a_capability():
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary account")
    assert refusal(_libc.set_seccomp_filter, filters._ALLOW_ALL) == "EACCES"


@pytest.mark.skipif(not os.path.exists(LSM), reason="needs securityfs on /sys/kernel/security")
def test_landlock_has_a_version_where_it_is_among_the_security_modules():
    with open(LSM) as file:
        assert (filters.landlock_version() > 0) == ("landlock" in file.read().split(","))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_kernel_without_landlock_has_version_0(monkeypatch, number):
    def refuse() -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_libc, "landlock_version", refuse)
    assert filters.landlock_version() == 0


def test_any_other_refusal_of_landlock_is_an_error(monkeypatch):
    def refuse() -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(_libc, "landlock_version", refuse)
    assert refusal(filters.landlock_version) == "EPERM"


def test_a_library_that_does_not_exist_does_not_load():
    assert not _libc.library_loads("libno-such-library.so.9")
    assert _libc.library_loads("libc.so.6")
