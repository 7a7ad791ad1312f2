"""Id maps seen from inside and outside of a sandbox, and the owners of files under each map."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sandbox.host import facts as host
from tests.e2e.support import HOST_ROOT, Launcher
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

UID, GID = os.geteuid(), os.getegid()
AS_ROOT = UID == 0
#: Unused ids that root maps in these tests.
FOREIGN = 0x6FFF0000 - 65536

ordinary = pytest.mark.skipif(AS_ROOT, reason="for an ordinary user")
subordinate = pytest.mark.skipif(
    AS_ROOT or not has_subordinate_ids(), reason="for a user with subordinate ids"
)
whole_map = pytest.mark.skipif(
    not AS_ROOT and not has_subordinate_ids(), reason="this account has a single id"
)


def keep_id() -> str:
    return HOST_ROOT + '[ids]\nmap = "keep-id"\n'


def explicit(*entries: tuple[int, int, int], groups: tuple[tuple[int, int, int], ...] = ()) -> str:
    def table(key: str, lines: tuple[tuple[int, int, int], ...]) -> str:
        inner = ", ".join(
            f"{{ inside = {one}, outside = {two}, count = {three} }}" for one, two, three in lines
        )
        return f"{key} = [{inner}]\n"

    return "[ids]\n" + table("uid_map", entries) + table("gid_map", groups or entries)


def foreign_start() -> int:
    """Return the first of the ids that this account may map and that are not its own."""
    return FOREIGN if AS_ROOT else host.gather().uid_ranges[0].start


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Make a directory that every user of a sandbox may write to."""
    path = tmp_path / "volume"
    path.mkdir()
    path.chmod(0o777)
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | 0o055)
    return path


def bind(source: Path) -> str:
    return f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "/volume"\n'


@subordinate
def test_keep_id_is_the_users_own_number_and_others_are_subordinate(launcher: Launcher, volume: Path) -> None:
    script = (
        "id -u; id -g; stat -c '%u:%g' / /etc /volume; touch /volume/mine; made=$(mktemp /tmp/made.XXXXXX) && stat -c %u $made;"
        " cat /proc/self/uid_map | wc -l"
    )
    done = launcher.shell(script, keep_id() + bind(volume))
    own = f"{UID}:{GID}"
    assert done.out.split() == [str(UID), str(GID), "0:0", "0:0", own, str(UID), "3"], done.err
    made = (volume / "mine").stat()
    assert (made.st_uid, made.st_gid) == (UID, GID)
    assert launcher.runs() == []


@subordinate
def test_root_of_keep_id_is_a_subordinate_id(launcher: Launcher, volume: Path) -> None:
    spec = keep_id() + '[process]\nuser = "root"\n' + bind(volume)
    done = launcher.shell("id -u; touch /volume/roots; mkdir -p /x/y; chown 33:33 /x; stat -c %u /x", spec)
    assert done.out.split() == ["0", "33"], done.err
    facts = host.gather()
    made = (volume / "roots").stat()
    assert (made.st_uid, made.st_gid) == (facts.uid_ranges[0].start, facts.gid_ranges[0].start)
    assert launcher.runs() == []


@ordinary
def test_keep_id_without_subordinate_ids_is_refused(launcher: Launcher) -> None:
    if has_subordinate_ids():
        pytest.skip("for a user without subordinate ids")
    done = launcher.shell("id", keep_id())
    assert done.status == 125
    assert '"keep-id" is not possible: /etc/subuid has no range for' in done.err


@whole_map
def test_program_has_the_explicit_maps(launcher: Launcher, volume: Path) -> None:
    start = foreign_start()
    entries = ((0, start, 100), (500, start + 100, 5))
    spec = HOST_ROOT + explicit(*entries, groups=((0, start + 10, 10), (1000, start + 50, 1)))
    spec += '[process]\nuser = "502:1000"\ngroups = [5, 9]\n' + bind(volume)
    script = "cat /proc/self/uid_map; echo; cat /proc/self/gid_map; id -u; id -g; id -G; stat -c %u:%g /; touch /volume/new"
    done = launcher.shell(script, spec)
    numbers = " ".join(done.out.split())
    expected = (
        f"0 {start} 100 500 {start + 100} 5 0 {start + 10} 10 1000 {start + 50} 1 502 1000 1000 5 9 0:0"
    )
    assert numbers == expected, done.err
    made = (volume / "new").stat()
    assert (made.st_uid, made.st_gid) == (start + 102, start + 50)
    assert launcher.runs() == []


