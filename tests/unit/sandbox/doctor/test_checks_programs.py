"""The checks of the kernel, programs and filters: the exact text of every branch."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.doctor.checks.needs import Needs
from sandbox.doctor.checks.programs import check_programs
from sandbox.doctor.facts import Failure, ProgramFacts, SecurityFacts
from sandbox.host.facts import HostFacts
from tests.unit.sandbox.doctor.made_up import account, checks, machine, session, shown

CASES: list[tuple[str, str, HostFacts | None, dict[str, Any], tuple[str, str, str, str]]] = [
    (
        "a new kernel",
        "kernel",
        None,
        {},
        (
            "ok",
            "Linux 6.12",
            "",
            "",
        ),
    ),
    (
        "an old kernel",
        "kernel",
        account(kernel_version=(5, 5)),
        {},
        (
            "failure",
            "Linux 5.5 is too old",
            "no sandbox starts: openat2(2) came with Linux 5.6",
            "boot a newer kernel; Debian 11 and Ubuntu 22.04 have one",
        ),
    ),
    (
        "the server",
        "server",
        None,
        {},
        (
            "ok",
            "the file system server can be started: pyfuse3 3.5.0, trio 0.35.0, Python 3.13.5",
            "",
            "",
        ),
    ),
    (
        "a module of the server is missing",
        "server",
        None,
        {
            "server": ProgramFacts(
                path="/usr/bin/python3",
                version="Python 3.13",
                lacks="ModuleNotFoundError: No module named 'pyfuse3'",
            )
        },
        (
            "warning",
            "the pyfuse3 server cannot be started: ModuleNotFoundError: No module named 'pyfuse3'",
            'environment files with server = "pyfuse3" in [root] do not start',
            "install its packages: /usr/bin/python3 -m pip install pyfuse3 trio",
        ),
    ),
    (
        "the server is missing",
        "server",
        None,
        {
            "server": ProgramFacts(
                path="/usr/bin/python3", problem="ModuleNotFoundError: No module named 'unionfs'"
            )
        },
        (
            "failure",
            "the file system server cannot be started: ModuleNotFoundError: No module named 'unionfs'",
            "no sandbox starts",
            "start sandbox with the Python environment of its checkout: scripts/quickstart creates .venv",
        ),
    ),
    (
        "libfuse is missing",
        "server",
        None,
        {
            "server": ProgramFacts(
                path="/usr/bin/python3",
                version="Python 3.13",
                lacks="ImportError: libfuse3.so.4: cannot open shared object file: No such file or directory",
            )
        },
        (
            "warning",
            "the pyfuse3 server cannot be started: ImportError: libfuse3.so.4: cannot open shared object file: No such file or directory",
            'environment files with server = "pyfuse3" in [root] do not start',
            "as root: apt-get install fuse3",
        ),
    ),
    (
        "libfuse is missing elsewhere",
        "server",
        None,
        {
            "session": session(debian=False),
            "server": ProgramFacts(
                path="/usr/bin/python3",
                version="Python 3.13",
                lacks="ImportError: libfuse3.so.4: cannot open shared object file: No such file or directory",
            ),
        },
        (
            "warning",
            "the pyfuse3 server cannot be started: ImportError: libfuse3.so.4: cannot open shared object file: No such file or directory",
            'environment files with server = "pyfuse3" in [root] do not start',
            "as root: install libfuse 3",
        ),
    ),
    (
        "the server hangs",
        "server",
        None,
        {"server": ProgramFacts(path="/usr/bin/python3", problem="no answer within 30 seconds")},
        (
            "failure",
            "the file system server cannot be started: no answer within 30 seconds",
            "no sandbox starts",
            "see the error of: /usr/bin/python3 -P -c 'import unionfs.launch.server_process, unionfs.fuse.direct.loop'",
        ),
    ),
    (
        "filters",
        "seccomp",
        None,
        {},
        (
            "ok",
            "seccomp filters can be compiled and set",
            "",
            "",
        ),
    ),
    (
        "no filters",
        "seccomp",
        None,
        {
            "security": SecurityFacts(
                seccomp=Failure(errno=22, text="prctl(22, 2): Invalid argument"), libseccomp=True, landlock=7
            )
        },
        (
            "failure",
            "no seccomp filter can be set: prctl(22, 2): Invalid argument",
            'environment files without seccomp = "unconfined" or optional = ["seccomp"] in [security] are refused',
            'boot a kernel with CONFIG_SECCOMP_FILTER, or set seccomp = "unconfined"',
        ),
    ),
    (
        "no libseccomp",
        "seccomp",
        None,
        {"security": SecurityFacts(seccomp=None, libseccomp=False, landlock=7)},
        (
            "failure",
            "seccomp filters can be set, but libseccomp, which compiles them, is not installed",
            'environment files without seccomp = "unconfined" or optional = ["seccomp"] in [security] are refused',
            "as root: apt-get install libseccomp2",
        ),
    ),
    (
        "no libseccomp elsewhere",
        "seccomp",
        None,
        {
            "session": session(debian=False),
            "security": SecurityFacts(seccomp=None, libseccomp=False, landlock=7),
        },
        (
            "failure",
            "seccomp filters can be set, but libseccomp, which compiles them, is not installed",
            'environment files without seccomp = "unconfined" or optional = ["seccomp"] in [security] are refused',
            "as root: install libseccomp",
        ),
    ),
    (
        "Landlock",
        "landlock",
        None,
        {},
        (
            "ok",
            "Landlock, version 7",
            "",
            "",
        ),
    ),
    (
        "Landlock without ports",
        "landlock",
        None,
        {"security": SecurityFacts(seccomp=None, libseccomp=True, landlock=3)},
        (
            "warning",
            "Landlock, version 3, version 6 has everything that sandbox uses",
            "environment files with connect, bind in security.landlock are refused, and Landlock does not restrict signals and abstract sockets",
            "boot Linux 6.12 or later",
        ),
    ),
    (
        "Landlock without scopes",
        "landlock",
        None,
        {"security": SecurityFacts(seccomp=None, libseccomp=True, landlock=4)},
        (
            "note",
            "Landlock, version 4, version 6 has everything that sandbox uses",
            "Landlock does not restrict signals and abstract sockets",
            "boot Linux 6.12 or later",
        ),
    ),
    (
        "no Landlock",
        "landlock",
        None,
        {"security": SecurityFacts(seccomp=None, libseccomp=True, landlock=0)},
        (
            "warning",
            "the kernel has no Landlock, or it was disabled at boot",
            "environment files with security.landlock are refused",
            "boot with lsm=landlock,... on the kernel's command line (Linux 6.7 or later)",
        ),
    ),
    (
        "pasta",
        "network",
        None,
        {},
        ("ok", "pasta connects private networks to the host's", "", ""),
    ),
    (
        "slirp4netns without pasta",
        "network",
        None,
        {"pasta": ProgramFacts(path=None), "slirp4netns": ProgramFacts(path="/usr/bin/slirp4netns")},
        (
            "note",
            "slirp4netns connects private networks to the host's, because pasta is not installed",
            "private networks have no IPv6, and are slower",
            "as root: apt-get install passt",
        ),
    ),
    *(
        (
            f"slirp4netns fails: {name}",
            "network",
            None,
            {
                "pasta": ProgramFacts(path=None),
                "slirp4netns": ProgramFacts(path="/usr/bin/slirp4netns", problem=problem),
            },
            (
                "warning",
                f"/usr/bin/slirp4netns cannot connect a private network, and pasta is not installed: {problem}",
                'environment files with network.mode = "private" fail',
                remedy,
            ),
        )
        for name, problem, remedy in (
            (
                "no tun",
                'open("/dev/net/tun"): No such file or directory child failed(1)',
                "as root: modprobe tun; chmod 666 /dev/net/tun (udev has it so); in a container: --device /dev/net/tun",
            ),
            ("another failure", "it prints no reason", "as root: apt-get install passt"),
        )
    ),
    (
        "neither pasta nor slirp4netns",
        "network",
        None,
        {"pasta": ProgramFacts(path=None), "slirp4netns": ProgramFacts(path=None)},
        (
            "note",
            "pasta, which connects private networks to the host's, is not installed, and neither is slirp4netns",
            'environment files with network.mode = "private" are refused',
            "as root: apt-get install passt",
        ),
    ),
    (
        "neither of them elsewhere",
        "network",
        None,
        {
            "session": session(debian=False),
            "pasta": ProgramFacts(path=None),
            "slirp4netns": ProgramFacts(path=None),
        },
        (
            "note",
            "pasta, which connects private networks to the host's, is not installed, and neither is slirp4netns",
            'environment files with network.mode = "private" are refused',
            "as root: install passt",
        ),
    ),
    (
        "pasta fails and slirp4netns does not",
        "network",
        None,
        {
            "pasta": ProgramFacts(path="/usr/bin/pasta", problem="it prints no reason"),
            "slirp4netns": ProgramFacts(path="/usr/bin/slirp4netns"),
        },
        (
            "warning",
            "/usr/bin/pasta cannot connect a private network: it prints no reason",
            'environment files with network.mode = "private" fail',
            (
                "run the command line that `sandbox up --debug` prints; or remove the package passt: then slirp4netns connects "
                "private networks, without IPv6 and slower"
            ),
        ),
    ),
    (
        "no nft",
        "network",
        None,
        {"nft": None},
        (
            "note",
            "pasta connects private networks to the host's; nft, which filters packets, is not installed",
            (
                "environment files that join a network that is not internal, or whose network.egress has a rule without a port, "
                "do not start"
            ),
            "as root: apt-get install nftables",
        ),
    ),
    (
        "nothing for networks elsewhere",
        "network",
        None,
        {
            "session": session(debian=False),
            "pasta": ProgramFacts(path=None),
            "slirp4netns": ProgramFacts(path=None),
            "nft": None,
        },
        (
            "note",
            (
                "pasta, which connects private networks to the host's, is not installed, and neither is slirp4netns; "
                "nft, which filters packets, is not installed"
            ),
            (
                'environment files with network.mode = "private" are refused; environment files that join a network that is not '
                "internal, or whose network.egress has a rule without a port, do not start"
            ),
            "as root: install passt; as root: install nftables",
        ),
    ),
    *(
        (
            name,
            "network",
            None,
            {
                "pasta": ProgramFacts(path="/usr/bin/pasta", problem=problem),
                "slirp4netns": ProgramFacts(path=None),
            },
            (
                "warning",
                f"/usr/bin/pasta cannot connect a private network: {problem}",
                'environment files with network.mode = "private" fail',
                remedy,
            ),
        )
        for name, problem, remedy in (
            (
                "no tun",
                "Failed to open() /dev/net/tun: Permission denied",
                "as root: modprobe tun; chmod 666 /dev/net/tun (udev has it so); in a container: --device /dev/net/tun",
            ),
            (
                "an old pasta",
                "pasta: unrecognized option '--map-host-loopback'",
                "install passt from 2024 or later, which has --map-host-loopback and --map-guest-addr",
            ),
            (
                "AppArmor",
                "Couldn't open network namespace: Permission denied",
                (
                    "AppArmor may forbid it: as root, `journalctl -k -g apparmor` names the profile and the path; add a line "
                    "`PATH rw,` to the file of that profile in /etc/apparmor.d/local, then systemctl reload apparmor"
                ),
            ),
            (
                "another failure",
                "it prints no reason",
                "run the command line that `sandbox up --debug` prints",
            ),
        )
    ),
    (
        "a table of mounts",
        "mtab",
        None,
        {},
        (
            "ok",
            "fusermount3 finds mounts in /etc/mtab",
            "",
            "",
        ),
    ),
    (
        "no table of mounts",
        "mtab",
        None,
        {"mtab": False},
        (
            "note",
            "/etc/mtab is missing",
            "fusermount3 -u does not work for ordinary users; use umount, as unionfs does",
            "as root: ln -s /proc/self/mounts /etc/mtab",
        ),
    ),
]


@pytest.mark.parametrize(
    ("identity", "facts", "changes", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0].replace(" ", "-") for case in CASES],
)
def test_what_is_found_is_said_with_its_cost_and_remedy(
    identity: str, facts: HostFacts | None, changes: dict[str, Any], expected: tuple[str, str, str, str]
) -> None:
    assert shown(checks(facts, **changes)[identity]) == expected


def test_the_facts_of_the_network_name_each_program() -> None:
    slirp4netns = ProgramFacts(path="/usr/bin/slirp4netns", problem="it prints no reason")
    assert checks()["network"].facts == {
        "pasta": {"path": "/usr/bin/pasta", "problem": None},
        "slirp4netns": None,
        "nft": "/usr/sbin/nft",
    }
    assert checks(pasta=ProgramFacts(path=None), slirp4netns=slirp4netns, nft=None)["network"].facts == {
        "pasta": {"path": None, "problem": None},
        "slirp4netns": {"path": "/usr/bin/slirp4netns", "problem": "it prints no reason"},
        "nft": None,
    }


def test_a_file_that_wants_no_filter_works_without_what_one_needs() -> None:
    lacking = machine(security=SecurityFacts(seccomp=None, libseccomp=False, landlock=7))
    levels = [
        check_programs(lacking, Needs(single_id=False, seccomp=needed))[0].level for needed in (True, False)
    ]
    assert levels == ["failure", "warning"]
