"""Devices and attributes that unpacking leaves out, strips or refuses."""

from __future__ import annotations

from pathlib import Path

from sandbox.images.tar import RECORD_LIMIT
from tests.support.tree import snapshot
from tests.unit.sandbox.images.tars import (
    BLOCK,
    CHARACTER,
    FIFO,
    directory,
    extract,
    file,
    hard_link,
    header,
    pax,
    symlink,
    tar,
)
from tests.unit.sandbox.images.unpacking import paths, refused


def test_devices_are_left_out_and_counted_but_for_those_of_dev(root: Path) -> None:
    report = extract(
        tar(
            directory(b"dev"),
            header(b"dev/null", flag=CHARACTER, device=(1, 3)),
            header(b"./dev/sda", flag=BLOCK, device=(8, 0)),
            *(header(b"root/tty%d" % number, flag=CHARACTER, device=(4, number)) for number in range(7)),
            header(b"overlay-whiteout", flag=CHARACTER),
        ),
        root,
    )
    assert paths(root) == {"dev": "dir", "root": "dir"}
    assert report.skipped_devices == 8
    assert report.skipped_device_names == tuple(f"root/tty{number}" for number in range(5))
    assert report.notices() == [
        "8 device nodes left out: root/tty0, root/tty1, root/tty2, root/tty3, root/tty4, ..."
    ]


def test_a_hard_link_to_a_device_is_left_out_with_it(root: Path) -> None:
    report = extract(tar(header(b"a", flag=CHARACTER), hard_link(b"b", b"a"), hard_link(b"c", b"b")), root)
    assert (paths(root), report.skipped_devices) == ({}, 3)


def test_a_device_replaces_what_has_its_name_and_can_be_replaced(root: Path) -> None:
    device = header(b"a", flag=CHARACTER)
    extract(tar(directory(b"a"), file(b"a/x"), device), root)
    assert paths(root) == {}
    extract(tar(device, file(b"a", b"x"), hard_link(b"b", b"a")), root)
    assert paths(root) == {"a": "file", "b": "file"}


STRIPPED = [
    b"user.overlay.opaque",
    b"user.overlay.whiteout",
    b"user.fuseoverlayfs.opaque",
    b"user.unionfs.origin",
    b"user.containers.override_stat",
    b"trusted.overlay.redirect",
    b"trusted.other",
    b"security.selinux",
    b"security.ima",
    b"system.nfs4_acl",
    b"nonsense",
]


def test_attributes_that_speak_for_the_file_system_or_the_host_are_stripped(root: Path) -> None:
    records = [
        (form + name, b"eQ==")
        for name in [*STRIPPED, b"user.mine", b"user.overlayed"]
        for form in (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
    ]
    report = extract(tar(pax(records), directory(b"d"), pax(records), file(b"f")), root)
    for path in (b"d", b"f"):
        assert set(snapshot(root)[path].xattrs) == {"user.mine", "user.overlayed"}
    assert report.skipped_xattrs == 2 * len(STRIPPED)
    assert report.skipped_xattr_names[0] == "d: user.overlay.opaque"


def test_attributes_of_links_and_fifos_that_linux_does_not_keep_are_left_out(root: Path) -> None:
    report = extract(
        tar(
            pax([(b"SCHILY.xattr.user.x", b"y")]),
            symlink(b"s", b"t"),
            pax([(b"SCHILY.xattr.user.x", b"y")]),
            header(b"p", flag=FIFO),
        ),
        root,
    )
    assert report.skipped_xattr_names == ("s: user.x", "p: user.x")


def test_an_attribute_that_is_too_large_is_refused(root: Path) -> None:
    record_of_it = pax([(b"SCHILY.xattr.user.x", b"v" * (RECORD_LIMIT - 100))])
    assert "f: its attribute user.x has 1048476 bytes" in refused(root, record_of_it, file(b"f"))
    record_of_it = pax([(b"SCHILY.xattr.user." + b"n" * 300, b"v")])
    assert "nnn cannot be set: " in refused(root, record_of_it, directory(b"d"))


ACL_OF_USER_0 = bytes.fromhex(
    "02000000 01000600ffffffff 02000400 00000000 04000400ffffffff 10000400ffffffff 20000000ffffffff".replace(
        " ", ""
    )
)


def test_access_control_lists_are_left_out_where_there_is_only_one_id(root: Path) -> None:
    report = extract(tar(pax([(b"SCHILY.xattr.system.posix_acl_access", ACL_OF_USER_0)]), file(b"f")), root)
    assert report.skipped_xattr_names == ("f: system.posix_acl_access",)