@ordinary
def test_explicit_map_of_the_own_id_takes_no_subordinate_ids(launcher: Launcher) -> None:
    spec = HOST_ROOT + explicit((0, UID, 1), groups=((0, GID, 1),))
    done = launcher.shell("cat /proc/self/uid_map /proc/self/setgroups; touch /etc/x", spec)
    assert done.out.split() == ["0", str(UID), "1", "deny"], done.err


@ordinary
def test_ids_of_others_are_refused_before_anything_is_made(launcher: Launcher) -> None:
    done = launcher.shell("id", HOST_ROOT + explicit((0, UID, 1), (1, 0, 1)))
    assert done.status == 125
    assert "ids.uid_map[1]: 0 may not be mapped by this account" in done.err
    assert launcher.runs() == []


@subordinate
def test_groups_stay_where_no_other_group_is_mapped(launcher: Launcher) -> None:
    spec = HOST_ROOT + explicit((0, UID, 1), (1, foreign_start(), 10), groups=((0, GID, 1),))
    done = launcher.shell("cat /proc/self/setgroups; id -u", spec)
    assert done.out.split() == ["deny", "0"], done.err


@pytest.mark.root
def test_root_can_map_root_and_gets_a_warning(launcher: Launcher, volume: Path) -> None:
    (volume / "secret").write_text("root's")
    (volume / "secret").chmod(0o600)
    spec = HOST_ROOT + explicit((0, 0, 1000)) + bind(volume)
    assert launcher.shell("cat /volume/secret; touch /volume/new", spec).out == "root's"
    assert (volume / "new").stat().st_uid == 0
    # No further message.
    for word in ("auto", "single"):
        done = launcher.shell("cat /volume/secret", HOST_ROOT + f'[ids]\nmap = "{word}"\n' + bind(volume))
        assert "Permission denied" in done.err


def test_writable_layer_of_another_map_is_refused_by_name(launcher: Launcher) -> None:
    spec = '[sandbox]\nname = "kept"\n[root]\nlayers = ["dir:/"]\nwritable = "persistent"\n'
    assert launcher.shell("echo x > /kept", spec).status == 0
    if AS_ROOT or has_subordinate_ids():
        done = launcher.shell("cat /kept", spec + '[ids]\nmap = "single"\n')
        assert done.status == 125
        assert "was created under another id map: 0 " in done.err
        assert "use its former ids, or set another sandbox.name" in done.err
    assert launcher.shell("cat /kept", spec).out == "x\n"


def archive(path: Path, root: str = "of root") -> None:
    with tarfile.open(path, "w") as tar:
        for name, uid, text in (("data/root", 0, root), ("data/web", 33, "of web")):
            info = tarfile.TarInfo(name)
            info.uid = info.gid = uid
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))


@whole_map
def test_archive_is_unpacked_for_each_map_and_kept_until_it_changes(
    launcher: Launcher, tmp_path: Path
) -> None:
    archive(tmp_path / "data.tar")
    layers = '[root]\nlayers = ["dir:/", "tar:data.tar"]\n'
    start = foreign_start()
    maps = ["", explicit((0, start, 40)), '[ids]\nmap = "single"\n']
    maps += [] if AS_ROOT else ['[ids]\nmap = "keep-id"\n']
    owners = []
    for ids in (*maps, *maps):
        done = launcher.shell("stat -c %u:%g / /data /data/root /data/web; cat /data/web; echo", layers + ids)
        assert done.status == 0, done.err
        owners.append(done.out.split("\n")[:4])
    assert owners[0] == owners[1] == ["0:0", "0:0", "0:0", "33:33"]
    assert owners[: len(maps)] == owners[len(maps) :]
    store = launcher.state / "images" / "archives"

    def kept() -> list[str]:
        return [name for name in os.listdir(store) if "." not in name]

    assert len(kept()) == len(maps)
    os.utime(tmp_path / "data.tar", ns=(1, 1))
    assert launcher.shell("cat /data/root", layers + '[ids]\nmap = "single"\n').out == "of root"
    assert len(kept()) == len(maps)
    archive(tmp_path / "data.tar", "of another root")
    assert launcher.shell("cat /data/root", layers + '[ids]\nmap = "single"\n').out == "of another root"
    assert len(kept()) == 1


@whole_map
def test_user_whose_id_the_map_lacks_is_refused_with_its_number(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "etc" / "etc").mkdir(parents=True)
    (tmp_path / "etc" / "etc" / "passwd").write_text("web:x:70000:0::/:/bin/sh\n")
    spec = '[root]\nlayers = ["dir:/", "dir:etc"]\n[process]\nuser = "web"\n'
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | 0o055)
    done = launcher.shell("id", spec)
    assert done.status == 125
    assert "process.user: user 70000 of web in the sandbox's /etc/passwd is not in its id map" in done.err


