"""Attacks of a program on the private directories: the state of all sandboxes, and the secret in the run directory."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, Outcome, let_in
from tests.e2e.test_start import imported

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Tries to move, remove, replace and uncover every directory on the way to a hidden one, $2 below $1; prints each success.
_MOVE = """
import ctypes, errno, json, os, sys
top, path = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    if result < 0: raise OSError(ctypes.get_errno(), "")
def exchange(one, other):
    os.makedirs(other)
    call(libc.renameat2(-100, one.encode(), -100, other.encode(), 2))
def bind(source, target):
    call(libc.mount(source.encode(), target.encode(), None, 4096, None))
def link(old, new):
    os.rmdir(old)
    os.symlink(new, old)
found = {}
parts = path.split("/")
for depth in range(len(parts), 0, -1):
    at = "/".join([top, *parts[:depth]])
    for name, attempt in {
        "rename": lambda: os.rename(at, f"{at}-moved"),
        "rename to the top": lambda: os.rename(at, f"{top}/moved{depth}"),
        "exchange": lambda: exchange(at, f"{at}-other"),
        "rmdir": lambda: os.rmdir(at),
        "link": lambda: link(at, top),
        "umount": lambda: call(libc.umount2(at.encode(), 2)),
        "bind over": lambda: bind("/etc", at),
        "bind elsewhere": lambda: bind(at, "/mnt"),
        "hard link": lambda: os.link(at, f"{at}-linked"),
    }.items():
        try: attempt()
        except OSError as error: found[f"{name} {depth}"] = errno.errorcode[error.errno]
        else: found[f"{name} {depth}"] = "done"
place = "/".join([top, *parts])
print(json.dumps({"done": [name for name in found if found[name] == "done"], "tried": len(found),
    "seen": os.listdir(place), "writable": os.access(place, os.W_OK)}))
