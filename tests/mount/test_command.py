"""The command ``unionfs``: exit statuses, messages, the daemon."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress

import pytest

from tests.mount.support import (
    WITHOUT_OVERRIDE,
    Union,
    is_mounted,
    make_union,
    run_unionfs,
    unmount,
    wait_until,
)
from tests.support.tree import make_tree
from unionfs import __version__

pytestmark = pytest.mark.fusermount


def server_of(mountpoint: str) -> int | None:
    """Return the process that serves *mountpoint*."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if os.fsencode(mountpoint) in arguments and b"unionfs" in arguments:
            return int(name)
    return None


@pytest.fixture
def stack(base: str) -> str:
    """Return a directory with a lower layer, an upper and a work directory and a mount point."""
    make_tree(
        base, {"lower": {"file": b"content", "inner": {}}, "upper": {"inner": {}}, "work": {}, "mnt": {}}
    )
    return base


def refusal(*arguments: str, cwd: str) -> str:
    """Run the command, which must fail with one line; return the message."""
    done = run_unionfs(*arguments, cwd=cwd)
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert re.fullmatch(r"unionfs: [^\n]+\n", done.stderr), done.stderr
    assert not is_mounted(os.path.join(cwd, "mnt"))
    return done.stderr.removeprefix("unionfs: ").rstrip("\n")


# -- mounting and ending -------------------------------------------------------------------------------


def test_the_command_returns_once_the_mount_is_usable_and_leaves_a_daemon(stack: str) -> None:
    mountpoint = os.path.join(stack, "mnt")
    done = run_unionfs("-o", "lowerdir=lower,upperdir=upper,workdir=work", "mnt", cwd=stack)
    try:
        # run_unionfs has returned, so the daemon has closed its copies of the pipes.
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with open(os.path.join(mountpoint, "file"), "rb") as file:
            assert file.read() == b"content"
        server = server_of(mountpoint) or server_of("mnt")
        assert server is not None
        assert os.readlink(f"/proc/{server}/cwd") == "/"
        assert os.getsid(server) != os.getsid(0)
        assert {os.readlink(f"/proc/{server}/fd/{fd}") for fd in (0, 1, 2)} == {os.devnull}
    finally:
        unmount(mountpoint)
    wait_until(lambda: server_of("mnt") is None, "the daemon ends with its mount")


def test_in_the_foreground_the_command_stays_silent_until_it_is_unmounted(base: str) -> None:
    union = make_union(base, {"file": b"x"}).mount()
    assert union.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        union.process.wait(0.1)
    union.unmount()  # asserts status 0 and an empty log


def test_sigterm_unmounts_and_ends_with_status_0(base: str) -> None:
    union = make_union(base, {"file": b"x"}).mount()
    assert union.terminate() == 0
    assert not is_mounted(union.path)
    assert union.log() == ""


def test_sigterm_unmounts_although_a_file_is_open(base: str) -> None:
    union = make_union(base, {"file": b"x"}).mount()
    fd = os.open(os.path.join(union.path, "file"), os.O_RDONLY)
    try:
        assert union.terminate() == 0
        assert not is_mounted(union.path)
    finally:
        # The connection has ended. close(2) fails then, unless the kernel already knew that FLUSH is not implemented.
        with suppress(OSError):
            os.close(fd)


def test_an_unknown_option_is_a_warning_and_ignored(stack: str) -> None:
    done = run_unionfs("-o", "lowerdir=lower,plugins=/x", "mnt", cwd=stack)
    try:
        assert done.returncode == 0
        assert done.stderr == "unionfs: unknown option ignored: plugins=/x\n"
        assert os.listdir(os.path.join(stack, "mnt")) != []
    finally:
        unmount(os.path.join(stack, "mnt"))


def test_directories_with_separators_in_their_names_can_be_given(base: str) -> None:
    make_tree(base, {"a:b,c": {"file": b"x"}, "mnt": {}})
    with Union(base, [os.path.join(base, r"a\:b\,c")], writable=False) as union:
        assert os.listdir(union.path) == ["file"]


def test_the_version_is_printed() -> None:
    done = run_unionfs("--version")
    assert (done.returncode, done.stdout) == (0, f"unionfs {__version__}\n")


# -- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [[], ["-o", "lowerdir=lower"], ["-o", "lowerdir=lower", "a", "b", "mnt"]],
    ids=["none", "no mount point", "too many"],
)
def test_a_wrong_command_line_ends_with_status_2_and_the_usage(stack: str, arguments: list[str]) -> None:
    done = run_unionfs(*arguments, cwd=stack)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: unionfs ")


def test_a_flag_without_effect_is_a_warning_and_ignored(stack: str) -> None:
    done = run_unionfs("--no-such-flag", "mnt", cwd=stack)
    assert done.stderr.splitlines()[0] == "unionfs: unknown argument ignored: --no-such-flag"


