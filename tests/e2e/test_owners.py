"""Owners of files in volumes: the tables of configs/README.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.host import facts as host
from tests.e2e.support import HOST_ROOT, Launcher, first_line, let_in
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

ROOTS = 1878982656

AS_ROOT = os.geteuid() == 0
whole_map = pytest.mark.skipif(
    not AS_ROOT and not has_subordinate_ids(), reason="this account has a single id"
)

#: The sandbox's own volumes. Only the owner of each may enter or read it.
OWN = """
[[volumes]]
type = "named"
source = "data"
target = "/data"
mode = "0700"
[[volumes]]
type = "tmpfs"
target = "/data/way/work"
mode = "0700"
[[volumes]]
type = "tmpfs"
target = "/sealed"
mode = "0700"
read_only = true
[[volumes]]
type = "file"
target = "/sealed/secret"
content = "secret"
mode = "0400"
"""
SHOW_OWN = "stat -c %u:%g /data /data/way /data/way/work /sealed /sealed/secret; cat /sealed/secret; touch /data/x /data/way/work/x"


def named(target: str, **others: str) -> str:
    """Return a named volume on *target*."""
    lines = "".join(f"{key} = {value}\n" for key, value in others.items())
    return f'[[volumes]]\ntype = "named"\nsource = "data"\ntarget = "{target}"\n{lines}'


def accounts(directory: Path, passwd: str, group: str = "root:x:0:\n") -> str:
    """Return a root whose account files, made in *directory*, have these lines."""
    (directory / "accounts" / "etc").mkdir(parents=True)
    (directory / "accounts" / "etc" / "passwd").write_text(passwd)
    (directory / "accounts" / "etc" / "group").write_text(group)
    let_in(directory)
    return '[root]\nlayers = ["dir:/", "dir:accounts"]\n'


def outside(single: bool) -> tuple[int, int | None]:
    """Return the users of this machine that the table gives for users 0 and 7 of a sandbox; None for no user."""
    own = os.geteuid()
    if own == 0:
        return ROOTS, None if single else ROOTS + 7
    if single:
        return own, None
    facts = host.gather()
    if facts.whole_maps() is None:
        return own, None
    return own, facts.uid_ranges[0].start + 6


@pytest.mark.parametrize("map_", ["auto", "single"])
@pytest.mark.parametrize("kind", ["bind", "named"])
def test_files_in_volumes_have_the_owners_of_the_table(
    launcher: Launcher, tmp_path: Path, kind: str, map_: str
) -> None:
    zero, seven = outside(single=map_ == "single")
    source = tmp_path / "shared"
    source.mkdir()
    source.chmod(0o777)
    (source / "strange").touch()
    if os.geteuid() == 0:
        os.chown(source / "strange", 12345, 12345)
    volume = "data" if kind == "named" else str(source)
    spec = HOST_ROOT + f'[[volumes]]\ntype = "{kind}"\nsource = "{volume}"\ntarget = "/v"\n'
    spec += "" if map_ == "auto" else '[ids]\nmap = "single"\n'
    script = "touch /v/zero; touch /v/seven; chown 7:7 /v/seven 2>/dev/null && echo seven; stat -c '%u %g' /v/zero /v/strange"
    done = launcher.shell(script, spec)
    if kind == "named":
        source = launcher.state / "volumes" / "data" / "data"
    assert (source / "zero").stat().st_uid == zero
    assert ("seven" in done.out) == (seven is not None)
    assert (source / "seven").stat().st_uid == (zero if seven is None else seven)
    shown = [line for line in done.out.splitlines() if line != "seven"]
    assert shown[0] == "0 0"
    if kind == "bind" and os.geteuid() == 0 and map_ == "auto":
        assert shown[1] == "65534 65534"


def test_file_volumes_belong_to_user_0_for_every_map(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[[volumes]]\ntype = "file"\ntarget = "/v"\ncontent = ""\n'
    for ids in ("", '[ids]\nmap = "single"\n'):
        assert launcher.shell("stat -c '%u %g' /v", spec + ids).out == "0 0\n"


# -- volumes of the program's user ----------------------------------------------------------------------


@whole_map
@pytest.mark.parametrize("map_", ["auto", "keep-id", "explicit"])
@pytest.mark.parametrize("writable", ["ephemeral", "persistent", "none"])
def test_the_sandboxs_own_volumes_belong_to_the_programs_user(
    launcher: Launcher, map_: str, writable: str
) -> None:
    facts = host.gather()
    if map_ == "keep-id" and AS_ROOT:
        pytest.skip("root keeps no id")
    user, ids = "7:8", f'[ids]\nmap = "{map_}"\n'
    if map_ == "keep-id":
        user = f"{os.geteuid()}:{os.getegid()}"
        writable_user = ""  # the default of process.user
    else:
        writable_user = f'[process]\nuser = "{user}"\n'
    if map_ == "explicit":
        starts = (ROOTS, ROOTS) if AS_ROOT else (facts.uid_ranges[0].start, facts.gid_ranges[0].start)
        uids, gids = (f"{{ inside = 0, outside = {start}, count = 9 }}" for start in starts)
        ids = f"[ids]\nuid_map = [{uids}]\ngid_map = [{gids}]\n"
    root = f'[sandbox]\nname = "own"\n[root]\nlayers = ["dir:/"]\nwritable = "{writable}"\n'
    for _ in range(2):
        done = launcher.shell(SHOW_OWN, root + ids + writable_user + OWN)
        # Directories on the way to a volume keep their owner.
        assert done.out.split() == [user, "0:0", user, user, user, "secret"], done.err
        assert done.err == ""
    assert launcher.runs() == []


@whole_map
def test_owner_is_looked_up_in_account_files_that_a_volume_has(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[process]\nuser = "made-up"\n' + OWN
    spec += '[[volumes]]\ntype = "file"\ntarget = "/etc/passwd"\ncontent = "made-up:x:5:6::/:/bin/sh\\n"\n'
    done = launcher.shell(SHOW_OWN + "; stat -c %u:%g /etc/passwd; id -u", spec)
    assert done.out.split() == ["5:6", "0:0", "5:6", "5:6", "5:6", "secret5:6", "5"], done.err


@whole_map
@pytest.mark.parametrize("volumes", ["", OWN])
def test_account_files_that_are_masked_are_hidden_from_the_program_only(
    launcher: Launcher, tmp_path: Path, volumes: str
) -> None:
    spec = accounts(tmp_path, "web:x:5:6::/srv:/bin/sh\n") + '[process]\nuser = "web"\n' + volumes
    spec += '[security]\nmasked_paths = ["/etc/passwd"]\n'
    assert launcher.shell("id -u; id -g; echo $HOME; cat /etc/passwd", spec).out.split() == ["5", "6", "/srv"]


@whole_map
def test_named_volume_that_is_in_use_changes_no_owner(launcher: Launcher) -> None:
    spec, show = HOST_ROOT + named("/data"), "stat -c %u:%g /data /data/*"
    assert launcher.shell("touch /data/roots", spec).status == 0
    given = launcher.shell(show + "; touch /data/new", spec + '[process]\nuser = "7:8"\n')
    assert given.out.split() == ["0:0", "0:0"]
    assert "Permission denied" in given.err


@whole_map
def test_named_volume_changes_its_owner_only_once(launcher: Launcher) -> None:
    spec, show = HOST_ROOT + named("/data"), "stat -c %u:%g:%a /data"
    for user, owner in (("0", "0:0"), ("7:8", "7:8"), ("9:9", "7:8"), ("0", "7:8")):
        done = launcher.shell(show, spec + f'[process]\nuser = "{user}"\n')
        assert done.out == f"{owner}:755\n", done.err


@whole_map
def test_named_volume_gets_its_owner_at_the_first_writable_mount(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[process]\nuser = "7:8"\n'
    show = "stat -c %u:%g /data"
    assert launcher.shell(show, spec + named("/data", read_only="true")).out == "0:0\n"
    assert launcher.shell(show, spec + named("/data")).out == "7:8\n"
    assert launcher.shell(show, spec + named("/data", read_only="true")).out == "7:8\n"


@whole_map
def test_bind_volume_keeps_its_owner(launcher: Launcher, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    let_in(tmp_path)
    if AS_ROOT:
        os.chown(source, ROOTS, ROOTS)
    before = source.stat()
    spec = HOST_ROOT + '[process]\nuser = "7:8"\n' + OWN
    spec += f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "/v"\n'
    assert launcher.shell("stat -c %u:%g /v /data", spec).out.split() == ["0:0", "7:8"]
    assert (source.stat().st_uid, source.stat().st_ctime_ns) == (before.st_uid, before.st_ctime_ns)


@whole_map
def test_owner_is_mapped_by_the_user_namespace_that_is_joined(launcher: Launcher) -> None:
    first = '[sandbox]\nname = "first"\n' + HOST_ROOT
    with launcher.start(launcher.write(first, "first.toml"), ["sh", "-c", "echo ready; sleep 1000"]) as other:
        assert first_line(other) == "ready"
        spec = HOST_ROOT + '[namespaces]\nuser = "sandbox:first"\n[process]\nuser = "7:8"\n' + OWN
        done = launcher.shell(SHOW_OWN, spec)
        assert done.out.split() == ["7:8", "0:0", "7:8", "7:8", "7:8", "secret"], done.err
        other.terminate()
        other.communicate()


@whole_map
def test_start_that_fails_for_its_missing_user_changes_no_owner(launcher: Launcher) -> None:
    done = launcher.shell("true", HOST_ROOT + '[process]\nuser = "no-such-user"\n' + named("/data"))
    assert (done.status, done.out) == (125, "")
    assert "process.user: user no-such-user is not in the sandbox's /etc/passwd" in done.err
    assert launcher.shell("stat -c %u:%g /data", HOST_ROOT + named("/data")).out == "0:0\n"
    assert launcher.runs() == []
