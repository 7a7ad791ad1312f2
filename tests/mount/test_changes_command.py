"""The command ``unionfs changes`` beside a running mount and without one: text, JSON, archives, wrong use, and failures."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.mount.support import PATIENCE, Union, environment, make_union, run_unionfs
from tests.support.tree import File, HardLink, Node, make_tree, snapshot
from unionfs.launch.protocol import ServedLayer, ServedStack, send_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOWER: dict[str, Node] = {
    "a": b"one\ntwo\n",
    "d": {"sub": {"x": b"x"}, "y": b"y"},
    "gone": {"in": b"in"},
    "h1": b"linked",
    "h2": HardLink("h1"),
}
STRANGE = b"\x1b[31m\xff\n"


def run(*arguments: str | bytes, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `unionfs changes` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "unionfs", "changes", *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


def output(*arguments: str | bytes, **more: Any) -> bytes:
    """Run the command, which must succeed without messages; return its output."""
    done = run(*arguments, **more)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def options(union: Union) -> str:
    """Return the options of *union* for the command line: those of its mount."""
    return union.options


def change(root: str) -> None:
    """Change what is mounted on *root*."""
    with open(f"{root}/a", "ab") as file:
        file.write(b"three\n")
    os.rename(f"{root}/d", f"{root}/moved")
    os.unlink(f"{root}/moved/y")
    os.unlink(f"{root}/gone/in")
    os.rmdir(f"{root}/gone")
    os.chmod(f"{root}/h1", 0o600)
    with open(os.path.join(os.fsencode(root), STRANGE), "wb") as file:
        file.write(b"new")


ROWS = [
    ("A", "/" + os.fsdecode(STRANGE), None),
    ("C", "/a", None),
    ("D", "/d/y", None),
    ("D", "/gone", None),
    ("D", "/gone/in", None),
    ("C", "/h1", None),
    ("C", "/h2", None),
    ("R", "/moved", "/d"),
]


@pytest.fixture
def union(base: str) -> Iterator[Union]:
    """Yield a mounted union with changes."""
    with make_union(base, LOWER) as mounted:
        change(mounted.path)
        yield mounted


# -- beside a mount and without one --------------------------------------------------------------------


@pytest.mark.fusermount
def test_the_rows_are_printed_as_text_with_control_characters_escaped(union: Union) -> None:
    lines = output("-o", options(union)).decode().splitlines()
    assert lines == [
        r"A /\x1b[31m\udcff\n",
        "C /a",
        "D /d/y",
        "D /gone",
        "D /gone/in",
        "C /h1",
        "C /h2",
        "R /d -> /moved",
    ]


@pytest.mark.fusermount
def test_the_rows_are_printed_as_json_with_their_number_last(union: Union) -> None:
    *rows, last = map(json.loads, output("-o", options(union), "--json").splitlines())
    assert [(row["kind"], row["path"], row.get("from")) for row in rows] == ROWS
    assert last == {"version": 1, "rows": len(ROWS)}
    assert {row["path"]: (row["type"], row["size"]) for row in rows if row["kind"] != "D"} == {
        "/" + os.fsdecode(STRANGE): ("file", 3),
        "/a": ("file", 14),
        "/h1": ("file", 6),
        "/h2": ("file", 6),
        "/moved": ("directory", 0),
    }


@pytest.mark.fusermount
def test_json_has_facts_and_diffs_on_request(union: Union) -> None:
    *rows, _ = map(json.loads, output("-o", options(union), "--json", "--facts", "--text").splitlines())
    (row,) = [row for row in rows if row["path"] == "/a"]
    assert row["diff"] == ["@@ -1,2 +1,3 @@", " one", " two", "+three"]
    assert (row["mode"], row["uid"], row["old"]["path"]) == (0o644, os.getuid(), "/a")


@pytest.mark.fusermount
@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/a"], ["/a"]),
        (["a", "/gone/"], ["/a", "/gone", "/gone/in"]),
        (["//moved/./"], ["/moved"]),
        (["/mov"], []),
        (["/"], [path for _, path, _ in ROWS]),
        ([b"/" + STRANGE], ["/" + os.fsdecode(STRANGE)]),
    ],
)
def test_a_path_selects_the_rows_at_and_below_it(
    union: Union, paths: list[str | bytes], expected: list[str]
) -> None:
    *rows, last = map(json.loads, output("-o", options(union), "--json", *paths).splitlines())
    assert [row["path"] for row in rows] == expected
    assert last["rows"] == len(expected)


@pytest.mark.fusermount
def test_more_paths_come_over_a_descriptor(union: Union) -> None:
    def selected(paths: bytes, *more: str) -> list[str]:
        reader, writer = os.pipe()
        os.write(writer, paths)
        os.close(writer)
        try:
            command = ["-o", options(union), "--json", "--paths-fd", str(reader), *more]
            *rows, _ = map(json.loads, output(*command, pass_fds=[reader]).splitlines())
        finally:
            os.close(reader)
        return [row["path"] for row in rows]

    assert selected(b"/" + STRANGE + b"\0h2\0") == ["/" + os.fsdecode(STRANGE), "/h2"]
    assert selected(b"h2\0", "a") == ["/a", "/h2"]
    assert selected(b"") == []


@pytest.mark.fusermount
def test_after_the_mount_the_changes_are_the_same(base: str) -> None:
    with make_union(base, LOWER) as mounted:
        change(mounted.path)
        text, archive = output("-o", options(mounted)), output("-o", options(mounted), "--archive", "layer")
        seen = snapshot(mounted.path)
    assert output("-o", options(mounted)) == text
    assert output("-o", options(mounted), "--archive", "layer") == archive
    assert snapshot(mounted.path) != seen
    # Nothing was changed by reading, so the next mount shows the same.
    with mounted:
        assert snapshot(mounted.path) == seen


@pytest.mark.fusermount
def test_the_tree_of_the_root_is_what_the_mount_shows(union: Union, base: str) -> None:
    target = os.path.join(base, "unpacked")
    os.mkdir(target)
    for kind, paths in (("trees", ["/"]), ("members", [b"/" + STRANGE])):
        archive = output("-o", options(union), "--archive", kind, *paths)
        command = ["tar", "--extract", "--warning=no-unknown-keyword", "--same-permissions", "--xattrs"]
        subprocess.run([*command, "--directory", target], input=archive, check=True)
        assert snapshot(target, mtime=False) == snapshot(union.path, mtime=False)


#: Replaces, makes and removes files and directories until it is killed.
WRITER = """
import itertools, os, shutil
for i in itertools.count():
    with open("t", "w") as file:
        file.write(str(i))
    os.rename("t", f"f{i % 7}")
    os.mkdir(f"k{i % 5}")
    os.rename(f"k{i % 5}", "l")
    with open("l/in", "w") as file:
        file.write(str(i))
    if os.path.exists(f"f{i % 3}"):
        os.unlink(f"f{i % 3}")
    shutil.rmtree("l")