def test_a_missing_lowerdir_option_is_an_error_that_names_it(stack: str) -> None:
    assert refusal("mnt", cwd=stack) == "option lowerdir is missing: add -o lowerdir=TOP:...:BOTTOM"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("lowerdir=nowhere", "lowerdir nowhere: No such file or directory"),
        ("lowerdir=lower:lower/file", "lowerdir lower/file: Not a directory"),
        ("lowerdir=lower,upperdir=nowhere,workdir=work", "upperdir nowhere: No such file or directory"),
        ("lowerdir=lower,upperdir=upper,workdir=nowhere", "workdir nowhere: No such file or directory"),
    ],
)
def test_a_missing_directory_is_named_with_its_role(stack: str, options: str, message: str) -> None:
    assert refusal("-o", options, "mnt", cwd=stack) == message


def test_a_missing_mount_point_is_named(stack: str) -> None:
    message = refusal("-o", "lowerdir=lower", "nowhere", cwd=stack)
    assert message == f"mount point {stack}/nowhere: No such file or directory"


def test_an_upper_directory_without_a_work_directory_is_refused(stack: str) -> None:
    message = refusal("-o", "lowerdir=lower,upperdir=upper", "mnt", cwd=stack)
    assert message.startswith("option upperdir requires workdir")


@pytest.mark.parametrize(
    ("options", "inner", "outer"),
    [
        ("lowerdir=lower,upperdir=lower/inner,workdir=work", "upperdir lower/inner", "lowerdir lower"),
        ("lowerdir=upper/inner,upperdir=upper,workdir=work", "lowerdir upper/inner", "upperdir upper"),
        ("lowerdir=lower,upperdir=lower,workdir=work", "upperdir lower", "lowerdir lower"),
        ("lowerdir=lower,upperdir=upper,workdir=upper", "upperdir upper", "workdir upper"),
        ("lowerdir=lower,upperdir=upper,workdir=upper/inner", "workdir upper/inner", "upperdir upper"),
    ],
)
def test_directories_inside_each_other_are_refused_with_both_names(
    stack: str, options: str, inner: str, outer: str
) -> None:
    message = refusal("-o", options, "mnt", cwd=stack)
    relation = "is the same directory as" if inner.split()[1] == outer.split()[1] else "is inside"
    assert message == f"{inner} {relation} {outer}: use a directory outside it"


@pytest.mark.parametrize("mountpoint", ["lower/inner", "lower", "upper/inner"])
def test_a_mount_point_inside_a_layer_is_refused(stack: str, mountpoint: str) -> None:
    message = refusal("-o", "lowerdir=lower,upperdir=upper,workdir=work", mountpoint, cwd=stack)
    layer = mountpoint.split("/", maxsplit=1)[0]
    relation = "is the same directory as" if mountpoint == layer else "is inside"
    point = f"mount point {stack}/{mountpoint}"
    assert message == f"{point} {relation} layer {layer}: use a directory outside it"


def test_a_mount_point_inside_a_layer_is_found_through_a_symbolic_link(stack: str) -> None:
    os.symlink("lower/inner", os.path.join(stack, "link"))
    message = refusal("-o", "lowerdir=lower", "link", cwd=stack)
    assert "is inside layer lower" in message


def test_a_file_system_that_cannot_be_written_is_an_error_of_one_line(stack: str) -> None:
    options = "lowerdir=lower,upperdir=/proc,workdir=work"
    expected = "different file systems" if os.geteuid() == 0 else "upperdir /proc cannot be written"
    assert expected in refusal("-o", options, "mnt", cwd=stack)


def test_debugging_shows_the_traceback_of_a_failure(stack: str) -> None:
    done = run_unionfs("-d", "-o", "lowerdir=nowhere", "mnt", cwd=stack)
    assert done.returncode == 1
    assert "unionfs: lowerdir nowhere: No such file or directory\n" in done.stderr
    assert "Traceback" in done.stderr


def test_a_directory_without_the_permissions_that_it_needs_is_named(stack: str) -> None:
    for role, mode, verb in (
        ("upperdir", 0o500, "written"),
        ("workdir", 0o500, "written"),
        ("lowerdir", 0o300, "read"),
    ):
        paths = {"lowerdir": "lower", "upperdir": "upper", "workdir": "work", role: "shut"}
        os.makedirs(f"{stack}/shut", exist_ok=True)
        os.chmod(f"{stack}/shut", mode)
        options = ",".join(f"{key}={path}" for key, path in paths.items())
        done = run_unionfs("-o", options, "mnt", cwd=stack, wrapper=WITHOUT_OVERRIDE)
        assert done.returncode == 1
        said = (
            f"unionfs: {role} shut cannot be {verb} by this user: use another directory, or change its mode\n"
        )
        assert done.stderr == said
        os.chmod(f"{stack}/shut", 0o700)
