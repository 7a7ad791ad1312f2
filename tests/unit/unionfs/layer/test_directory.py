"""A layer on disk is read through a limited number of descriptors, and never through its own symbolic links."""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.tree import Dir, Fifo, Opaque, Symlink, Tree, Whiteout, make_tree
from unionfs.formats.whiteout import ALL_MARKS, NO_MARKS, MarkPolicy
from unionfs.layer.directory import Layer, LayerDir
from unionfs.layer.fd_cache import FdCache
from unionfs.layer.objects import DescriptorRef, PathRef, follows, is_null_device
from unionfs.types import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def fds() -> Iterator[FdCache]:
    """Return the descriptor cache for all layers of one test."""
    cache = FdCache(16)
    yield cache
    cache.capacity = 0
    cache.trim()


@pytest.fixture
def open_layer(tmp_path: Path, fds: FdCache) -> Iterator[Callable[..., Layer]]:
    """Return a function that writes a tree and opens it as a layer."""
    made: list[Layer] = []

    def make(tree: Tree, policy: MarkPolicy = ALL_MARKS, **options: object) -> Layer:
        make_tree(tmp_path, tree)
        made.append(Layer(os.open(tmp_path, os.O_PATH), fds, policy=policy, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for layer in made:
        layer.close()


def descend(layer: Layer, path: bytes) -> LayerDir:
    at = layer.root
    for name in path.split(b"/"):
        at = at.child(name)
    return at


# -- marks ---------------------------------------------------------------------------------------------


def test_marks_say_what_each_name_is(open_layer: Callable[..., Layer]) -> None:
    layer = open_layer(
        {"file": b"", "dir": {}, "link": Symlink(target=b"dir"), "pipe": Fifo(), "gone": Whiteout()}
    )
    expected = {
        b"file": Mark.OTHER,
        b"dir": Mark.DIRECTORY,
        b"link": Mark.OTHER,
        b"pipe": Mark.OTHER,
        b"gone": Mark.WHITEOUT,
    }
    assert {name: layer.root.mark(name) for name in layer.root.names()} == expected
    assert layer.root.mark(b"absent") is None


@pytest.mark.parametrize("mark", ["user.overlay.opaque", "user.fuseoverlayfs.opaque"])
def test_an_opaque_directory_is_known_by_its_attribute(open_layer: Callable[..., Layer], mark: str) -> None:
    layer = open_layer({"d": Opaque(mark=mark), "e": {}})
    assert layer.root.opaque(b"d")
    assert not layer.root.opaque(b"e")


@pytest.mark.root
def test_a_trusted_opaque_mark_counts_too(open_layer: Callable[..., Layer]) -> None:
    assert open_layer({"d": Opaque(mark="trusted.overlay.opaque")}).root.opaque(b"d")


def test_an_opaque_directory_is_known_by_its_wh_file(open_layer: Callable[..., Layer]) -> None:
    layer = open_layer({"d": {".wh..wh..opq": b"", "f": b""}})
    assert layer.root.opaque(b"d")
    assert list(layer.root.child(b"d").names()) == [b"f"]


def test_a_layer_without_marks_shows_every_name(open_layer: Callable[..., Layer]) -> None:
    layer = open_layer({"d": Opaque(entries={".wh.x": b""}), "gone": Whiteout()}, NO_MARKS)
    assert not layer.root.opaque(b"d")
    assert layer.root.mark(b"gone") is Mark.OTHER
    assert layer.root.child(b"d").mark(b".wh.x") is Mark.OTHER


def test_a_marked_file_is_a_whiteout_only_in_a_directory_marked_x(open_layer: Callable[..., Layer]) -> None:
    layer = open_layer({"d": {"gone": b"", "kept": b""}, "e": {"kept": b""}})
    base = b"/proc/self/fd/%d/" % layer.root.fd()
    os.setxattr(base + b"d", "user.overlay.opaque", b"x")
    for name in (b"d/gone", b"e/kept"):
        os.setxattr(base + name, "user.overlay.whiteout", b"")
    assert layer.root.child(b"d").mark(b"gone") is Mark.WHITEOUT
    assert layer.root.child(b"d").mark(b"kept") is Mark.OTHER
    assert layer.root.child(b"e").mark(b"kept") is Mark.OTHER
    assert not layer.root.opaque(b"d")


def test_a_directory_that_may_be_searched_but_not_read_answers_name_by_name(
    open_layer: Callable[..., Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = open_layer({"d": Dir({"f": b"", "sub": {}, ".wh.gone": b"", "null": Whiteout()}, mode=0o711)})
    directory = layer.root.child(b"d")
    _deny_listing(monkeypatch)
    marks = {name: directory.mark(name) for name in (b"f", b"sub", b"gone", b"null", b".wh.gone", b"absent")}
    assert marks == {
        b"f": Mark.OTHER,
        b"sub": Mark.DIRECTORY,
        b"gone": Mark.WHITEOUT,
        b"null": Mark.WHITEOUT,
        b".wh.gone": None,
        b"absent": None,
    }
    with pytest.raises(PermissionError):
        directory.names()


def test_an_opaque_directory_that_may_not_be_read_is_opaque(
    open_layer: Callable[..., Layer], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = open_layer({"d": {".wh..wh..opq": b""}, "e": {}})
    _deny_listing(monkeypatch)
    assert layer.root.opaque(b"d")
    assert not layer.root.opaque(b"e")


def _deny_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deny opening directories for reading, as for an account without the permission."""
    really_open = os.open

    def opening(path: bytes, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if path == b"." and not flags & os.O_PATH:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really_open(path, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opening)


# -- layers that change or are malicious -----------------------------------------------------------------


def test_a_symbolic_link_put_in_the_place_of_a_directory_is_not_followed(
    open_layer: Callable[..., Layer], tmp_path: Path
) -> None:
    layer = open_layer({"d": {"f": b"inside"}, "elsewhere": {"f": b"outside"}})
    directory = layer.root.child(b"d")
    assert layer.root.mark(b"d") is Mark.DIRECTORY
    (tmp_path / "d").rename(tmp_path / "old")
    (tmp_path / "d").symlink_to("elsewhere")
    with pytest.raises(OSError) as caught:
        directory.mark(b"f")
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_a_directory_that_was_replaced_by_a_link_while_its_descriptor_was_closed_is_not_followed(
    open_layer: Callable[..., Layer], tmp_path: Path
) -> None:
    layer = open_layer({"a": {"b": {"f": b"inside"}}, "elsewhere": {"b": {"f": b"outside"}}})
    deep = descend(layer, b"a/b")
    deep.fd()
    for directory in (deep, layer.root.child(b"a")):
        layer.fds.drop(directory)
    (tmp_path / "a").rename(tmp_path / "old")
    (tmp_path / "a").symlink_to("elsewhere")
    with pytest.raises(OSError) as caught:
        PathRef(deep, b"f").open(os.O_RDONLY)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_a_file_is_never_opened_through_a_symbolic_link(
    open_layer: Callable[..., Layer], tmp_path: Path
) -> None:
    layer = open_layer({"f": b"inside", "secret": b"outside"})
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to("secret")
    with pytest.raises(OSError) as caught:
        PathRef(layer.root, b"f").open(os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR], ids=["reading", "writing", "both"])
def test_a_fifo_put_in_the_place_of_a_file_does_not_hang_the_server(
    open_layer: Callable[..., Layer], tmp_path: Path, flags: int
) -> None:
    layer = open_layer({"f": b"inside"})
    (tmp_path / "f").unlink()
    os.mkfifo(tmp_path / "f")
    with _seconds(5), pytest.raises(OSError) as caught:
        PathRef(layer.root, b"f").open(flags)
    assert caught.value.errno in (errno.ESTALE, errno.ENXIO)


class _seconds:  # noqa: N801 - reads as a number with its unit
    """Raise an error if the context takes longer than *limit* seconds."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        def expired(_signum: int, _frame: object) -> None:
            raise TimeoutError(f"still waiting after {self._limit} seconds")

        assert threading.current_thread() is threading.main_thread()
        self._before = signal.signal(signal.SIGALRM, expired)
        signal.alarm(self._limit)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)


def test_a_directory_that_has_gone_is_an_error_and_no_crash(
    open_layer: Callable[..., Layer], tmp_path: Path
) -> None:
    layer = open_layer({"d": {}})
    (tmp_path / "d").rmdir()
    with pytest.raises(FileNotFoundError):
        layer.root.child(b"d").mark(b"f")


def test_a_hidden_directory_appears_empty_wherever_it_is_met(
    tmp_path: Path, open_layer: Callable[..., Layer]
) -> None:
    make_tree(tmp_path, {"a": {"state": {"secret": b""}}})
    info = (tmp_path / "a" / "state").stat()
    layer = open_layer({}, hidden=[(info.st_dev, info.st_ino)])
    state = descend(layer, b"a/state")
    assert list(state.names()) == []
    assert state.mark(b"secret") is None
    assert not state.reachable()
    assert state.stat().st_ino == info.st_ino
    with pytest.raises(OSError) as caught:
        state.fd()
    assert caught.value.errno == errno.ESTALE


# -- descriptors ---------------------------------------------------------------------------------------


def test_open_descriptors_are_bounded_over_any_number_of_directories(
    open_layer: Callable[..., Layer], fds: FdCache
) -> None:
    layer = open_layer({f"d{number}": {"f": b""} for number in range(200)})
    open_before = len(os.listdir("/proc/self/fd"))
    kept = []
    for number in range(200):
        directory = layer.root.child(b"d%d" % number)
        assert directory.mark(b"f") is Mark.OTHER
        kept.append(directory)
        fds.trim()
        assert len(fds) <= fds.capacity
    assert len(os.listdir("/proc/self/fd")) <= open_before + fds.capacity
    assert all(PathRef(directory, b"f").stat().st_size == 0 for directory in kept)


def test_a_deep_directory_is_opened_again_through_its_parents(
    open_layer: Callable[..., Layer], fds: FdCache
) -> None:
    layer = open_layer({"/".join(["d"] * 40): {"f": b"deep"}})
    deep = descend(layer, b"/".join([b"d"] * 40))
    deep.fd()
    fds.trim()
    assert len(fds) <= fds.capacity
    assert PathRef(deep, b"f").stat().st_size == 4


def test_a_descriptor_in_recent_use_stays_and_the_oldest_goes(
    open_layer: Callable[..., Layer], fds: FdCache
) -> None:
    layer = open_layer({f"d{number}": {} for number in range(17)})
    directories = [layer.root.child(b"d%d" % number) for number in range(17)]
    numbers = [directory.fd() for directory in directories]
    directories[0].fd()
    fds.trim()
    assert os.fstat(numbers[0]).st_ino == directories[0].stat().st_ino
    with pytest.raises(OSError):
        os.fstat(numbers[1])


def test_a_pinned_directory_outlives_the_cache_and_its_name(
    open_layer: Callable[..., Layer], fds: FdCache, tmp_path: Path
) -> None:
    layer = open_layer({"d": {}})
    directory = layer.root.child(b"d")
    inode = directory.stat().st_ino
    directory.pin()
    (tmp_path / "d").rmdir()
    fds.capacity = 0
    fds.trim()
    assert directory.stat().st_ino == inode
    directory.close()


def test_capacity_is_at_least_what_one_request_needs() -> None:
    assert FdCache(0).capacity == 16


def test_a_layer_given_in_two_places_keeps_its_directories_apart(open_layer: Callable[..., Layer]) -> None:
    one, other = open_layer({"d": {}}), open_layer({})
    assert one.root.child(b"d") is not other.root.child(b"d")
    assert one.root.child(b"d").stat().st_ino == other.root.child(b"d").stat().st_ino


# -- references ----------------------------------------------------------------------------------------


def test_a_pinned_object_can_be_read_when_it_has_no_name_any_more(
    open_layer: Callable[..., Layer], tmp_path: Path
) -> None:
    layer = open_layer({"f": b"content", "link": Symlink(target=b"somewhere")})
    file = DescriptorRef(os.open(tmp_path / "f", os.O_PATH | os.O_NOFOLLOW), layer)
    link = DescriptorRef(os.open(tmp_path / "link", os.O_PATH | os.O_NOFOLLOW), layer)
    (tmp_path / "f").unlink()
    (tmp_path / "link").unlink()
    fd = file.open(os.O_RDONLY)
    assert os.read(fd, 100) == b"content"
    os.close(fd)
    assert file.stat().st_nlink == 0
    assert link.readlink() == b"somewhere"
    assert follows(file)
    file.close()
    link.close()


def test_a_named_link_is_read_and_described_itself(open_layer: Callable[..., Layer]) -> None:
    layer = open_layer({"link": Symlink(target=b"/etc/passwd")})
    ref = PathRef(layer.root, b"link")
    assert ref.readlink() == b"/etc/passwd"
    assert ref.stat().st_size == len(b"/etc/passwd")
    assert not follows(ref)


def test_only_the_character_device_0_0_is_a_whiteout(open_layer: Callable[..., Layer]) -> None:
    layer = open_layer({"gone": Whiteout(), "f": b""})
    assert is_null_device(PathRef(layer.root, b"gone").stat())
    assert not is_null_device(PathRef(layer.root, b"f").stat())
    assert not is_null_device(os.stat(os.devnull))
