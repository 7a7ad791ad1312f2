"""Direct binds: the layer that alone has a path, and the obstacles in its content, with real directories."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.images import direct_bind
from sandbox.images.direct_bind import DirectBindError, LayerRoot, Marks
from tests.support.tampering import fifo, link, open_to_others

MakeTree = Callable[..., LayerRoot]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[MakeTree]:
    """Create a layer of *names*: a trailing slash makes a directory, an arrow a symbolic link, otherwise a file."""
    opened = []

    def make(name: str, *names: str, marks: Marks = "aufs", stored: bool = True) -> LayerRoot:
        top = tmp_path / name / "tree"
        top.mkdir(parents=True)
        for entry in names:
            path, _, target = entry.partition("->")
            place = top / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if target:
                place.symlink_to(target)
            elif path.endswith("/"):
                place.mkdir(exist_ok=True)
            else:
                place.write_text(name)
        opened.append(os.open(top, os.O_PATH))
        return LayerRoot(fd=opened[-1], name=name, marks=marks, place=str(top.parent) if stored else None)

    yield make
    for fd in opened:
        os.close(fd)


def refused(trees: list[LayerRoot], path: str) -> tuple[str, str]:
    with pytest.raises(DirectBindError) as caught:
        direct_bind.find_only(trees, path)
    return caught.value.message, caught.value.hint


def test_directory_of_one_layer_is_found_wherever_that_is_in_the_stack(tree: MakeTree) -> None:
    top, middle, bottom = tree("top", "a/x"), tree("middle", "usr/bin/y"), tree("bottom", "etc/z", "usr->etc")
    assert direct_bind.find_only([top, middle, bottom], "/usr/bin") is middle
    assert direct_bind.find_only([top, middle], "/usr") is middle
    assert direct_bind.find_only([top, middle, bottom], "/a") is top


def test_directory_of_two_layers_is_refused_with_what_one_of_them_has_alone(tree: MakeTree) -> None:
    top, bottom = tree("top", "usr/local/x"), tree("bottom", "usr/bin/", "usr/lib/", "usr/local/", "usr/f")
    message, hint = refused([top, bottom], "/usr")
    assert message == "more than one layer has /usr: bottom, top"
    assert hint == "name directories that only one of them has, such as /usr/bin, /usr/lib"
    assert refused([top, bottom], "/usr/local")[1] == "name directories below it that only one layer has"


@pytest.mark.parametrize(
    ("upper", "marks"),
    [("usr/.wh.lib", "aufs"), (".wh.usr", "aufs"), ("usr/.wh..wh..opq", "aufs"), (".wh..wh..opq", "all")],
)
def test_mark_above_hides_the_layer_that_has_it(tree: MakeTree, upper: str, marks: Marks) -> None:
    stack = [tree("top", upper, marks=marks), tree("bottom", "usr/lib/x")]
    message, _ = refused(stack, "/usr/lib")
    assert message.startswith("top deletes /")


def test_mark_in_a_layer_below_hides_nothing_of_it(tree: MakeTree) -> None:
    top, bottom = tree("top", "usr/lib/x"), tree("bottom", "usr/.wh.lib", "usr/.wh..wh..opq")
    assert direct_bind.find_only([top, bottom], "/usr/lib") is top


@pytest.mark.parametrize("mark", ["usr/.wh.lib", "usr/lib/.wh..wh..opq", ".wh..wh..opq"])
def test_layer_that_hides_those_below_has_it_alone(tree: MakeTree, mark: str) -> None:
    top, bottom = tree("top", "usr/lib/x", mark), tree("bottom", "usr/lib/y")
    assert direct_bind.find_only([top, bottom], "/usr/lib") is top


def test_where_nothing_is_a_mark_such_names_hide_nothing(tree: MakeTree) -> None:
    top, bottom = tree("top", "usr/.wh.lib", marks="none"), tree("bottom", "usr/lib/x")
    assert direct_bind.find_only([top, bottom], "/usr/lib") is bottom


@pytest.mark.parametrize(
    "name", ["user.overlay.opaque", "user.overlay.redirect", "user.fuseoverlayfs.opaque"]
)
def test_directory_of_a_writable_layer_with_such_an_attribute_hides_those_below(
    tree: MakeTree, tmp_path: Path, name: str
) -> None:
    top, bottom = tree("top", "usr/", marks="all"), tree("bottom", "usr/lib/x")
    assert direct_bind.find_only([top, bottom], "/usr/lib") is bottom
    os.setxattr(tmp_path / "top" / "tree" / "usr", name, b"y")
    assert refused([top, bottom], "/usr/lib")[0].startswith("top deletes /usr,")


@pytest.mark.root
def test_device_that_marks_a_deletion_counts_in_a_writable_layer(tree: MakeTree, tmp_path: Path) -> None:
    top, bottom = tree("top", "usr/", marks="all"), tree("bottom", "usr/lib/x")
    os.mknod(tmp_path / "top" / "tree" / "usr" / "lib", stat.S_IFCHR, os.makedev(0, 0))
    assert refused([top, bottom], "/usr/lib")[0].startswith("top deletes /usr/lib,")


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        (["usr/x"], "/opt", "no layer has /opt"),
        (["usr/x"], "/usr/x", "/usr/x in top is not a directory"),
        (["usr/x"], "/usr/x/y", "/usr/x in top is not a directory"),
        (["lib->usr/lib", "usr/lib/"], "/lib", "/lib is a symbolic link in top"),
        (["lib->usr/lib", "usr/lib/a/"], "/lib/a", "/lib is a symbolic link in top"),
        (["usr/x"], "/" + "n" * 300, f"no layer has /{'n' * 300}"),
        (["usr/x"], "/" + "n" * 253, f"no layer has /{'n' * 253}"),
    ],
)
def test_what_is_no_directory_of_a_layer_is_refused(
    tree: MakeTree, names: list[str], path: str, message: str
) -> None:
    assert refused([tree("top", *names)], path)[0] == message


def test_link_or_file_in_a_layer_below_is_hidden_by_the_directory(tree: MakeTree) -> None:
    top = tree("top", "usr/lib/x")
    assert (
        direct_bind.find_only([top, tree("link", "usr->etc"), tree("below", "usr/lib/y")], "/usr/lib") is top
    )
    assert direct_bind.find_only([top, tree("file", "usr/lib")], "/usr/lib") is top


# -- the content of the layer --------------------------------------------------------------------


def test_files_directories_and_links_can_be_shown_however_deep(tree: MakeTree, tmp_path: Path) -> None:
    one = tree("one", "usr/a/b/c", "usr/a/d/", "usr/e", "usr/l->nowhere", ".wh.elsewhere", "opt/.wh.x")
    assert direct_bind.obstacle(one, "/usr") == ""
    fd = os.open(tmp_path / "one" / "tree" / "usr", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert direct_bind.obstacle(one, "/usr") == ""


def test_what_the_union_alone_can_show_is_named(tree: MakeTree, tmp_path: Path) -> None:
    one = tree("one", "a/b/.wh.x", "b/c/", "d/e/")
    assert direct_bind.obstacle(one, "/a") == "/a/b/.wh.x is a whiteout"
    os.mkfifo(tmp_path / "one" / "tree" / "b" / "c" / "p")
    assert direct_bind.obstacle(one, "/b") == "/b/c/p is a FIFO"
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tmp_path / "one" / "tree" / "d" / "e", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
    assert direct_bind.obstacle(one, "/d") == "/d/e/s is a socket"


def test_whole_layer_is_looked_at_from_its_root(tree: MakeTree, tmp_path: Path) -> None:
    one = tree("one", "usr/a/b/c", "etc/", "l->nowhere")
    assert direct_bind.obstacle(one, "/") == ""
    info = os.stat(tmp_path / "one" / "tree")
    assert direct_bind.identify(one, "/") == [info.st_ino, info.st_ctime_ns]
    assert direct_bind.look(one, "/").kind == "directory"
    os.mkfifo(tmp_path / "one" / "tree" / "usr" / "p")
    assert direct_bind.obstacle(one, "/") == "/usr/p is a FIFO"
    (tmp_path / "one" / "tree" / ".wh.x").write_text("")
    assert direct_bind.obstacle(one, "/") == "/.wh.x is a whiteout"


def test_what_was_found_is_believed_of_the_same_directory_only(tree: MakeTree, tmp_path: Path) -> None:
    one = tree("one", "usr/lib/x", "opt/")
    assert one.place is not None
    identity = direct_bind.identify(one, "/usr")
    assert direct_bind.recorded(one.place, "/usr", identity) is None
    direct_bind.record(one.place, "/usr", identity, "")
    direct_bind.record(one.place, "/opt", direct_bind.identify(one, "/opt"), "/opt/x is a FIFO")
    assert direct_bind.recorded(one.place, "/usr", identity) == ""
    assert direct_bind.recorded(one.place, "/opt", direct_bind.identify(one, "/opt")) == "/opt/x is a FIFO"
    assert sorted(os.listdir(one.place)) == ["native", "tree"]
    (tmp_path / "one" / "tree" / "usr" / "new").write_text("")
    assert direct_bind.recorded(one.place, "/usr", direct_bind.identify(one, "/usr")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"/usr": ""}',
        '{"/usr": [1, 2]}',
        '{"/usr": [1, 2, null]}',
        "\x00",
        "\udcff",
        "[" * 100_000,
    ],
)
def test_record_that_is_no_such_thing_says_nothing(tree: MakeTree, text: str) -> None:
    one = tree("one", "usr/")
    assert one.place is not None
    Path(one.place, "native").write_text(text, errors="surrogateescape")
    assert direct_bind.recorded(one.place, "/usr", [1, 2]) is None
    direct_bind.record(one.place, "/usr", [1, 2], "")
    assert direct_bind.recorded(one.place, "/usr", [1, 2]) == ""


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change", [open_to_others, link, fifo, directory], ids=lambda change: change.__name__
)
def test_record_that_others_may_have_written_says_nothing(
    tree: MakeTree, change: Callable[[Path], None]
) -> None:
    one = tree("one", "usr/")
    assert one.place is not None
    umask = os.umask(0)
    try:
        direct_bind.record(one.place, "/usr", [1, 2], "")
    finally:
        os.umask(umask)
    assert direct_bind.recorded(one.place, "/usr", [1, 2]) == ""
    change(Path(one.place, "native"))
    assert direct_bind.recorded(one.place, "/usr", [1, 2]) is None


def test_record_does_not_grow_without_end_and_is_not_needed(tree: MakeTree) -> None:
    one = tree("one", "usr/")
    assert one.place is not None
    for number in range(600):
        direct_bind.record(one.place, f"/{number}", [1, 2], "")
    assert len(json.loads(Path(one.place, "native").read_text())) <= 256
    direct_bind.record(one.place + "/gone", "/usr", [1, 2], "")


@pytest.mark.parametrize(
    ("path", "is_directory", "there"),
    [("/usr/d", True, True), ("/usr/f", False, True), ("/usr/f", True, False), ("/usr/l", False, False),
     ("/usr/d", False, False), ("/usr/f/x", False, False), ("/usr/no", True, False)],
)  # fmt: skip
def test_place_of_a_volume_has_to_be_of_its_kind(
    tree: MakeTree, path: str, is_directory: bool, there: bool
) -> None:
    one = tree("one", "usr/d/", "usr/f", "usr/l->f")
    assert direct_bind.has(one, path, is_directory=is_directory) == there