"""


@pytest.mark.fusermount
def test_the_command_reads_while_the_mount_is_written(union: Union) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER], cwd=union.path) as writer:
        try:
            for arguments in (["--json", "--text"], ["--archive", "layer"], ["--archive", "trees", "/"]) * 4:
                data = output("-o", options(union), *arguments)
                if arguments[0] == "--archive":
                    listed = subprocess.run(["tar", "--list"], input=data, capture_output=True, check=True)
                    assert b"moved/sub/x\n" in listed.stdout
                else:
                    assert "/moved" in [json.loads(line).get("path") for line in data.splitlines()]
            assert writer.poll() is None
        finally:
            writer.kill()


def test_the_help_of_unionfs_mentions_the_command() -> None:
    assert "unionfs changes prints what the writable layer of a union changes" in run_unionfs("--help").stdout
    assert "--archive {layer,trees,members}" in run_unionfs("changes", "--help").stdout


# -- wrong use, and failures ---------------------------------------------------------------------------


@pytest.fixture
def stack(base: str) -> str:
    """Return the options of a stack on disk whose writable layer no server has used."""
    make_tree(f"{base}/lower", LOWER)
    make_tree(base, {"upper": {"new": b"new"}, "work": {}})
    return f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--facts"], "--facts and --text need --json"),
        (["--text"], "--facts and --text need --json"),
        (["--json", "--archive", "layer"], "not allowed with argument"),
        (["--archive", "zip"], "invalid choice: 'zip'"),
        (["--archive", "trees"], "--archive trees needs a PATH, / for the root"),
        (["--archive", "members"], "--archive members needs a PATH, / for the root"),
        (["a/../../b"], "a PATH is a path of the union, without .."),
        (["--wrong"], "unrecognized arguments: --wrong"),
        (["--jso"], "unrecognized arguments: --jso"),
    ],
)
def test_a_wrong_command_line_has_status_2(stack: str, arguments: list[str], message: str) -> None:
    done = run("-o", stack, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert re.search(
        rb"^unionfs changes: error: [^\n]*" + re.escape(message.encode()), done.stderr, re.MULTILINE
    )


def failure(*arguments: str | bytes, **more: Any) -> str:
    """Run the command, which must fail with one line; return the message."""
    done = run(*arguments, **more)
    assert done.returncode == 1, done
    assert re.fullmatch(rb"unionfs: [^\n]+\n", done.stderr), done.stderr
    return done.stderr.decode().removeprefix("unionfs: ").rstrip("\n")


def test_failures_are_one_line_and_status_1(stack: str, base: str) -> None:
    assert "lowerdir is missing" in failure()
    assert failure("-o", f"lowerdir={base}/lower") == (
        "only a writable layer has changes: give upperdir and workdir"
    )
    assert failure("-o", stack.replace("/lower", "/none")) == (
        f"lowerdir {base}/none: No such file or directory"
    )
    assert failure("-o", stack, "--archive", "trees", "/none") == "/none: No such file or directory"
    assert failure("-o", stack, "--archive", "members", b"/x\n\x1b") == r"/x\n\x1b: No such file or directory"
    assert "Bad file descriptor" in failure("-o", stack, "--paths-fd", "99")
    assert "Bad file descriptor" in failure("--request-fd", "99")
    with open("/dev/full", "wb") as full:
        assert failure("-o", stack, stdout=full) == "No space left on device"
        assert failure("-o", stack, "--archive", "layer", stdout=full) == "No space left on device"
    os.mkdir(f"{base}/upper/.wh.x")
    assert failure("-o", stack, "--archive", "trees", "/.wh.x").startswith("/.wh.x: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_an_unreadable_layer_is_one_line_and_status_1(stack: str, base: str) -> None:
    make_tree(base, {"upper/d": {"in": b""}, "upper/f": File(b"", mode=0)})
    assert failure("-o", stack, "--archive", "layer") == "/f: Permission denied"
    os.unlink(f"{base}/upper/f")
    os.chmod(f"{base}/upper/d", 0)
    assert failure("-o", stack, "--archive", "layer") == "/d: Permission denied"
    os.chmod(f"{base}/upper/d", 0o755)
    os.chmod(f"{base}/upper", 0)
    try:
        assert "cannot be read by this user" in failure("-o", stack)
    finally:
        os.chmod(f"{base}/upper", 0o755)


def test_a_layer_that_this_account_may_only_read_is_read(stack: str, base: str) -> None:
    """No directory has to be writable, not even that for the index of the mount."""
    os.mkdir(f"{base}/indexes", 0o755)
    for name in ("lower", "upper", "work", "indexes"):
        os.chmod(f"{base}/{name}", 0o555)
    assert output("-o", f"{stack},index_dir={base}/indexes,index_build=first") == b"A /new\n"


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--archive", "layer"]])
def test_a_closed_output_ends_the_command_quietly(stack: str, base: str, arguments: Sequence[str]) -> None:
    make_tree(f"{base}/upper", {f"file{number}": File(b"x" * 300) for number in range(1000)})
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run("-o", stack, *arguments, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_reader_that_goes_away_ends_the_command_quietly(stack: str, base: str) -> None:
    make_tree(f"{base}/upper", {"large": File(b"x" * (4 << 20))})
    command = [sys.executable, "-m", "unionfs", "changes", "-o", stack, "--archive", "layer"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(512)
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == b""


def test_without_an_output_no_layer_is_opened(stack: str) -> None:
    """A layer could otherwise get its descriptor."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "unionfs", "changes", "-o", stack],
        env=environment(),
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"unionfs: standard output is closed\n")


