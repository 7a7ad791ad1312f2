"""The ``-o`` options of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import PROJECT
from unionfs.cli import main
from unionfs.errors import UnionError
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.layer.ownership import IdPolicy, IdRange
from unionfs.options import DECLARED, Declared, Optimization, Server, Serving, parse_options, split_escaped


def test_lower_directories_are_kept_in_the_order_given_top_first() -> None:
    assert parse_options(["lowerdir=/top:/middle:/bottom"]).lowerdirs == ("/top", "/middle", "/bottom")


def test_options_of_several_o_are_taken_together_and_the_last_of_one_name_counts() -> None:
    options = parse_options(["lowerdir=/a,volatile", "upperdir=/u,workdir=/w", "lowerdir=/b"])
    assert (options.lowerdirs, options.upperdir, options.workdir) == (("/b",), "/u", "/w")
    assert options.volatile


def test_a_backslash_lets_colons_commas_and_backslashes_be_part_of_a_path() -> None:
    # One level of backslashes escapes the comma of the option list, the other the colon between paths.
    options = parse_options([r"lowerdir=/a\\:b:/c\,d,upperdir=/u\,v,workdir=/w\\x"])
    assert options.lowerdirs == ("/a:b", "/c,d")
    assert options.upperdir == "/u,v"
    assert options.workdir == "/w\\x"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/u:2", "/u:2"),
        (r"/u\:2", "/u:2"),  # as kernel OverlayFS reads it
        (r"/u\\:2", "/u:2"),  # with an additional level, which libfuse removes
        (r"/u\\\:2", r"/u\:2"),
        (r"/u\\\\2", r"/u\\2"),
    ],
)
def test_the_writable_directories_may_have_their_colons_escaped_like_the_others(text: str, path: str) -> None:
    options = parse_options([f"lowerdir=/a,upperdir={text},workdir={text}"])
    assert (options.upperdir, options.workdir) == (path, path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"a\:b:c", ["a:b", "c"]),
        (r"a\\:b", ["a\\", "b"]),
        (r"a\n:b", [r"a\n", "b"]),  # a backslash before any other character stays
        ("a\\", ["a\\"]),
        ("", [""]),
        ("::", ["", "", ""]),
    ],
)
def test_splitting_honours_backslashes(text: str, parts: list[str]) -> None:
    assert split_escaped(text, ":") == parts


@given(st.lists(st.text(alphabet="a:\\,"), min_size=1))
def test_what_was_escaped_is_found_again(parts: list[str]) -> None:
    escaped = ":".join(part.replace("\\", "\\\\").replace(":", "\\:") for part in parts)
    assert split_escaped(escaped, ":") == parts


def test_options_for_the_mount_are_handed_on_and_unknown_ones_named() -> None:
    options = parse_options(["lowerdir=/a,nosuid,fsname=x,threaded=1,timeout=0,fsname"])
    assert options.fuse == ("nosuid", "fsname=x")
    assert options.ignored == ("threaded=1", "timeout=0", "fsname")


def test_what_mount_8_keeps_in_fstab_and_what_holds_anyway_is_not_worth_a_word() -> None:
    assert parse_options(["lowerdir=/a,defaults,_netdev,noauto,x-systemd.automount,xino=on"]).ignored == ()


def test_the_options_of_fuse_overlayfs_are_known() -> None:
    options = parse_options(
        [
            "lowerdir=/a,upperdir=/u,workdir=/w,uidmapping=0:1000:1:1:110000:65536,gidmapping=:0:5:9",
            "squash_to_gid=7,static_nlink,noacl,xattr_permissions=2,fsync=0,size=5m,inodes=100",
        ]
    )
    assert options.ids == IdPolicy(
        uids=(IdRange(0, 1000, 1), IdRange(1, 110000, 65536)), gids=(IdRange(0, 5, 9),), squash_gid=7
    )
    assert options.static_nlink
    assert not options.acl
    assert options.form.override_stat
    assert options.volatile
    assert (options.size, options.inodes) == (5 << 20, 100)
    assert options.ignored == ()


def test_one_id_for_users_has_precedence_over_root_for_all() -> None:
    ids = parse_options(["lowerdir=/a,squash_to_root,squash_to_uid=8"]).ids
    assert (ids.squash_uid, ids.squash_gid) == (8, 0)


@pytest.mark.parametrize("text", ["redirect_dir=off,metacopy=off", "redirect_dir=nofollow,metacopy=off"])
def test_what_only_root_could_have_the_kernel_read_can_be_left_unwritten(text: str) -> None:
    form = parse_options([f"lowerdir=/a,{text}"]).form
    assert not form.redirect
    assert not form.metacopy


def test_empty_options_are_nothing() -> None:
    assert parse_options([",lowerdir=/a,,"]).ignored == ()


@pytest.mark.parametrize("form", WhiteoutFormat)
def test_the_format_of_whiteouts_can_be_chosen(form: WhiteoutFormat) -> None:
    assert parse_options([f"lowerdir=/a,whiteouts={form.value}"]).form.whiteouts is form


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "option lowerdir is missing: add -o lowerdir=TOP:...:BOTTOM"),
        (
            ["lowerdr=a"],
            "option lowerdir is missing: add -o lowerdir=TOP:...:BOTTOM (unknown options: lowerdr=a)",
        ),
        (["lowerdir=:"], "option lowerdir contains no directory: use lowerdir=TOP:...:BOTTOM"),
        (["lowerdir="], "option lowerdir needs a value: lowerdir=..."),
        (["lowerdir=/a,upperdir"], "option upperdir needs a value: upperdir=..."),
        (
            ["lowerdir=/a,upperdir=/u"],
            "option upperdir requires workdir: add workdir=DIR, a separate directory on the same file system",
        ),
        (
            ["lowerdir=/a,workdir=/w"],
            "option workdir requires upperdir: add upperdir=DIR, a separate directory on the same file system",
        ),
        (["lowerdir=/a,size=1g"], "option size requires a writable layer: add upperdir=DIR,workdir=DIR"),
        (["lowerdir=/a,upperdir=/u,workdir=/w,size=0k"], "option size=0 is too small: use 1 or more"),
        (["lowerdir=/a,upperdir=/u,workdir=/w,inodes=0"], "option inodes=0 is too small: use 1 or more"),
        (
            ["lowerdir=/a,upperdir=/u,workdir=/w,inodes=x"],
            "option inodes=x is not a number: use at most 15 digits",
        ),
        (
            ["lowerdir=/a,uidmapping=::"],
            "option uidmapping=:: is not an id map: use DISK:SHOWN:COUNT, or several of them separated by colons",
        ),
        (
            ["lowerdir=/a,squash_to_uid=4294967295"],
            "option squash_to_uid=4294967295 is not a user or group id: use 0 to 4294967294",
        ),
        (
            ["lowerdir=/a,whiteouts=oci"],
            "option whiteouts=oci has an unknown value: use one of overlay, aufs",
        ),
    ],
)
def test_what_cannot_be_mounted_is_an_error_that_says_the_remedy(texts: list[str], message: str) -> None:
    with pytest.raises(UnionError) as caught:
        parse_options(texts)
    assert str(caught.value) == message


def test_the_server_is_chosen_by_the_kernel_unless_one_is_named() -> None:
    assert parse_options(["lowerdir=/a"]).serving == Serving()
    assert Serving().server is Server.AUTO
    serving = Serving(server=Server.DIRECT, open_requests=False)
    assert parse_options(["lowerdir=/a,server=direct,open_requests=off"]).serving == serving
    assert parse_options(["lowerdir=/a,open_requests=off"]).serving == Serving(open_requests=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server=fast", "use one of auto, pyfuse3, direct"),
        ("open_requests=no", "use one of on, off"),
        ("server=pyfuse3,open_requests=off", "does not work with server=pyfuse3: use server=direct"),
    ],
)
def test_a_way_of_serving_that_there_is_not_is_refused(text: str, said: str) -> None:
    with pytest.raises(UnionError, match=said):
        parse_options([f"lowerdir=/a,{text}"])


def test_disabled_optimizations_are_named() -> None:
    assert parse_options(["lowerdir=/a"]).serving.disabled == frozenset()
    options = parse_options(["lowerdir=/a"], "spin:negative")
    assert options.serving.disabled == {Optimization.SPIN, Optimization.NEGATIVE}


@pytest.mark.parametrize(
    ("server", "disabled", "message"),
    [
        (
            "direct",
            "spin:magic",
            "UNIONFS_DISABLE=spin:magic: magic is unknown: use names of spin, threads, ",
        ),
        ("pyfuse3", "spin", "UNIONFS_DISABLE does not work with server=pyfuse3: use server=direct"),
    ],
)
def test_an_optimization_that_cannot_be_disabled_is_an_error(
    server: str, disabled: str, message: str
) -> None:
    with pytest.raises(UnionError, match=message):
        parse_options([f"lowerdir=/a,server={server}"], disabled)


def test_the_command_reads_disabled_optimizations_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIONFS_DISABLE", "magic")
    assert main(["-o", "lowerdir=/", "/mnt"]) == 1
    assert "UNIONFS_DISABLE=magic: magic is unknown" in capsys.readouterr().err


def test_indexes_of_lower_layers_are_kept_where_they_are_told_to_be() -> None:
    assert parse_options(["lowerdir=/a"]).index_dir is None
    options = parse_options(["lowerdir=/a,index_dir=/i,index_build=first,immutable"])
    assert (options.index_dir, options.index_first, options.immutable) == ("/i", True, True)
    assert not parse_options(["lowerdir=/a,index_dir=/i,index_build=background"]).index_first


@pytest.mark.parametrize("option", ["index_build=first", "immutable"])
def test_what_is_said_of_indexes_needs_a_place_for_them(option: str) -> None:
    with pytest.raises(UnionError, match="requires index_dir: add index_dir=DIR"):
        parse_options([f"lowerdir=/a,{option}"])


SAMPLES = {
    "DIR": "/d", "BYTES[k|m|g|t]": "1k", "COUNT": "5", "DISK:SHOWN:COUNT:...": "0:1:2", "ID": "7",
    "TOP:...:BOTTOM": "/a:/b", "VALUE": "5",
}  # fmt: skip
NAMES = [(one, name) for one in DECLARED for name in one.names]
BASE = "lowerdir=/l,upperdir=/u,workdir=/w,index_dir=/i"


def values_of(one: Declared) -> list[str]:
    if one.value in SAMPLES:
        return [SAMPLES[one.value]]
    return one.value.split("|") if one.value else []


@pytest.mark.parametrize(("one", "name"), NAMES, ids=[name for _, name in NAMES])
def test_every_declared_option_is_taken_as_it_is_declared(one: Declared, name: str) -> None:
    for text in [f"{name}={value}" for value in values_of(one)] or [name]:
        options = parse_options([BASE, text])
        assert options.ignored == ()
        assert (text in options.fuse) == one.of_mount
    if one.value and not one.of_mount:
        with pytest.raises(UnionError, match=f"option {name} needs a value"):
            parse_options([BASE, name])
    elif not one.value:
        assert parse_options([BASE, f"{name}=1"]).ignored == (f"{name}=1",)


def test_help_lists_every_declared_option_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.split("options for -o:\n")[1].split("\n\n")[0]
    told = " ".join(lines.split())
    for one in DECLARED:
        assert f"{one.usage} {one.help}" in told
        assert len(one.help) <= 80
    assert len(told) == sum(len(f"{one.usage} {one.help}") + 1 for one in DECLARED) - 1


def test_the_page_of_the_package_has_every_declared_option() -> None:
    table = (Path(PROJECT) / "unionfs" / "README.md").read_text().split("## Options")[1].split("## ")[0]
    missing = [name for one, name in NAMES if not one.of_mount and f"`{name}" not in table]
    assert missing == []


def test_the_command_describes_itself_for_a_manual_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--describe"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["usage"] for one in told["options"]] == [one.usage for one in DECLARED]
    assert all(one["help"] for one in told["arguments"])
    changes = {name for one in told["changes"]["arguments"] for name in one["names"].split(", ")}
    assert {"-o", "--json", "--archive", "PATH"} < changes
    assert all(one["help"] for one in told["changes"]["arguments"])
    assert "--request-fd" not in changes  # for the launcher alone
