"""Runs a function of a test in new namespaces, in a forked child that sends back the function's result."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from sandbox.host import facts as host
from sandbox.kernel import idmaps, mounts, namespaces

Inside = Callable[..., Any]


class InNamespaces:
    """Runs a function in new namespaces, and returns its result, which must be a value of JSON."""

    def __init__(self) -> None:
        self.facts = host.gather()

    def has_whole_map(self) -> bool:
        """Return whether this account can map a range of ids."""
        return self.facts.whole_maps() is not None

    def __call__(
        self,
        function: Inside,
        *,
        kinds: tuple[str, ...] = ("mount",),
        single_id: bool = False,
        with_fuse: bool = False,
    ) -> Any:
        """Run *function* as id 0 of a new user namespace, in new namespaces of *kinds*, with private mounts.

        The map is the widest that the account can make, or a single id. *with_fuse* passes a descriptor of /dev/fuse.
        """
        maps = None if single_id else self.facts.whole_maps()
        helpers = self.facts.map_helpers if maps is not None else None
        uid_map, gid_map = maps or (idmaps.single_map(os.geteuid()), idmaps.single_map(os.getegid()))
        ready, made = os.pipe()
        result, report = os.pipe()
        go, mapped = os.pipe()
        child = os.fork()
        if child == 0:
            for fd in (ready, result, mapped):
                os.close(fd)
            _run_and_exit(function, kinds, made, go, report, with_fuse=with_fuse)
        for fd in (made, report, go):
            os.close(fd)
        try:
            if os.read(ready, 1):
                newuidmap, newgidmap = helpers or (None, None)
                idmaps.write_maps(child, uid_map, gid_map, newuidmap=newuidmap, newgidmap=newgidmap)
                os.write(mapped, b"x")
            answer = b""
            while block := os.read(result, 65536):
                answer += block
        finally:
            for fd in (ready, result, mapped):
                os.close(fd)
            os.waitpid(child, 0)
        if not answer:
            pytest.fail("the child ended without a report")
        outcome = json.loads(answer)
        if "error" in outcome:
            pytest.fail(f"inside the namespaces:\n{outcome['error']}", pytrace=False)
        return outcome["value"]


def _run_and_exit(
    function: Inside, kinds: tuple[str, ...], made: int, go: int, report: int, *, with_fuse: bool
) -> NoReturn:
    try:
        namespaces.unshare(["user"])
        # Real root must open the device before the change of ids, because the new root may not open a device of mode 0600.
        arguments = [os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)] if with_fuse else []
        os.write(made, b"x")
        if not os.read(go, 1):
            os._exit(1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        namespaces.unshare(kinds)
        if "mount" in kinds:
            mounts.make_private()
        if "pid" in kinds:
            inner = os.fork()
            if inner:
                os.waitpid(inner, 0)
                os._exit(0)
        outcome = {"value": function(*arguments)}
    except BaseException:  # noqa: BLE001 - the parent shows it, this process must not return into pytest
        outcome = {"error": traceback.format_exc()}
    try:
        os.write(report, json.dumps(outcome).encode())
        sys.stdout.flush()
    finally:
        os._exit(0)


@pytest.fixture(scope="session")
def in_namespaces() -> InNamespaces:
    """Return the runner."""
    return InNamespaces()


@pytest.fixture
def open_directory() -> Iterator[str]:
    """Make a directory that every user may write to. Root of a sandbox of real root may not write to pytest's own."""
    path = tempfile.mkdtemp(prefix="sandbox-kernel-")
    os.chmod(path, 0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def tree(open_directory) -> str:
    """Make directories to mount on."""
    for name in ("source", "source/sub", "source/sub/deep", "target", "root"):
        os.mkdir(f"{open_directory}/{name}")
        os.chmod(f"{open_directory}/{name}", 0o777)
    for name, content in (("source/file", "content"), ("plain", "")):
        with open(f"{open_directory}/{name}", "w") as file:
            file.write(content)
    return open_directory