def test_an_interrupt_ends_the_command(stack: str, base: str) -> None:
    make_tree(f"{base}/upper", {"large": File(b"x" * (4 << 20))})
    command = [sys.executable, "-m", "unionfs", "changes", "-o", stack, "--archive", "layer"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(512)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
        process.stdout.close()


# -- a request of the launcher -------------------------------------------------------------------------


def requested(base: str, *arguments: str) -> bytes:
    """Return the output of the command, which gets the stack from a socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lower, upper, work = (
        os.open(f"{base}/{name}", os.O_PATH | os.O_DIRECTORY) for name in ("lower", "upper", "work")
    )
    stack = ServedStack(
        layers=[ServedLayer(fd=lower, marks="none", squash=False)],
        upper_fd=upper,
        work_fd=work,
        hidden=[],
        volatile=True,
        server="auto",
        open_requests=True,
    )
    with ours, theirs:
        send_request(ours, None, None, stack, None)
        for fd in (lower, upper, work):
            os.close(fd)
        return output("--request-fd", str(theirs.fileno()), *arguments, pass_fds=[theirs.fileno()])


@pytest.mark.parametrize(
    "arguments",
    [[], ["--json", "--facts", "--text"], ["--archive", "layer"], ["--archive", "trees", "/"], ["/new"]],
)
def test_the_request_of_a_launcher_has_the_same_output(stack: str, base: str, arguments: list[str]) -> None:
    """That process is confined after it has received the request, so it must have imported everything."""
    make_tree(f"{base}/upper", {"a": b"changed", "d": {"sub": {"new": b""}}})
    assert requested(base, *arguments) == output("-o", stack, *arguments)


def test_a_launcher_that_goes_away_is_one_line_and_status_1() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        ours.close()
        message = failure("--request-fd", str(theirs.fileno()), pass_fds=[theirs.fileno()])
    assert message == "the launcher went away"