GROUPS = (
    "root:x:0:\nfirst:x:100:web\nsecond:x:200:other,web\nweb:x:7:\nfar:x:70000:far\n\x1b[31mfar:x:70001:red\n"
)


def group_files(tmp_path: Path) -> str:
    """Return a root with account files of its own."""
    etc = tmp_path / "accounts" / "etc"
    etc.mkdir(parents=True)
    users = ("web", "far", "red")
    lines = [f"{name}:x:{number}:7::/:/bin/sh\n" for number, name in enumerate(users, 5)]
    (etc / "passwd").write_text("".join(lines))
    (etc / "group").write_text(GROUPS)
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | 0o055)
    return '[root]\nlayers = ["dir:/", "dir:accounts"]\n[process]\n'


@whole_map
@pytest.mark.parametrize(
    ("process", "groups"),
    [
        ('user = "web"', "7 100 200"),
        ('user = "web"\ngroups = []', "7"),
        ('user = "web"\ngroups = ["second", 27, "root"]', "7 0 27 200"),
        ('user = "web:first"', "100"),
        ("user = 5", "7"),
        ('groups = ["first"]', "0 100"),
    ],
)
def test_groups_come_from_the_sandboxs_own_group_file(
    launcher: Launcher, tmp_path: Path, process: str, groups: str
) -> None:
    done = launcher.shell("id -G", group_files(tmp_path) + process + "\n")
    assert done.out == groups + "\n", done.err


@whole_map
@pytest.mark.parametrize(
    ("process", "place", "message", "hint"),
    [
        (
            'groups = [1, "gone"]',
            "4:14: process.groups[1]",
            "group gone is not in the sandbox's /etc/group",
            "name one that exists there, or an id",
        ),
        (
            'groups = [ "first", "far"]',
            "4:21: process.groups[1]",
            "group 70000, far in the sandbox's /etc/group, is not in its id map",
            "name another group, or map more ids",
        ),
        (
            'user = "far"',
            "4:8: process.user",
            "far is in group 70000, far in the sandbox's /etc/group, which is not in its id map",
            "list its groups in process.groups: [] for none",
        ),
        (
            'user = "red"',
            "4:8: process.user",
            "red is in group 70001, \\u001B[31mfar in the sandbox's /etc/group, which is not in its id map",
            "list its groups in process.groups: [] for none",
        ),
    ],
)
def test_group_that_cannot_be_set_is_an_error_at_its_place(
    launcher: Launcher, tmp_path: Path, process: str, place: str, message: str, hint: str
) -> None:
    done = launcher.shell("id", group_files(tmp_path) + process + "\n")
    assert done.status == 125
    assert f"test.toml:{place}: {message}\n" in done.err
    assert hint in done.err
    assert launcher.runs() == []


def test_groups_that_list_the_user_are_not_set_where_the_map_has_none(
    launcher: Launcher, tmp_path: Path
) -> None:
    spec = group_files(tmp_path) + 'user = "root"\n[ids]\nmap = "single"\n'
    (tmp_path / "accounts" / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tmp_path / "accounts" / "etc" / "group").write_text("root:x:0:root\nadm:x:4:root\n")
    done = launcher.shell("id -u; ls -ld /etc >/dev/null", spec)
    assert (done.status, done.out) == (0, "0\n"), done.err


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "huge"])
def test_hostile_account_files_neither_hang_nor_mislead_the_launcher(
    launcher: Launcher, tmp_path: Path, kind: str
) -> None:
    etc = tmp_path / "layer" / "etc"
    etc.mkdir(parents=True)
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | 0o055)
    if kind == "fifo":
        os.mkfifo(etc / "passwd")
    elif kind == "device":
        (etc / "passwd").symlink_to("/dev/zero")
    elif kind == "link":
        (etc / "passwd").symlink_to("/proc/1/root/../../etc/passwd")
    else:
        with open(etc / "passwd", "wb") as file:
            file.truncate(1 << 40)
    spec = '[root]\nlayers = ["dir:/", "dir:layer"]\n'
    assert launcher.shell("echo $HOME", spec).out == "/\n"
    done = launcher.shell("id", spec + '[process]\nuser = "daemon"\n')
    assert done.status == 125
    if AS_ROOT or has_subordinate_ids():
        assert "user daemon is not in the sandbox's /etc/passwd" in done.err
