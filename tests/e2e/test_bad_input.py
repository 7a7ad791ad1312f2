"""Every mistake ends with exit status 125 and a message with file, position and remedy, and leaves nothing behind."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def refused(launcher: Launcher, spec: str, *parts: str) -> None:
    done = launcher.up(spec, ["true"])
    assert done.status == 125, done
    assert done.out == ""
    for part in parts:
        assert part in done.err
    assert "Traceback" not in done.err
    assert launcher.runs() == []


def test_missing_file_is_an_error_that_names_it(launcher: Launcher, tmp_path: Path) -> None:
    path = str(tmp_path / "absent.toml")
    done = launcher.up(path)
    assert (done.status, done.err.split("\n")[0]) == (125, f"{path}: no such file")


def test_error_in_a_malformed_file_points_at_the_character(launcher: Launcher) -> None:
    refused(launcher, "[root\nlayers = []\n", "test.toml:1:6: ")


def test_error_about_an_unknown_key_names_the_most_similar_one(launcher: Launcher) -> None:
    refused(
        launcher,
        '[root]\nlayer = ["dir:/"]\n',
        "test.toml:2:1: root.layer: unknown key",
        "did you mean layers?",
    )


def test_error_about_a_wrong_type_names_both_types(launcher: Launcher) -> None:
    refused(
        launcher,
        HOST_ROOT + '[process]\nargs = "x"\n',
        "test.toml:4:8: process.args: expected array",
        "found string",
    )


def test_key_of_a_later_version_is_refused_and_not_ignored(launcher: Launcher) -> None:
    refused(
        launcher,
        HOST_ROOT + '[health]\ncommand = ["true"]\n',
        "health: not enforced by this version",
    )


def test_missing_layer_is_an_error_at_its_place(launcher: Launcher, tmp_path: Path) -> None:
    refused(
        launcher,
        '[root]\nlayers = ["dir:absent"]\n',
        "test.toml:2:11: root.layers[0]: ",
        "no such file or directory",
    )


def test_layer_that_is_a_file_offers_the_other_kind(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(
        launcher,
        '[root]\nlayers = ["dir:file"]\n',
        "root.layers[0]: ",
        "is a file, not a directory",
        'write "tar:',
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_layer_that_cannot_be_read_is_refused(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    refused(launcher, '[root]\nlayers = ["dir:closed"]\n', "root.layers[0]: ", "permission denied")


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_mistakes_and_refusals_are_reported_together_in_the_order_of_the_file(
    launcher: Launcher, options: list[str]
) -> None:
    done = launcher.up(
        HOST_ROOT
        + '[[volumes]]\ntype = "bind"\nsource = "absent"\ntarget = "/a"\n'
        + '[process]\ncmmand = "true"\nenv_file = "absent.env"\n'
        + '[health]\ncommand = ["true"]\n'
        + '[[devices]]\npath = "/dev/absent"\n',
        options=options,
    )
    assert done.status == 125
    told = [line.partition(".toml:")[2] for line in done.err.splitlines() if ".toml:" in line]
    assert [line.split(": ")[:2] for line in told] == [
        ["5:10", "volumes[0].source"],
        ["8:1", "process.cmmand"],
        ["9:12", "process.env_file"],
        ["10:2", "health"],
        ["13:8", "devices[0].path"],
    ]


def test_keys_that_are_not_enforced_are_reported_with_what_the_machine_refuses(launcher: Launcher) -> None:
    refused(
        launcher,
        HOST_ROOT + '[process]\nenv_file = "absent.env"\n[health]\ncommand = ["true"]\n',
        "test.toml:4:12: process.env_file: ",
        "test.toml:5:2: health: not enforced by this version",
    )


@pytest.fixture
def closed() -> Iterator[Path]:
    """Return a directory that only another user may enter, like a home directory.

    It is in /var/tmp, because /tmp may be mounted nodev, which is another reason to refuse a device.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        os.chmod(top, 0o755)
        home = Path(top, "home")
        (home / "src").mkdir(parents=True)
        home.chmod(0o700)
        os.chown(home, 65534, 65534)
        yield home


