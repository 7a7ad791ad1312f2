"""An archive from a sandbox is written into a host directory as GNU tar would, and nowhere else."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.changes.extract import Extracted, extract
from sandbox.changes.host_tree import HostTree
from sandbox.errors import SandboxError
from sandbox.kernel import trees
from tests.support.tree import Dir, Fifo, File, HardLink, Symlink, Tree, make_tree, snapshot
from tests.unit.sandbox.changes.killing import killed_at
from tests.unit.sandbox.changes.union_changes import archive_of
from tests.unit.sandbox.images.tars import (
    CHARACTER,
    FIFO,
    SPARSE_CONTENT,
    directory,
    file,
    hard_link,
    header,
    pax,
    pax_sparse,
    symlink,
    tar,
)
from tests.unit.sandbox.images.test_unpack_peers import TREE, write_sparse
from tests.unit.unionfs.client import Client
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat

ROOT = os.geteuid() == 0
ME = os.geteuid(), os.getegid()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[HostTree]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield HostTree(fd, "/shown")
    finally:
        os.close(fd)


def write(archive: bytes, root: Path, **options: object) -> Extracted:
    """Extract *archive*, whose objects belong to this user, from a pipe."""
    reading, writing = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(writing, "wb") as pipe:
            pipe.write(archive)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with open(reading, "rb") as stream, opened(root) as tree:
            return extract(stream, tree, **{"owners": lambda _uid, _gid: ME, **options})  # type: ignore[arg-type]
    finally:
        feeder.join()


def refused(archive: bytes, root: Path, **options: object) -> str:
    """Return the message of the error, which must have a hint."""
    with pytest.raises(SandboxError) as caught:
        write(archive, root, **options)
    assert caught.value.hint
    return caught.value.message


@pytest.fixture
def union(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    before = os.umask(0)
    union = Client(tmp_path_factory.mktemp("union"), [TREE], WantedFormat(whiteouts=WhiteoutFormat.OVERLAY))
    write_sparse(union.lowers[0] / "sparse")
    with open(union.lowers[0] / "sparse", "ab") as sparse:
        sparse.write(b"the end")
    yield union
    union.close()
    os.umask(before)


# -- what is written -------------------------------------------------------------------------------


def test_the_tree_is_the_one_that_gnu_tar_makes(
    union: Client, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    union.write("/empty", b"no longer")
    union.rename("/usr", "/moved")
    archive = archive_of(union, [b""], "trees")
    other = tmp_path_factory.mktemp("other")
    command = ["tar", "-C", other, "-xpf", "-", "--xattrs", "--numeric-owner"]
    if ROOT:
        command.append("--same-owner")
    subprocess.run(command, input=archive, check=True)
    write(archive, root, owners=lambda uid, gid: (uid, gid))
    found, wanted = (snapshot(path, nlink=True, mtime=True) for path in (root, other))
    assert found.keys() == wanted.keys()
    for path, entry in wanted.items():
        if path != b".":
            assert found[path] == entry
    assert os.stat(root / "sparse").st_blocks <= os.stat(union.lowers[0] / "sparse").st_blocks


def test_a_path_is_written_without_the_directories_above_it(union: Client, root: Path) -> None:
    result = write(archive_of(union, [b"usr/bin"], "trees"), root, strip=b"/usr/")
    assert sorted(os.listdir(root)) == ["bin"]
    found, wanted = snapshot(root / "bin", mtime=True), snapshot(union.lowers[0] / "usr/bin", mtime=True)
    assert found == wanted
    assert result.entries == len(found)
    assert result.left_out == ()


def test_a_path_outside_of_what_is_stripped_is_refused(root: Path) -> None:
    for name in (b"other", b"usrx", b"us", b"."):
        assert "not below usr" in refused(tar(file(name, b"x")), root, strip=b"usr")
    assert os.listdir(root) == []


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_holes_stay_holes(version: str, root: Path) -> None:
    make_tree(root, {"s": b"longer than the new one" * 1000})
    write(tar(pax_sparse(version)), root)
    assert (root / "s").read_bytes() == SPARSE_CONTENT
    size = b"%d" % (1 << 40)
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"h"),
        (b"GNU.sparse.realsize", size),
        (b"size", b"512"),
    ]
    write(tar(pax(records) + header(b"x", size=512) + b"0\n".ljust(512, b"\0")), root)
    info = os.stat(root / "h")
    assert (info.st_size, info.st_blocks) == (1 << 40, 0)


def test_ids_are_those_that_the_caller_maps(root: Path) -> None:
    asked: list[tuple[int, int]] = []

    def owners(uid: int, gid: int) -> tuple[int, int]:
        asked.append((uid, gid))
        return ME

    write(
        tar(
            file(b"f", uid=7, gid=8), directory(b"d", uid=9, gid=10), header(b"p", flag=FIFO, uid=11, gid=12)
        ),
        root,
        owners=owners,
    )
    assert sorted(asked) == [(7, 8), (9, 10), (11, 12)]


def test_what_is_left_out_is_reported(root: Path) -> None:
    records = [
        (b"SCHILY.xattr.trusted.secret", b"1"),
        (b"SCHILY.xattr.user.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.kept", b"2"),
    ]
    result = write(tar(pax(records) + file(b"f\n"), pax(records) + directory(b"d")), root)
    assert [each.text() for each in result.left_out] == [
        "/f\\n: trusted.secret", "/f\\n: user.overlay.opaque", "/d: trusted.secret", "/d: user.overlay.opaque",
    ]  # fmt: skip
    assert os.listxattr(root / "d") == ["user.kept"]


@pytest.mark.skipif(not ROOT, reason="only root makes devices")
def test_root_makes_devices(root: Path) -> None:
    write(tar(header(b"null", flag=CHARACTER, device=(1, 3), mode=0o666)), root)
    entry = snapshot(root)[b"null"]
    assert (entry.type, entry.mode, entry.device) == ("char", 0o666, (1, 3))
    assert "without valid numbers" in refused(tar(header(b"x", flag=CHARACTER, device=(4096, 0))), root)


@pytest.mark.skipif(ROOT, reason="root makes devices")
def test_a_device_is_an_error_with_the_path_for_an_ordinary_user(root: Path) -> None:
    assert (
        refused(tar(header(b"null", flag=CHARACTER, device=(1, 3))), root)
        == "/shown/null: operation not permitted"
    )


def test_each_path_is_announced_before_it_is_written(root: Path) -> None:
    make_tree(root, {"d": {}, "f": b"old"})
    seen: list[tuple[bytes, bool]] = []

    def before(path: bytes) -> None:
        seen.append((path, os.path.lexists(os.fsencode(root) + b"/" + path)))

    write(
        tar(directory(b"d"), file(b"d/x", b"1"), file(b"f", b"new"), file(b"a/b/c", b"2")),
        root,
        before=before,
    )
    assert seen == [
        (b"d", True),
        (b"d/x", False),
        (b"f", True),
        (b"a", False),
        (b"a/b", False),
        (b"a/b/c", False),
    ]


def test_a_refusal_before_a_path_keeps_what_is_there(root: Path) -> None:
    make_tree(root, {"f": b"old"})

    def before(path: bytes) -> None:
        raise SandboxError(f"not {path!r}", hint="-")

    assert refused(tar(file(b"f", b"new")), root, before=before) == "not b'f'"
    assert (root / "f").read_bytes() == b"old"


def test_directories_that_exist_are_merged_and_get_the_new_attributes(root: Path) -> None:
    make_tree(root, {"d": Dir({"kept": b"1", "x": b"2"}, mode=0o700, xattrs={"user.old": b"1"})})
    write(tar(directory(b"d", mode=0o555), file(b"d/x", b"new"), file(b"d/e/f", b"3")), root)
    found = snapshot(root, mtime=True)
    assert sorted(found) == [b".", b"d", b"d/e", b"d/e/f", b"d/kept", b"d/x"]
    assert (found[b"d"].mode, found[b"d"].mtime_ns, found[b"d"].xattrs) == (0o555, 1_700_000_000 * 10**9, {})
    assert found[b"d/e"].mode == 0o755


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [b"..", b"../canary", b"a/../../canary", b"/../canary", b"/etc/x", b"//x", b"a/.."]
)
def test_a_path_that_leads_out_is_refused(name: bytes, root: Path) -> None:
    for member in (
        file(name, b"x"),
        directory(name),
        symlink(name, b"x"),
        hard_link(b"x", name),
        header(name, flag=FIFO),
    ):
        assert refused(tar(file(b"first", b"1"), member), root)
    assert os.listdir(root) == ["first"]


LINKS: list[bytes] = [b"../../outside", b"../../outside/dir", b"d", b"/", b"nowhere"]


@pytest.mark.parametrize("target", LINKS)
@pytest.mark.parametrize("there", [False, True], ids=["in-the-archive", "on-the-host"])
def test_a_path_below_a_symbolic_link_is_refused(target: bytes, there: bool, root: Path) -> None:
    make_tree(root, {"d": {"canary": b"1", "inner": b"1"}})
    if there:
        os.symlink(target, root / "l")
    for name in (b"l/canary", b"l/inner/x", b"l/new/x"):
        first = [] if there else [symlink(b"l", target)]
        message = refused(tar(*first, file(name, b"x")), root)
        assert "symbolic link" in message or "no directory" in message
    assert refused(tar(symlink(b"l", target), hard_link(b"x", b"l/canary")), root)
    assert snapshot(root)[b"d/canary"].data == b"1"


def test_a_directory_replaces_a_symbolic_link_and_nothing_is_written_through_it(root: Path) -> None:
    os.symlink("../../outside/dir", root / "l")
    write(tar(directory(b"l"), file(b"l/inner", b"x")), root)
    assert snapshot(root)[b"l/inner"].data == b"x"


def test_a_hard_link_to_a_file_of_the_host_is_refused(root: Path) -> None:
    make_tree(root, {"secret": b"1", "d": {}})
    for target in (b"secret", b"d", b"absent", b"x"):
        assert "no earlier member" in refused(tar(hard_link(b"x", target)), root)
    assert not (root / "x").exists()


def test_a_directory_with_entries_is_not_replaced(root: Path) -> None:
    make_tree(root, {"d": {"x": b"1"}})
    assert refused(tar(file(b"d", b"2")), root) == "/shown/d: directory not empty"
    assert refused(tar(directory(b"e"), file(b"e", b"2")), root).startswith("/shown/e: ")
    assert refused(tar(file(b"f", b"2"), file(b"f/x", b"2")), root).startswith("/shown/f/x: ")
    assert snapshot(root)[b"d/x"].data == b"1"


@pytest.mark.parametrize("cut", [100, 600, 1100, 1500])
def test_a_truncated_archive_is_an_error_and_leaves_no_half_file(cut: int, root: Path) -> None:
    make_tree(root, {"f": b"old"})
    message = refused(tar(file(b"f", b"new" * 300))[:cut], root)
    assert message.startswith("the contents from the sandbox: ")
    assert snapshot(root)[b"f"].data in (b"old", b"new" * 300)
    assert os.listdir(root) == ["f"]


NAMES = [
    b"a",
    b"b",
    b"a/b",
    b"b/a",
    b"a/b/c",
    b"c",
    b"./a/",
    b"/b",
    b"a//c",
    b".",
    b"..",
    b"../canary",
    b"canary",
    b"a/dir/inner",
    b"l/inner",
]
TARGETS = [
    b"a",
    b"b",
    b"a/b",
    b"..",
    b"../..",
    b"../../outside",
    b"/",
    b".",
    b"../b",
    b"canary",
    b"../../outside/dir",
]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    members=st.lists(
        st.tuples(st.sampled_from("fdslp"), st.sampled_from(NAMES), st.sampled_from(TARGETS)), max_size=8
    ),
    links=st.lists(
        st.tuples(st.sampled_from(["a", "b", "l", "c"]), st.sampled_from(TARGETS)),
        max_size=2,
        unique_by=lambda each: each[0],
    ),
)
def test_hostile_archives_never_write_outside(
    members: list[tuple[str, bytes, bytes]], links: list[tuple[str, bytes]]
) -> None:
    parts = {
        "f": lambda name, _: file(name, b"hostile", mode=0o755),
        "d": lambda name, _: directory(name, mode=0o710),
        "s": symlink,
        "l": hard_link,
        "p": lambda name, _: header(name, flag=FIFO),
    }
    base = Path(tempfile.mkdtemp(prefix="sandbox-extract-"))
    try:
        outside: Tree = {"canary": b"1", "dir": {"inner": b"2"}}
        make_tree(base / "outside", outside)
        make_tree(base / "around" / "root", {name: Symlink(target) for name, target in links})
        before = snapshot(base / "outside", nlink=True, mtime=True)
        with opened(base / "around" / "root") as tree, contextlib.suppress(SandboxError):
            archive = tar(*(parts[kind](name, target) for kind, name, target in members))
            extract(io.BytesIO(archive), tree, owners=lambda _uid, _gid: ME)
        assert snapshot(base / "outside", nlink=True, mtime=True) == before
        assert os.listdir(base / "around") == ["root"]
        assert not any(b"sandbox-new" in path for path in snapshot(base / "around"))
    finally:
        shutil.rmtree(base)


# -- while others change the directory -------------------------------------------------------------


def test_a_directory_that_is_swapped_for_a_symbolic_link_meanwhile_leads_nowhere(
    root: Path, tmp_path: Path
) -> None:
    make_tree(root, {"d": {"e": {}}, "l": Symlink(b"../../outside/dir")})
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            trees.exchange(str(root / "d"), str(root / "l"))

    swapper = threading.Thread(target=swap)
    swapper.start()
    written = refusals = 0
    try:
        for number in itertools.count():
            if number >= 400 and ((written and refusals) or number == 20_000):
                break  # both have happened, which takes longer on a busy machine
            name = b"d/e/%d" % number if number % 2 else b"d/%d" % number
            archive = tar(
                file(name, b"x"),
                symlink(name + b"l", b"x"),
                directory(b"d/n%d" % number),
                hard_link(name + b"h", name),
            )
            try:
                with opened(root) as tree:
                    extract(io.BytesIO(archive), tree, owners=lambda _uid, _gid: ME)
                written += 1
            except SandboxError:
                refusals += 1
    finally:
        stop.set()
        swapper.join()
    assert written
    assert refusals
    assert sorted(os.listdir(tmp_path / "outside")) == ["canary", "dir"]
    assert os.listdir(tmp_path / "outside" / "dir") == ["inner"]


# -- kills -----------------------------------------------------------------------------------------


def test_a_kill_at_any_system_call_leaves_each_file_old_or_new(root: Path) -> None:
    old: Tree = {
        "f": b"old",
        "d": {"g": b"old", "h": HardLink("d/g")},
        "l": Symlink(b"old"),
        "e": {},
        "r": Dir({"x": b"old"}, mode=0o755),
    }
    archive = tar(
        file(b"f", b"new" * 100), directory(b"d", mode=0o750), file(b"d/g", b"new"), hard_link(b"d/h", b"d/g"),
        symlink(b"l", b"new"), file(b"e", b"new"), directory(b"r", mode=0o555), file(b"r/x", b"new"), header(b"p", flag=FIFO),
    )  # fmt: skip
    make_tree(root / "old", old)
    make_tree(root / "new", old)
    write(archive, root / "new")
    before, after = snapshot(root / "old"), snapshot(root / "new")
    kills = 0
    while True:
        target = root / "x"
        make_tree(target, old)
        killed = killed_at(lambda target=target: write(archive, target), kills)  # type: ignore[misc]
        found = snapshot(target)
        for path, entry in found.items():
            if entry.type != "dir" and b"sandbox-new" not in path:
                assert entry in (before.get(path), after.get(path)), path
        assert before.keys() <= found.keys()
        write(archive, target)
        assert snapshot(target, nlink=True) == snapshot(root / "new", nlink=True)
        subprocess.run(["chmod", "-R", "u+rwx", target], check=True)
        shutil.rmtree(target)
        if not killed:
            break
        kills += 1
    assert kills > 40
    subprocess.run(["chmod", "-R", "u+rwx", root], check=True)


def test_an_unreadable_stream_is_an_error_of_the_sandbox(root: Path) -> None:
    class Broken:
        def read(self, _size: int, /) -> bytes:
            raise OSError(5, "broken")

    with opened(root) as tree, pytest.raises(SandboxError) as caught:
        extract(Broken(), tree)
    assert caught.value.message == "the contents from the sandbox: input/output error"


def test_files_and_fifos_of_the_archive_have_the_types_of_their_members(root: Path) -> None:
    make_tree(root, {"p": b"1", "f": Fifo()})
    write(tar(header(b"p", flag=FIFO, mode=0o640), file(b"f", b"2")), root)
    assert stat.S_ISFIFO(os.lstat(root / "p").st_mode)
    assert File(b"2").data == (root / "f").read_bytes()
