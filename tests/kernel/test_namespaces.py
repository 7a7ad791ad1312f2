"""Namespaces, id maps, loopback and the settings of a process."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time

import pytest

from sandbox.kernel import capabilities, idmaps, namespaces, network, process
from tests.kernel.support import in_child, refusal

KINDS = ("mount", "pid", "net", "ipc", "uts", "cgroup")


@pytest.mark.userns
@pytest.mark.parametrize("kind", [*KINDS, "user"])
def test_each_kind_is_new_and_the_others_are_not(in_namespaces, kind):
    before = {name: namespaces.identity(name) for name in KINDS}
    after = in_namespaces(
        lambda: {name: namespaces.identity(name) for name in KINDS}, kinds=() if kind == "user" else (kind,)
    )
    assert {name for name in KINDS if after[name] != before[name]} == ({kind} & set(KINDS))


@pytest.mark.userns
def test_the_first_child_in_a_new_pid_namespace_is_its_init(in_namespaces):
    assert in_namespaces(os.getpid, kinds=("pid",)) == 1


@pytest.mark.userns
def test_a_namespace_is_joined_by_path_and_by_descriptor(in_namespaces):
    def inside() -> object:
        old = os.open("/proc/self/ns/uts", os.O_RDONLY)
        first = namespaces.identity("uts")
        namespaces.unshare(["uts"])
        second = namespaces.identity("uts")
        new = f"/proc/self/fd/{os.open('/proc/self/ns/uts', os.O_RDONLY)}"
        namespaces.join("uts", old)
        back = namespaces.identity("uts")
        namespaces.join("uts", new)
        return first != second, back == first, namespaces.identity("uts") == second

    assert in_namespaces(inside, kinds=("uts",)) == [True, True, True]


@pytest.mark.userns
def test_joining_a_namespace_of_another_kind_is_refused(in_namespaces):
    assert (
        in_namespaces(lambda: refusal(namespaces.join, "net", "/proc/self/ns/uts"), kinds=("uts",))
        == "EINVAL"
    )


@pytest.mark.userns
def test_a_namespace_has_a_kind_an_owning_user_namespace_and_its_creator(in_namespaces):
    def inside() -> object:
        uts, user = (os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("uts", "user"))
        owner = namespaces.owner_of(uts)
        same = namespaces.identity_of(owner) == namespaces.identity_of(user)
        return namespaces.kind_of(uts), namespaces.kind_of(user), same

    assert in_namespaces(inside, kinds=("uts",)) == ["uts", "user", True]
    with open("/proc/self/ns/uts", "rb") as own, open("/dev/null", "rb") as none:
        assert namespaces.kind_of(own.fileno()) == "uts"
        assert namespaces.kind_of(none.fileno()) is None
        assert namespaces.identity_of(own.fileno()) == namespaces.own_identity("uts")


@pytest.mark.userns
def test_clocks_of_a_new_time_namespace_are_ahead_and_cannot_be_set_twice(in_namespaces):
    def inside() -> object:
        process.set_dumpable(True)  # otherwise /proc/self belongs to real root after the change of ids
        namespaces.unshare(["time"])
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        namespaces.write_clock_offsets([("monotonic", 5 * 10**9), ("boottime", 3600 * 10**9 + 1)])
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, str(time.clock_gettime(time.CLOCK_BOOTTIME) - before).encode())
            os._exit(0)
        ahead = float(os.read(reader, 100))
        os.wait()
        return ahead, refusal(namespaces.write_clock_offsets, [("monotonic", 1)])

    ahead, second = in_namespaces(inside, kinds=("mount",))
    assert 3600 <= ahead < 3660
    assert second == "EACCES"


@pytest.mark.userns
def test_ids_are_mapped_as_widely_as_the_account_can(in_namespaces):
    def inside() -> object:
        with open("/proc/self/uid_map") as uids, open("/proc/self/setgroups") as setgroups:
            return (
                sum(int(line.split()[2]) for line in uids),
                setgroups.read().strip(),
                os.getuid(),
                os.getgid(),
            )

    expected = [65536, "allow", 0, 0] if in_namespaces.has_whole_map() else [1, "deny", 0, 0]
    assert in_namespaces(inside) == expected


@pytest.mark.userns
def test_a_single_id_maps_the_account_itself_to_root(in_namespaces):
    def inside() -> object:
        with open("/proc/self/uid_map") as uids, open("/proc/self/gid_map") as gids:
            return uids.read().split(), gids.read().split()

    assert in_namespaces(inside, single_id=True) == [
        ["0", str(os.geteuid()), "1"],
        ["0", str(os.getegid()), "1"],
    ]


@pytest.mark.userns
def test_a_file_made_inside_belongs_to_the_mapped_id_outside(in_namespaces, open_directory):
    path = f"{open_directory}/file"

    def inside() -> object:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        return os.stat(path).st_uid

    assert in_namespaces(inside) == 0
    expected = idmaps.ROOT_RANGE_START if os.geteuid() == 0 else os.geteuid()
    assert os.stat(path).st_uid == expected


@pytest.mark.newuidmap
def test_ids_that_the_account_lacks_are_refused_with_the_helpers_message(in_namespaces):
    helpers = in_namespaces.facts.map_helpers
    assert helpers is not None
    foreign = (*idmaps.single_map(os.geteuid()), idmaps.IdMap(inside=1, outside=1, count=5))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writer)
            namespaces.unshare(["user"])
            os.read(reader, 1)
        finally:
            os._exit(0)
    os.close(reader)
    try:
        while namespaces.identity("user", pid) == namespaces.identity("user"):
            time.sleep(0.001)
        with pytest.raises(OSError, match="not allowed") as caught:
            idmaps.write_maps(pid, foreign, foreign, newuidmap=helpers[0], newgidmap=helpers[1])
        assert caught.value.errno == errno.EPERM
        assert caught.value.filename.startswith(f"{helpers[0]} {pid} 0 ")
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


@pytest.mark.userns
def test_loopback_is_down_at_first_and_carries_connections_after(in_namespaces):
    def inside() -> object:
        before = network.interface_flags("lo") & 1
        network.loopback_up()
        server, client = socket.socket(), socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        server.accept()[0].sendall(b"hello")
        return before, network.interface_flags("lo") & 1, client.recv(10).decode()

    assert in_namespaces(inside, kinds=("net",)) == [0, 1, "hello"]


def test_an_interface_that_does_not_exist_is_named():
    with pytest.raises(OSError, match="nosuchif") as caught:
        network.interface_flags("nosuchif")
    assert caught.value.errno == errno.ENODEV


def exec_and_read_sets() -> dict[str, str]:
    """Execute a program with the present credentials and return the capability lines of its status."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.execv("/bin/cat", ["cat", "/proc/self/status"])
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return {key: lines[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


@pytest.mark.userns
def test_root_of_the_sandbox_has_exactly_the_allowed_capabilities_after_exec(in_namespaces):
    def inside() -> object:
        sets = capabilities.sets_for(0, capabilities.DEFAULT)
        capabilities.limit_bounding_set(sets.bounding)
        capabilities.set_process_sets(sets)
        return exec_and_read_sets()

    allowed = f"{capabilities.mask(capabilities.DEFAULT):016x}"
    empty = "0" * 16
    assert in_namespaces(inside) == {
        "CapInh": empty,
        "CapPrm": allowed,
        "CapEff": allowed,
        "CapBnd": allowed,
        "CapAmb": empty,
    }


@pytest.mark.userns
@pytest.mark.parametrize("added", [frozenset(), frozenset({"KILL"})], ids=["nothing added", "kill added"])
def test_another_user_has_only_the_added_capabilities_after_exec(in_namespaces, added):
    if not in_namespaces.has_whole_map():
        pytest.skip("this account maps a single id: there is no other user")

    def inside() -> object:
        sets = capabilities.sets_for(1000, capabilities.DEFAULT, added)
        capabilities.limit_bounding_set(sets.bounding)
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        capabilities.keep_over_id_change()
        os.setresuid(1000, 1000, 1000)
        capabilities.set_process_sets(sets)
        return exec_and_read_sets()

    kept = f"{capabilities.mask(added):016x}"
    allowed = f"{capabilities.mask(capabilities.DEFAULT):016x}"
    assert in_namespaces(inside) == {
        "CapInh": kept,
        "CapPrm": kept,
        "CapEff": kept,
        "CapBnd": allowed,
        "CapAmb": kept,
    }


@pytest.mark.userns
def test_dropped_capabilities_cannot_be_taken_back(in_namespaces):
    def inside() -> object:
        none = capabilities.CapabilitySets(bounding=frozenset(), permitted=frozenset())
        capabilities.limit_bounding_set(none.bounding)
        capabilities.set_process_sets(none)
        back = capabilities.CapabilitySets(bounding=frozenset(), permitted=frozenset({"CHOWN"}))
        return refusal(capabilities.set_process_sets, back), refusal(socket.sethostname, "x")

    assert in_namespaces(inside, kinds=("uts",)) == ["EPERM", "EPERM"]


def test_no_new_privileges_cannot_be_cleared():
    def inside() -> bool:
        process.set_no_new_privileges()
        with open("/proc/self/status") as file:
            return "NoNewPrivs:\t1\n" in file.read()

    assert in_child(inside) == 0


def test_a_subreaper_inherits_orphans():
    def inside() -> bool:
        process.become_subreaper()
        reader, writer = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.read(reader, 1)
                os._exit(7)
            os._exit(0)
        first = os.wait()[1]
        os.write(writer, b"x")
        return first == 0 and os.waitstatus_to_exitcode(os.wait()[1]) == 7

    assert in_child(inside) == 0


def test_the_death_of_the_parent_ends_the_child():
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reader)
        parent = os.getpid()
        if os.fork() == 0:
            try:
                process.set_parent_death_signal(signal.SIGKILL, parent=parent)
                os.write(writer, b"r")
                signal.pause()
            finally:
                os._exit(0)
        signal.pause()
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"r"
        os.kill(middle, signal.SIGKILL)
        os.waitpid(middle, 0)
        assert (
            os.read(reader, 1) == b""
        )  # end of file: the child, the last process with the pipe, has ended too
    finally:
        os.close(reader)


def test_a_parent_that_has_ended_already_is_an_error():
    assert in_child(lambda: refusal(process.set_parent_death_signal, parent=2**22) == "ESRCH") == 0


def test_descriptors_are_closed_from_a_number_on():
    def inside() -> bool:
        os.dup2(0, 200)
        process.close_descriptors_from(3)
        return refusal(os.fstat, 200) == "EBADF" and refusal(os.fstat, 0) is None

    assert in_child(inside) == 0


def test_descriptors_are_closed_one_by_one_where_the_kernel_has_no_close_range(monkeypatch):
    def absent(*_: int) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr("sandbox.kernel._libc.close_range", absent)

    def inside() -> bool:
        os.dup2(0, 200)
        process.close_descriptors_from(3)
        return refusal(os.fstat, 200) == "EBADF" and refusal(os.fstat, 0) is None

    assert in_child(inside) == 0


def test_the_session_keyring_is_replaced_by_an_empty_one():
    def inside() -> bool:
        def session() -> str:
            with open("/proc/keys") as file:
                return file.read()

        before = session()
        return not process.leave_session_keyring() or ("_ses" in session() and session() != before)

    if not os.path.exists("/proc/keys"):
        pytest.skip("this kernel has no keys")
    assert in_child(inside) == 0


def test_a_process_that_is_not_dumpable_is_not_read_by_its_own_user():
    def inside() -> bool:
        process.set_dumpable(False)
        hidden = os.stat("/proc/self/environ").st_uid
        process.set_dumpable(True)
        return hidden == 0 and os.stat("/proc/self/environ").st_uid == os.geteuid()

    assert in_child(inside) == 0


def test_signals_reach_a_process_by_its_pidfd_and_a_reaped_one_is_reported():
    pid = os.fork()
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    pidfd = os.pidfd_open(pid)
    try:
        process.send_signal(pidfd, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            process.send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