@pytest.mark.root
@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('[[volumes]]\ntype = "bind"\nsource = "HOME/src"\ntarget = "/mnt"\n', "5:10: volumes[0].source: "),
        ('[[devices]]\npath = "HOME/null"\ntarget = "/dev/x"\n', "4:8: devices[0].path: "),
    ],
)
def test_source_that_only_the_hosts_root_can_reach_is_refused_at_its_place(
    launcher: Launcher, closed: Path, table: str, key: str
) -> None:
    os.mknod(closed / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    refused(
        launcher,
        HOST_ROOT + table.replace("HOME", str(closed)),
        f"test.toml:{key}{closed}/",
        f": {closed} (mode 700, of user 65534) cannot be searched by user 0 of the host",
        f"chmod o+x {closed}, or start the sandbox as user 65534",
    )


@pytest.mark.root
def test_source_that_the_sandboxs_root_can_reach_is_mounted(launcher: Launcher, closed: Path) -> None:
    (closed / "src/file").touch()
    maps = (f"{kind}_map = [{{ inside = 0, outside = 60000, count = 65536 }}]\n" for kind in ("uid", "gid"))
    volume = f'[[volumes]]\ntype = "bind"\nsource = "{closed}/src"\ntarget = "/mnt"\nread_only = true\n'
    done = launcher.up(HOST_ROOT + "[ids]\n" + "".join(maps) + volume, ["ls", "/mnt"])
    assert (done.status, done.out) == (0, "file\n"), done


@pytest.mark.root
def test_error_about_a_layer_that_the_server_may_not_enter_names_the_servers_id(
    launcher: Launcher, closed: Path
) -> None:
    refused(
        launcher,
        f'[root]\nlayers = ["dir:/", "dir:{closed}"]\n',
        "sandbox: mount proc on /proc: openat2: permission denied (EACCES)\n",
        "hint: the layers are read as user 1878982656 of this machine",
    )


@pytest.mark.root
def test_state_behind_a_closed_directory_is_one_error_with_the_id_that_may_not_enter(
    launcher: Launcher, closed: Path
) -> None:
    done = launcher.up(
        HOST_ROOT + '[[volumes]]\ntype = "named"\nsource = "data"\ntarget = "/mnt"\n',
        ["true"],
        environ={"SANDBOX_STATE_DIR": str(closed / "state")},
    )
    assert done.status == 125
    place = closed / "state/volumes/data/data"
    assert done.err.startswith(
        f"sandbox: open {place}: openat2: permission denied (EACCES)\n      hint: user 0 "
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_error_about_a_volume_that_cannot_be_read_names_the_user(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    refused(
        launcher,
        HOST_ROOT + '[[volumes]]\ntype = "bind"\nsource = "closed"\ntarget = "/mnt"\n',
        f"volumes[0].source: {tmp_path}/closed: permission denied to user {os.geteuid()} of this machine",
        "give that user read permission",
    )


def test_file_that_is_no_archive_is_refused(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no archive at all, and not a short one either\n" * 50)
    refused(
        launcher,
        '[root]\nlayers = ["tar:text.tar"]\n',
        "sandbox: ",
        "text.tar",
        "\n      hint: use a tar archive",
    )


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_archive_of_a_container_image_is_refused_with_the_way_to_a_root(
    launcher: Launcher, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "1.json").write_text("{}")
    (image / "2.tar").write_bytes(bytes(10240))
    (image / "manifest.json").write_text('[{"Config":"1.json","RepoTags":[],"Layers":["2.tar"]}]')
    made = subprocess.run(["tar", "-c", "-C", image, "."], check=True, stdout=subprocess.PIPE)
    (tmp_path / "image.tar").write_bytes(pack(made.stdout))
    refused(
        launcher,
        '[root]\nlayers = ["tar:image.tar"]\n',
        f"sandbox: {tmp_path}/image.tar is a docker-archive: a container image",
        f"podman create docker-archive:{tmp_path}/image.tar true",
    )
    assert os.listdir(launcher.state / "images" / "archives") == []


def test_directory_of_a_container_image_is_refused_at_its_place(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    refused(
        launcher,
        '[root]\nlayers = ["dir:image"]\n',
        f"test.toml:2:11: root.layers[0]: {tmp_path}/image is an OCI layout: a container image",
        f"podman create oci:{tmp_path}/image true",
    )


def test_truncated_archive_leaves_no_layer(launcher: Launcher, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(100_000))
    subprocess.run(["tar", "-cf", tmp_path / "whole.tar", "-C", source, "."], check=True)
    (tmp_path / "half.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:50_000])
    refused(
        launcher,
        '[root]\nlayers = ["tar:half.tar"]\n',
        "half.tar: truncated",
        "\n      hint: get the archive again\n",
    )
    assert os.listdir(launcher.state / "images" / "archives") == []


def test_layer_inside_the_state_directory_is_refused(launcher: Launcher) -> None:
    assert launcher.up(command=["true"]).status == 0
    refused(
        launcher, f'[root]\nlayers = ["dir:{launcher.state}/run"]\n', "in the sandboxes' own state directory"
    )


def test_limit_that_cannot_be_enforced_is_refused_unless_optional(launcher: Launcher) -> None:
    if os.geteuid() == 0:
        pytest.skip("root has cgroups")
    done = launcher.up(HOST_ROOT + "[limits]\npids = 10\n", ["true"])
    if done.status == 0:
        pytest.skip("this account has a delegated cgroup")
    assert done.status == 125
    assert "test.toml:4:8: limits.pids: cannot be enforced here: " in done.err
    assert 'optional = ["pids"]' in done.err
    allowed = launcher.up(HOST_ROOT + '[limits]\npids = 10\noptional = ["pids"]\n', ["true"])
    assert allowed.status == 0
    assert allowed.err.startswith("sandbox: warning: ")


def test_all_mistakes_are_shown_at_once(launcher: Launcher) -> None:
    spec = '[root]\nlayers = ["dir:absent", "tar:absent.tar"]\n[[volumes]]\ntype = "bind"\nsource = "absent"\ntarget = "/v"\n'
    done = launcher.up(spec, ["true"])
    assert [line.split(": ")[1] for line in done.err.split("\n") if line.count(".toml:")] == [
        "root.layers[0]", "root.layers[1]", "volumes[0].source",
    ]  # fmt: skip


def test_state_directory_that_others_may_write_is_refused(launcher: Launcher) -> None:
    launcher.state.mkdir()
    launcher.state.chmod(0o777)
    done = launcher.up(command=["true"])
    assert done.status == 125
    assert "can be written by other users" in done.err


def test_wrong_command_line_is_status_125_with_the_usage(launcher: Launcher) -> None:
    for arguments in ([], ["up", "-w"], ["no-such-verb"], ["up", "--no-such-option", "x.toml"]):
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 125, arguments
        assert done.stderr.startswith("usage: sandbox"), arguments


def test_traceback_is_shown_only_with_debug(launcher: Launcher) -> None:
    spec = '[root]\nlayers = ["dir:absent"]\n'
    assert "Traceback" not in launcher.up(spec).err
    assert "Traceback" in launcher.up(spec, options=["--debug"]).err


def test_host_without_user_namespaces_is_an_error_with_a_remedy(launcher: Launcher) -> None:
    # A user namespace that allows no further ones simulates a host where they are disabled.
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    arguments = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        *launcher.arguments(HOST_ROOT, ["true"]),
    ]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE, check=False, env=launcher.environ
    )
    assert done.returncode == 125, done
    assert "user namespaces are disabled: as root, sysctl user.max_user_namespaces=" in done.stderr
    assert launcher.runs() == []


def test_host_without_fuse_is_an_error_with_a_remedy(launcher: Launcher) -> None:
    hide = (
        "mount -t tmpfs none /mnt && for node in null zero full random urandom tty; do"
        ' touch /mnt/$node && mount --bind /dev/$node /mnt/$node; done && mount --rbind /mnt /dev && exec "$@"'
    )
    arguments = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", hide, "sh"]
    done = subprocess.run(
        [*arguments, *launcher.arguments(HOST_ROOT, ["true"])],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert done.returncode == 125, done
    assert "/dev/fuse is missing" in done.stderr
    assert "modprobe fuse" in done.stderr
