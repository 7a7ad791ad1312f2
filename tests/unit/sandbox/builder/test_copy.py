"""Layers of COPY and ADD over nothing: what is in them, and what is refused."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.builder.context import BuildContext
from sandbox.builder.copy_step import Output, copy_from_context
from sandbox.builder.inputs import scan
from sandbox.errors import ImageError
from sandbox.images.build.dockerignore import IgnoreRules
from sandbox.images.build.plan import CopyFiles, Document
from sandbox.images.tar import Kind
from tests.unit.sandbox.builder.layer_reading import LATEST, Found, copied, machine, members


@pytest.fixture
def base(tmp_path: Path) -> Path:
    context = tmp_path / "context"
    (context / "dir/sub").mkdir(parents=True)
    (context / "dir/f").write_text("f")
    (context / "dir/sub/s").write_text("s")
    (context / "top").write_text("top")
    (context / "top").chmod(0o640)
    return tmp_path


def names(base: Path, action: CopyFiles, **others: str) -> list[str]:
    return list(members(base, copied(base, action, **others)))  # type: ignore[arg-type]


def test_a_file_is_the_target_or_goes_into_it(base: Path) -> None:
    assert names(base, CopyFiles(sources=("top",), target="/a/b")) == ["a", "a/b"]
    assert names(base, CopyFiles(sources=("top",), target="/a/b/")) == ["a", "a/b", "a/b/top"]
    assert names(base, CopyFiles(sources=("top",), target="/")) == ["top"]


def test_the_files_of_a_directory_go_into_the_target(base: Path) -> None:
    (base / "context/dir").chmod(0o700)
    found = members(base, copied(base, CopyFiles(sources=("dir",), target="/t")))
    assert list(found) == ["t", "t/f", "t/sub", "t/sub/s"]
    assert found["t"].mode == 0o755  # not that of the source, whose top is not copied
    assert names(base, CopyFiles(sources=("",), target="/")) == [
        "dir",
        "dir/f",
        "dir/sub",
        "dir/sub/s",
        "top",
    ]


def test_several_files_need_a_directory(base: Path) -> None:
    assert names(base, CopyFiles(sources=("*",), target="/t/")) == ["t", "t/f", "t/sub", "t/sub/s", "t/top"]
    with pytest.raises(ImageError, match="several files need a directory as target, and /t is none"):
        copied(base, CopyFiles(sources=("*",), target="/t"))


def test_owner_and_mode_are_those_that_are_given(base: Path) -> None:
    (base / "context/dir/link").symlink_to("f")
    found = members(base, copied(base, CopyFiles(sources=("dir",), target="/t", owner="3:4", mode=0o4711)))
    assert {one.owner for one in found.values()} == {(3, 4)}
    assert [one.mode for one in found.values()] == [0o755, 0o4711, 0o777, 0o4711, 0o4711]
    found = members(base, copied(base, CopyFiles(sources=("top",), target="/t")))
    assert found["t"] == Found(
        Kind.FILE, 0o640, (0, 0), b"top", os.stat(base / "context/top").st_mtime_ns / 10**9
    )


@pytest.mark.parametrize(
    ("owner", "named"), [("nobody", "user"), ("0:staff", "group"), ("4294967295", "user")]
)
def test_an_owner_that_does_not_exist_is_named(base: Path, owner: str, named: str) -> None:
    with pytest.raises(ImageError, match=f"the {named} "):
        copied(base, CopyFiles(sources=("top",), target="/t", owner=owner))


def test_later_times_are_the_latest(base: Path) -> None:
    os.utime(base / "context/top", (5, 5))
    found = members(base, copied(base, CopyFiles(sources=("",), target="/t/"), latest=7))
    assert {name: one.seconds for name, one in found.items()} == {
        "t": 7, "t/dir": 7, "t/dir/f": 7, "t/dir/sub": 7, "t/dir/sub/s": 7, "t/top": 5,
    }  # fmt: skip


def test_names_of_one_file_are_one_file_in_the_layer(base: Path) -> None:
    os.link(base / "context/dir/sub/s", base / "context/dir/a")
    found = members(base, copied(base, CopyFiles(sources=("dir",), target="/t")))
    assert found["t/a"].content == b"s"
    assert (found["t/sub/s"].kind, found["t/sub/s"].content) == (Kind.HARD_LINK, b"t/a")
    # A name outside of the source is none of the layer.
    os.link(base / "context/top", base / "context/dir/other")
    found = members(base, copied(base, CopyFiles(sources=("dir",), target="/t")))
    assert found["t/other"].kind is Kind.FILE


def test_of_several_sources_the_last_one_counts(base: Path) -> None:
    (base / "context/other").mkdir()
    (base / "context/other/f").write_text("other")
    for sources, content in ((("dir", "other"), b"other"), (("other", "dir"), b"f")):
        found = members(base, copied(base, CopyFiles(sources=sources, target="/t/")))
        assert found["t/f"].content == content
        assert list(found) == ["t", "t/f", "t/sub", "t/sub/s"]


def test_a_directory_and_a_file_of_one_name_are_refused(base: Path) -> None:
    (base / "context/other").mkdir()
    (base / "context/other/sub").write_text("file")
    for sources in (("dir", "other"), ("other", "dir")):
        with pytest.raises(
            ImageError, match="t/sub is a directory in one source, and something else in another"
        ):
            copied(base, CopyFiles(sources=sources, target="/t/"))


def test_a_second_name_of_a_file_that_is_replaced_is_refused(base: Path) -> None:
    os.link(base / "context/dir/f", base / "context/dir/g")
    (base / "context/other").mkdir()
    (base / "context/other/f").write_text("other")
    with pytest.raises(ImageError, match="t/g is another name of t/f, which a later source replaces"):
        copied(base, CopyFiles(sources=("dir", "other"), target="/t/"))


def test_documents_are_new_files(base: Path) -> None:
    action = CopyFiles(
        sources=(), documents=(Document("one", "1"), Document("two", "")), target="/t/", mode=0o600
    )
    found = members(base, copied(base, action))
    assert found["t/one"] == Found(Kind.FILE, 0o600, (0, 0), b"1", LATEST)
    assert found["t/two"] == Found(Kind.FILE, 0o600, (0, 0), b"", LATEST)


def test_special_files_are_refused_and_named(base: Path) -> None:
    os.mkfifo(base / "context/dir/pipe")
    with pytest.raises(ImageError, match="dir/pipe of the build context is no file"):
        copied(base, CopyFiles(sources=("dir",), target="/t"))
    assert names(base, CopyFiles(sources=("dir",), target="/t"), ignore="dir/pipe\n") == [
        "t",
        "t/f",
        "t/sub",
        "t/sub/s",
    ]
    (base / "context/dir/pipe").unlink()
    with chdir(base / "context/dir"), socket.socket(socket.AF_UNIX) as made:  # the whole path may be too long
        made.bind("socket")
    with pytest.raises(ImageError, match="dir/socket of the build context is no file"):
        copied(base, CopyFiles(sources=("dir",), target="/t"))


@pytest.mark.parametrize("name", [".wh.f", ".wh..wh..opq"])
def test_a_name_that_would_be_a_mark_is_refused(base: Path, name: str) -> None:
    (base / "context/dir" / name).write_text("")
    with pytest.raises(ImageError, match=r"names that begin with \.wh\. as marks"):
        copied(base, CopyFiles(sources=("dir",), target="/t"))


def test_a_source_that_does_not_exist_is_named(base: Path) -> None:
    for source in ("none", "dir/none", "top/f", "no*", "dir/*/none", "x" * 300):
        with pytest.raises(ImageError, match="is not in the build context"):
            copied(base, CopyFiles(sources=(source,), target="/t"))


def test_links_of_a_source_are_followed_within_the_context(base: Path) -> None:
    context = base / "context"
    (context / "link").symlink_to("dir")
    (context / "dir/up").symlink_to("../top")
    assert names(base, CopyFiles(sources=("link/f",), target="/t")) == ["t"]
    assert names(base, CopyFiles(sources=("link",), target="/t")) == ["t", "t/f", "t/sub", "t/sub/s", "t/up"]
    assert members(base, copied(base, CopyFiles(sources=("dir/up",), target="/t")))["t"].content == b"top"


def test_a_link_to_a_file_that_is_left_out_leads_to_nothing(base: Path) -> None:
    (base / "context/link").symlink_to("dir/f")
    with pytest.raises(ImageError, match="link is not in the build context"):
        copied(base, CopyFiles(sources=("link",), target="/t"), ignore="dir/f\n")


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "dir/../../outside"])
def test_a_link_that_leads_out_is_refused(base: Path, target: str) -> None:
    (base / "outside").write_text("secret")
    (base / "context/link").symlink_to(target)
    with pytest.raises(ImageError, match="link leads out of the build context"):
        copied(base, CopyFiles(sources=("link",), target="/t"))


def test_a_directory_that_becomes_a_link_after_it_was_seen_is_not_followed(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "outside").mkdir()
    (base / "outside/s").write_text("secret of the same size"[:1])
    real = BuildContext.open

    def swap_and_open(self: BuildContext, file: object) -> object:
        if (base / "context/dir/sub").is_dir() and not (base / "context/dir/sub").is_symlink():
            (base / "context/dir/sub").rename(base / "moved")
            (base / "context/dir/sub").symlink_to(base / "outside")
        return real(self, file)  # type: ignore[arg-type]

    monkeypatch.setattr(BuildContext, "open", swap_and_open)
    with pytest.raises(ImageError, match="dir/sub"):
        copied(base, CopyFiles(sources=("dir",), target="/t"))


def test_a_file_that_changes_between_its_key_and_its_copy_is_refused(base: Path) -> None:
    context = BuildContext(str(base / "context"), IgnoreRules())
    action = CopyFiles(sources=("top",), target="/t")
    inputs = scan(context, action)
    for content in ("pot", "longer"):
        (base / "context/top").write_text(content)
        with pytest.raises(ImageError, match="top of the build context was changed during the build"):
            copy_from_context(machine(base), [], action, context, inputs, Output(compression="", latest=0))
    context.close()
    assert not any((base / "images/partial").iterdir())
    assert not (base / "images/blobs").exists()


# -- ADD -------------------------------------------------------------------------------------------


def archive(path: Path, *found: tuple[str, bytes, str], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, kind, content in found:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.mtime = kind, 0o640, 5, 9
            member.linkname = content if kind != tarfile.REGTYPE else ""
            data = content.encode() if kind == tarfile.REGTYPE else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_add_unpacks_archives_into_the_target(base: Path, mode: str) -> None:
    archive(
        base / "context/a.tar", ("./", tarfile.DIRTYPE, ""), ("./d", tarfile.DIRTYPE, ""), ("./d/f", tarfile.REGTYPE, "x"),
        ("g", tarfile.LNKTYPE, "./d/f"), ("l", tarfile.SYMTYPE, "/abs"), mode=mode,
    )  # fmt: skip
    found = members(base, copied(base, CopyFiles(sources=("a.tar", "top"), target="/t/", unpack=True)))
    assert found["t/d"] == Found(Kind.DIRECTORY, 0o640, (5, 0), b"", 9)
    assert found["t/d/f"] == Found(Kind.FILE, 0o640, (5, 0), b"x", 9)
    assert (found["t/g"].kind, found["t/g"].content) == (Kind.HARD_LINK, b"t/d/f")
    assert found["t/l"].content == b"/abs"
    assert found["t/top"].content == b"top"
    assert names(base, CopyFiles(sources=("a.tar",), target="/t")) == ["t"]


def test_add_copies_what_is_no_archive(base: Path) -> None:
    (base / "context/empty").write_bytes(b"")
    (base / "context/zeros").write_bytes(bytes(10240))
    (base / "context/text.gz").write_bytes(__import__("gzip").compress(b"text"))
    action = CopyFiles(sources=("empty", "zeros", "text.gz"), target="/t/", unpack=True)
    assert names(base, action) == ["t", "t/empty", "t/text.gz", "t/zeros"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", ".wh.x", ".wh..wh..opq"])
def test_an_archive_with_a_hostile_name_is_refused(base: Path, name: str) -> None:
    archive(base / "context/a.tar", ("good", tarfile.REGTYPE, ""), (name, tarfile.REGTYPE, ""))
    with pytest.raises(ImageError, match=r"a\.tar of the build context"):
        copied(base, CopyFiles(sources=("a.tar",), target="/t/", unpack=True))


def test_a_damaged_archive_is_refused(base: Path) -> None:
    archive(base / "context/a.tar", ("one", tarfile.REGTYPE, "1" * 600), ("two", tarfile.REGTYPE, "2"))
    content = bytearray((base / "context/a.tar").read_bytes())
    content[512 + 1024 : 512 + 1034] = b"\xff" * 10
    (base / "context/a.tar").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.tar"):
        copied(base, CopyFiles(sources=("a.tar",), target="/t/", unpack=True))


def test_an_archive_that_changes_between_its_key_and_its_copy_is_refused(base: Path) -> None:
    context = BuildContext(str(base / "context"), IgnoreRules())
    action = CopyFiles(sources=("a.tar",), target="/t/", unpack=True)
    archive(base / "context/a.tar", ("one", tarfile.REGTYPE, "1"))
    inputs = scan(context, action)
    archive(base / "context/a.tar", ("one", tarfile.REGTYPE, "2"))
    with pytest.raises(ImageError, match=r"a\.tar of the build context was changed during the build"):
        copy_from_context(machine(base), [], action, context, inputs, Output(compression="", latest=0))
    context.close()


# -- random trees ----------------------------------------------------------------------------------

PARTS = st.one_of(
    st.sampled_from([b"a", b"b", b"A", b"a b", b"a\nb", b"\xff\xfe", b"-", b"*", b"x" * 120, "ü".encode()]),
    st.binary(min_size=1, max_size=8).filter(
        lambda part: (
            b"/" not in part
            and b"\0" not in part
            and part not in {b".", b".."}
            and not part.startswith(b".wh.")
        )
    ),
)
CONTENTS = st.one_of(
    st.binary(max_size=600).map(lambda data: ("file", data)),
    st.just(("directory", b"")),
    PARTS.map(lambda target: ("link", target)),
)
TREES = st.dictionaries(
    st.lists(PARTS, min_size=1, max_size=4).map(tuple),
    st.tuples(CONTENTS, st.integers(0, 0o7777), st.integers(0, 2**33)),
    max_size=12,
)


@settings(deadline=None, max_examples=100)
@given(TREES)
def test_a_copied_tree_is_the_tree(tree: dict[tuple[bytes, ...], tuple[tuple[str, bytes], int, int]]) -> None:
    with TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "context").mkdir()
        top = os.fsencode(base / "context")
        expected: dict[str, Found] = {}
        written = []
        for path, ((kind, data), mode, seconds) in sorted(tree.items()):
            if any(
                path[:number] in tree and tree[path[:number]][0][0] != "directory"
                for number in range(1, len(path))
            ):
                continue
            place = os.path.join(top, *path)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if kind == "file":
                with open(place, "wb") as file:
                    file.write(data)
            elif kind == "directory":
                os.makedirs(place, exist_ok=True)
            else:
                os.symlink(data, place)
            written.append((place, kind, mode | (0o700 if kind == "directory" else 0o400), seconds))
        for place, kind, mode, seconds in sorted(written, reverse=True):
            if kind != "link":
                os.chmod(place, mode)
            os.utime(place, (seconds, seconds), follow_symlinks=False)
        for directory_name, names_in, files in os.walk(top):
            for name in (*names_in, *files):
                place = os.path.join(directory_name, name)
                info = os.lstat(place)
                expected[os.fsdecode(os.path.relpath(place, top))] = _described(place, info)
        layer = copied(base, CopyFiles(sources=("",), target="/"))
        assert (members(base, layer) if layer is not None else {}) == expected
        again = copied(base, CopyFiles(sources=("",), target="/"))
        assert again == layer


def _described(place: bytes, info: os.stat_result) -> Found:
    kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}
    kind = kinds[stat.S_IFMT(info.st_mode)]
    content = b""
    if kind is Kind.FILE:
        with open(place, "rb") as file:
            content = file.read()
    elif kind is Kind.SYMLINK:
        content = os.readlink(place)
    seconds = min(info.st_mtime_ns / 10**9, LATEST)
    return Found(kind, stat.S_IMODE(info.st_mode), (0, 0), content, seconds)