"""
#: Runs a script as the host's root in a mount namespace of its own, which ends with its mounts.
_PRIVATE = ["unshare", "-m", "--propagation", "private", "sh", "-ec"]
_IN_VAIN = {"done": [], "tried": 27, "seen": [], "writable": False}


def volume(source: Path | str, target: str = "/v", **others: bool | str) -> str:
    values = (f"{key} = {json.dumps(value)}\n" for key, value in others.items())
    return f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "{target}"\n{"".join(values)}'


@pytest.fixture
def home(launcher: Launcher) -> Path:
    """Return a directory with the state directory three levels down, as in a home directory. Every user may write to it."""
    home = launcher.directory / "home"
    launcher.state = home / ".local/state/sandbox"
    launcher.environ["SANDBOX_STATE_DIR"] = str(launcher.state)
    launcher.state.parent.mkdir(parents=True)
    let_in(launcher.directory)
    for directory in (home, home / ".local", home / ".local/state"):
        directory.chmod(0o777)
    return home


def attack(
    launcher: Launcher, spec: str, top: str = "/v", path: str = ".local/state/sandbox"
) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        launcher.up(spec, ["/usr/bin/python3", "-c", _MOVE, top, path]).facts_text()
    )
    return found


def as_host(launcher: Launcher, mounting: str, spec: str, command: list[str]) -> Outcome:
    """Run a sandbox in a mount namespace in which the host's root has run the shell commands *mounting*."""
    done = subprocess.run(
        [*_PRIVATE, f'{mounting}\n"$@"', "sh", *launcher.arguments(spec, command)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


# -- the state directory --------------------------------------------------------------------------


def test_state_of_a_running_sandbox_is_out_of_reach_of_its_program(launcher: Launcher) -> None:
    script = (
        f"ls -A {launcher.state}; cat {launcher.state}/run/*/state.json; echo x > {launcher.state}/lock;"
        f" find {launcher.directory} -name state.json 2>/dev/null"
    )
    outcome = launcher.shell(script)
    assert outcome.out == ""
    assert launcher.runs() == []


def test_state_directory_is_hidden_in_a_volume_that_holds_it(launcher: Launcher) -> None:
    let_in(launcher.directory)
    spec = HOST_ROOT + f'[[volumes]]\ntype = "bind"\nsource = "{launcher.state.parent}"\ntarget = "/v"\n'
    spec += '[security]\nreadonly_paths = ["/v/test.toml"]\n'
    place = f"/v/{launcher.state.name}"
    script = (
        f"ls -A {place}; find /v -name state.json; touch {place}/x 2>&1 | grep -o Read-only;"
        f" umount {place} 2>/dev/null; mv {place} {place}.moved 2>/dev/null; rmdir {place} 2>/dev/null; ls -A {place}"
    )
    outcome = launcher.shell(script, spec)
    assert (outcome.out, outcome.err) == ("Read-only\n", "")
    assert launcher.runs() == []


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
@pytest.mark.parametrize("seccomp", ["default", "unconfined"])
def test_no_directory_above_the_state_can_be_moved_in_a_volume(
    launcher: Launcher, home: Path, seccomp: str, read_only: bool
) -> None:
    spec = f'{HOST_ROOT}{volume(home, read_only=read_only)}[security]\nseccomp = "{seccomp}"\n'
    assert attack(launcher, spec) == _IN_VAIN
    # The program's own directories do not lead the next start to another state directory either.
    assert attack(launcher, spec) == _IN_VAIN
    assert (launcher.state / "run").is_dir()
    assert launcher.runs() == []


def test_volumes_over_and_beside_one_another_do_not_uncover_the_state(launcher: Launcher, home: Path) -> None:
    (home / ".local/share").mkdir()
    spec = HOST_ROOT + "".join(
        (
            volume(home),
            volume(home / ".local", "/v/.local"),
            volume(home / ".local", "/w"),
            volume(home / ".local/state", "/x", read_only=True),
            volume(launcher.directory, "/y"),
            '[[volumes]]\ntype = "tmpfs"\ntarget = "/v/.local/share"\n',
        )
    )
    for top, path in {
        "/v": ".local/state/sandbox",
        "/w": "state/sandbox",
        "/x": "sandbox",
        "/y": "home/.local/state/sandbox",
    }.items():
        assert attack(launcher, spec, top, path) == _IN_VAIN | {"tried": 9 * len(path.split("/"))}
    # In each volume, a name may lead below a directory that another volume covers.
    outcome = launcher.shell("find /v /w /x /y -name state.json -o -name sandboxes -o -name key", spec)
    assert (outcome.out, outcome.status) == ("", 0), outcome.err


def test_a_volume_in_the_hidden_directory_is_refused(launcher: Launcher, home: Path) -> None:
    spec = HOST_ROOT + volume(home)
    spec += '[[volumes]]\ntype = "tmpfs"\ntarget = "/v/.local/state/sandbox/run"\n'
    outcome = launcher.shell("true", spec)
    assert outcome.status == 125
    assert "/v/.local/state/sandbox/run" in outcome.err


@pytest.mark.parametrize("link", [".local", ".local/state"])
def test_a_link_on_the_way_to_the_state_that_the_program_could_replace_is_refused(
    launcher: Launcher, home: Path, link: str
) -> None:
    elsewhere = launcher.directory / "elsewhere"
    (home / link).rename(elsewhere)
    (home / link).symlink_to(elsewhere)
    elsewhere.chmod(0o755)
    real = os.path.realpath(launcher.state)
    outcome = launcher.shell("true", HOST_ROOT + volume(home))
    assert outcome.status == 125
    assert (
        f"test.toml:5:10: volumes[0].source: the path of the state directory contains the symbolic link {home / link}, "
        "which the program could replace" in outcome.err
    )
    assert f"set SANDBOX_STATE_DIR to {real}, make the volume read-only" in outcome.err
    assert launcher.shell("true", HOST_ROOT + volume(home, read_only=True)).status == 0
    assert launcher.shell("true", HOST_ROOT + volume(home), environ={"SANDBOX_STATE_DIR": real}).status == 0


@pytest.mark.root
@pytest.mark.parametrize(
    ("mounting", "source", "shown"),
    [
        ("mkdir srv; mount --bind home srv", "srv", "srv/.local/state/sandbox"),
        ("mkdir srv; mount --bind . srv", "srv", "srv/home/.local/state/sandbox"),
        ("mkdir home/srv; mount --bind home home/srv", "home", "home/srv/.local/state/sandbox"),
        ("mkdir home/srv; mount --bind home/.local/state home/srv", "home", "home/srv/sandbox"),
        ("mkdir home/part; mount --bind $SANDBOX_STATE_DIR/run home/part", "home", "home/part"),
        (
            "mount -t tmpfs none home/.local/state; mkdir -m 700 $SANDBOX_STATE_DIR home/srv; mount --bind home/.local/state home/srv",
            "home",
            "home/srv/sandbox",
        ),
        (
            "cd $SANDBOX_STATE_DIR/..; mount -t tmpfs none sandbox; chmod 700 sandbox; mkdir ../../srv; mount --bind sandbox ../../srv",
            "home",
            "home/srv",
        ),
        (
            "mkdir big home/x; mount --bind big $SANDBOX_STATE_DIR/volumes; mount --bind big home/x",
            "home",
            "home/x",
        ),
    ],
)
def test_a_volume_in_which_a_mount_of_the_host_shows_the_state_again_is_refused(
    launcher: Launcher, home: Path, mounting: str, source: str, shown: str
) -> None:
    launcher.shell("true")
    place = launcher.directory
    for read_only in (False, True):
        spec = HOST_ROOT + volume(place / source, read_only=read_only)
        made = mounting if not read_only else mounting.replace("mkdir", "mkdir -p")
        outcome = as_host(launcher, f"cd {place}; {made}; cd /", spec, ["true"])
        assert outcome.status == 125, outcome.err
        assert (
            f"test.toml:5:10: volumes[0].source: the state directory {launcher.state} cannot be hidden in {place / source}: a mount of "
            f"the host also shows it, or a part of it, at {place / shown}" in outcome.err
        )
        assert "or set SANDBOX_STATE_DIR to a directory outside of" in outcome.err


@pytest.mark.root
def test_a_part_of_the_state_is_known_by_whichever_mount_it_is_named(launcher: Launcher, home: Path) -> None:
    launcher.shell("true")
    (launcher.directory / "part").mkdir()
    mounting = f"mount --bind {launcher.state}/volumes {launcher.directory}/part"
    for spec in (
        HOST_ROOT + volume(launcher.directory / "part"),
        f'[root]\nlayers = ["dir:{launcher.directory}/part"]\n',
    ):
        outcome = as_host(launcher, mounting, spec, ["true"])
        assert outcome.status == 125
        assert f"{launcher.directory}/part is in the sandboxes' own state directory" in outcome.err


@pytest.mark.root
def test_mounts_that_do_not_show_the_state_or_are_covered_are_no_obstacle(
    launcher: Launcher, home: Path
) -> None:
    (home / "a/b/c").mkdir(parents=True)
    (home / ".local/share").mkdir()
    mounting = (
        f"cd {home}; mount --bind .local/share a/b; mount --bind .local/state/ a/b; mount -t tmpfs none a; mkdir -m 777 a/b; "
        "mount --bind .local/share a/b; cd /"
    )
    command = ["/usr/bin/python3", "-c", _MOVE, "/v", ".local/state/sandbox"]
    outcome = as_host(launcher, mounting, HOST_ROOT + volume(home), command)
    assert json.loads(outcome.out) == _IN_VAIN, outcome.err


@pytest.mark.root
@pytest.mark.parametrize("fstype", ["tmpfs", "bind"])
def test_directories_above_a_mount_of_the_host_that_holds_the_state_stay_where_they_are(
    launcher: Launcher, home: Path, fstype: str
) -> None:
    """The mount point cannot be renamed. The directories above it could be, and the mount would move with them on the host."""
    (launcher.directory / "disk").mkdir(mode=0o777)
    mount = "-t tmpfs -o mode=0777 none" if fstype == "tmpfs" else f"--bind {launcher.directory}/disk"
    mounting = f"mount {mount} {home}/.local/state; mkdir -m 700 {launcher.state}"
    command = ["/usr/bin/python3", "-c", _MOVE, "/v", ".local/state/sandbox"]
    outcome = as_host(launcher, mounting, HOST_ROOT + volume(home), command)
    assert json.loads(outcome.out) == _IN_VAIN, outcome.err


@pytest.mark.root
@pytest.mark.parametrize("propagation", ["private", "slave"])
def test_the_mount_that_hides_the_state_is_not_made_on_the_host(
    launcher: Launcher, home: Path, propagation: str
) -> None:
    os.mkfifo(home / "fifo")
    host = f"""
        mount --bind {home} {home}; mount --make-rshared {home}; cat /proc/self/mountinfo > {home}/before
        "$@" > {home}/fifo & exec 3< {home}/fifo; read ready <&3; [ "$ready" = empty ]
        cat /proc/self/mountinfo > {home}/meanwhile; ls -A {launcher.state}; touch {home}/go; wait $!
    """
    inside = (
        '[ -z "$(ls -A /v/.local/state/sandbox)" ] && echo empty; while [ ! -e /v/go ]; do sleep 0.05; done'
    )
    spec = HOST_ROOT + volume(home, propagation=propagation)
    done = subprocess.run(
        [*_PRIVATE, host, "sh", *launcher.arguments(spec, ["sh", "-c", inside])],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout.split()
    assert (home / "before").read_text() == (home / "meanwhile").read_text()


# -- the run directory, and the secret in it ---------------------------------------------------------


def test_run_directory_appears_empty_in_layers_and_volumes(on_root: Path) -> None:
    launcher = Launcher(on_root)
    let_in(launcher.directory)
    assert launcher.shell("true").status == 0
    assert (launcher.run / "key").stat().st_size == 32
    assert (launcher.run / "key").stat().st_mode & 0o777 == 0o600
    assert launcher.run.stat().st_mode & 0o777 == 0o700
    spec = HOST_ROOT + volume(launcher.directory) + volume(launcher.directory, "/w", read_only=True)
    script = (
        f"ls -A {launcher.run} /v/run-directory /w/run-directory; find /v /w {launcher.directory} -name key"
    )
    outcome = launcher.shell(script, spec)
    names = [f"{launcher.run}:", "/v/run-directory:", "/w/run-directory:"]
    assert sorted(outcome.out.split()) == sorted(names), outcome.err


def test_image_directory_appears_empty_in_layers_and_volumes(on_root: Path) -> None:
    launcher = Launcher(on_root)
    let_in(launcher.directory)
    images = launcher.directory / "cache" / "images"
    environ = {"SANDBOX_CACHE_DIR": str(images.parent)}
    assert launcher.shell("true", environ=environ).status == 0
    (images / "secret").touch()
    spec = HOST_ROOT + volume(launcher.directory) + volume(launcher.directory, "/w", read_only=True)
    script = f"ls -A {images} /v/cache/images /w/cache/images; find /v /w {launcher.directory} -name secret"
    outcome = launcher.shell(script, spec, environ=environ)
    names = [f"{images}:", "/v/cache/images:", "/w/cache/images:"]
    assert sorted(outcome.out.split()) == sorted(names), outcome.err
    outcome = launcher.shell("true", HOST_ROOT + volume(images), environ=environ)
    assert outcome.status == 125
    assert f"{images} is in the sandboxes' own image directory" in outcome.err


@pytest.mark.parametrize("read_only", [False, True])
def test_no_volume_is_in_the_run_directory(launcher: Launcher, read_only: bool) -> None:
    (launcher.run / "sub").mkdir(parents=True)
    launcher.run.chmod(0o700)
    for source in (launcher.run, launcher.run / "sub"):
        outcome = launcher.shell("true", HOST_ROOT + volume(source, read_only=read_only))
        assert outcome.status == 125
        assert f"volumes[0].source: {source} is in the sandboxes' own run directory" in outcome.err


def test_a_run_directory_in_the_state_directory_is_hidden_with_it_and_in_it(
    launcher: Launcher, home: Path
) -> None:
    launcher.environ["SANDBOX_RUN_DIR"] = str(launcher.state / "mine")
    assert attack(launcher, HOST_ROOT + volume(home)) == _IN_VAIN
    assert (launcher.state / "mine/key").exists()
    if os.geteuid() != 0:  # the ids of root's sandboxes may not enter root's directory
        spec = HOST_ROOT + volume(launcher.state, read_only=True)
        assert launcher.shell("ls -A /v/mine; ls -d /v/run", spec).out == "/v/run\n"


@pytest.mark.parametrize("how", ["open to others", "a symbolic link", "a file", "cannot be made"])
def test_without_a_run_directory_that_can_be_trusted_nothing_is_kept(launcher: Launcher, how: str) -> None:
    if how == "open to others":
        launcher.run.mkdir()
        launcher.run.chmod(0o750)
    elif how == "a symbolic link":
        (launcher.directory / "other").mkdir(mode=0o700)
        launcher.run.symlink_to("other")
    elif how == "a file":
        launcher.run.write_text("")
    else:
        launcher.environ["SANDBOX_RUN_DIR"] = "/proc/none/here"
    outcome = launcher.shell("echo fine")
    assert (outcome.status, outcome.out) == (0, "fine\n"), outcome.err
    assert not (launcher.state / "filters").exists()
    assert list(launcher.directory.glob("*/key")) == []


def test_filters_of_another_state_directory_are_not_used(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Launcher(tmp_path / "other")
    for each in (launcher, other):
        assert each.shell("true").status == 0
    kept = {path.name: path.read_bytes() for path in (launcher.state / "filters").iterdir()}
    assert len(kept) == 2
    for name, content in kept.items():
        # A filter whose digest was made with the secret of the other run directory.
        (launcher.state / "filters" / name).write_bytes((other.state / "filters" / name).read_bytes())
        assert (launcher.state / "filters" / name).read_bytes() != content
    assert "pyseccomp" in imported(launcher, HOST_ROOT)
    assert {path.name: path.read_bytes() for path in (launcher.state / "filters").iterdir()} == kept
    assert "pyseccomp" not in imported(launcher, HOST_ROOT)
