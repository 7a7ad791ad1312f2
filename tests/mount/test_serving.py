"""The server as a process: after a kill, with clients that are killed, idle, and over a long time."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from tests.mount._libc import DirectoryStream
from tests.mount.support import PATIENCE, SERVER, Union, make_union, unmount, wait_until
from tests.support.tree import File, Tree, make_tree, snapshot

pytestmark = pytest.mark.fusermount

MIB = 1 << 20
#: Prints a line before it calls stat(2) on the given file, and then the name of the resulting errno.
STAT = """
import errno, os, sys
print("asking", flush=True)
try:
    os.stat(sys.argv[1])
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def cpu_ticks(pid: int) -> int:
    """Return utime + stime, in hundredths of a second (proc_pid_stat(5))."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def switches(pid: int) -> int:
    """Return the number of voluntary context switches of the threads of *pid*."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
    return total


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


# -- a killed server ---------------------------------------------------------------------------


def test_clients_of_a_killed_server_get_an_error_and_do_not_hang(base: str) -> None:
    union = make_union(base, {"f": b"f", "d": {}}).mount()
    os.kill(union.pid, signal.SIGSTOP)
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", STAT, f"{union.path}/d/{number}"], stdout=subprocess.PIPE, text=True
        )
        for number in range(3)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "asking\n"
        # A client that sleeps after that waits for a reply.
        wait_until(lambda: all(state_of(client.pid) in "SD" for client in clients), "the clients wait")
        os.kill(union.pid, signal.SIGKILL)
        answers = {client.communicate(timeout=PATIENCE)[0].strip() for client in clients}
        # Requests in progress are aborted, and later ones find no connection.
        assert answers <= {"ECONNABORTED", "ENOTCONN"}
        for attempt in (lambda: os.stat(f"{union.path}/f"), lambda: os.listdir(union.path)):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.ENOTCONN
    finally:
        union.kill()
        for client in clients:
            client.kill()
            client.communicate()


def test_after_a_kill_the_stack_mounts_again_with_everything_that_was_done(base: str) -> None:
    union = make_union(base, {"f": b"f", "d": {"g": b"g"}, "gone": b"x"}).mount()
    with open(f"{union.path}/f", "wb") as file:
        file.write(b"changed")
    os.unlink(f"{union.path}/gone")
    os.rename(f"{union.path}/d/g", f"{union.path}/moved")
    before = snapshot(union.path, mtime=True)
    union.kill()
    with union:
        assert snapshot(union.path, mtime=True) == before


def test_a_kill_during_copy_up_leaves_the_old_file_or_the_new_one(base: str) -> None:
    size = 24 * MIB
    make_tree(f"{base}/lower", {str(number): b"%d" % number * size for number in range(4)})
    union = Union(base, [f"{base}/lower"], options="metacopy=off")
    tmp = f"{union.work}/unionfs/tmp"
    interrupted = 0
    for number in range(4):
        union.mount()
        command = f"chmod 600 {union.path}/{number}"  # copies the whole file up
        client = subprocess.Popen(["sh", "-c", command], stderr=subprocess.DEVNULL)
        try:
            while client.poll() is None and not os.listdir(tmp):
                pass
            union.kill()
        finally:
            client.kill()
            client.wait()
        interrupted += os.listdir(tmp) != []
        with union:
            assert os.listdir(tmp) == []
            info = os.lstat(f"{union.path}/{number}")
            assert info.st_size == size
            with open(f"{union.path}/{number}", "rb") as file:
                assert file.read() == b"%d" % number * size
    assert interrupted > 0, "no kill happened during a copy-up"


def test_leftovers_in_the_work_directory_are_removed_by_the_next_mount(base: str) -> None:
    union = make_union(base, {"f": b"f"})
    left: Tree = {"#1": File(b"half a copy", mode=0o000), "#2": {"d": {"f": b"x"}}, "any name": b"x"}
    make_tree(f"{union.work}/unionfs/tmp", left)
    with union:
        assert os.listdir(f"{union.work}/unionfs/tmp") == []
        os.chmod(f"{union.path}/f", 0o600)


# -- killed clients ----------------------------------------------------------------------------------


def system_call(pid: int) -> str:
    """Return the number of the system call in which the main thread of *pid* sleeps (proc_pid_syscall(5))."""
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0]


def test_clients_killed_at_any_instant_do_not_park_the_server(base: str) -> None:
    lower: Tree = {f"d{number}": {f"f{inner}": b"x" * 3000 for inner in range(12)} for number in range(12)}
    generator = random.Random(8)
    with make_union(base, lower) as union:
        files = [os.path.join(at, name) for at, _, names in os.walk(union.path) for name in names]
        finding = ["find", *[union.path] * 60, "-ls"]
        reading = ["cat", *files * 20]
        time.sleep(0.1)
        idle = system_call(union.pid)
        for number in range(200):
            client = subprocess.Popen(
                finding if number % 2 else reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(generator.uniform(0.001, 0.02))
            client.kill()
            client.wait()
            # A server that reads an aborted request would block in read(2) until the next one. A request would end that,
            # so first check in which system call it waits.
            wait_until(lambda: system_call(union.pid) == idle, "the server waits as it does when idle")
        done = subprocess.run(
            ["stat", f"{union.path}/never asked for before"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
        assert b"No such file or directory" in done.stderr


# -- a long-running server -----------------------------------------------------------------------


def test_an_idle_server_uses_no_cpu(base: str) -> None:
    with make_union(base, {"d": {"f": b"f"}}) as union:
        snapshot(union.path)
        time.sleep(0.2)  # pending work may take a moment
        before = cpu_ticks(union.pid), switches(union.pid)
        time.sleep(1)
        assert (cpu_ticks(union.pid), switches(union.pid)) == before


@pytest.mark.once
def test_memory_and_descriptors_are_bounded_over_twenty_thousand_files(base: str) -> None:
    def churn(count: int) -> None:
        for number in range(count):
            path = f"{union.path}/d/f{number}"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.unlink(path)

    with make_union(base, {"d": {}}) as union:
        churn(2000)
        memory, open_files = resident_bytes(union.pid), descriptors(union.pid)
        churn(18_000)
        assert resident_bytes(union.pid) - memory < 4 * MIB
        # An unlinked file keeps its descriptor until the kernel sends FORGET, which may come later.
        wait_until(lambda: descriptors(union.pid) <= open_files + 5, "the descriptors are closed")
        assert os.listdir(f"{union.path}/d") == []


def test_a_directory_that_is_open_a_hundred_times_and_changes_between_takes_the_memory_of_one_list(
    base: str,
) -> None:
    with make_union(base, {"d": {f"{number:05}": b"" for number in range(10_000)}}) as union:

        def opened() -> DirectoryStream:
            stream = stack.enter_context(DirectoryStream(f"{union.path}/d"))
            stream.read()
            path = f"{union.path}/d/new"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.unlink(path)
            return stream

        with ExitStack() as stack:
            streams = [opened() for _ in range(3)]
            memory = resident_bytes(union.pid)
            streams += [opened() for _ in range(100)]
            assert resident_bytes(union.pid) - memory < 3 * MIB  # 100 lists would take 8 MiB
            for stream in streams[::25]:
                assert len(set(stream.rest()) - {b"new"}) == 9_999


def test_walked_directories_keep_no_descriptors_beyond_the_limit(base: str) -> None:
    lower: Tree = {f"{number:03}": {"d": {"f": b"f"}} for number in range(400)}
    with make_union(base, lower, wrapper=["prlimit", "--nofile=400:400"]) as union:
        assert len(snapshot(union.path)) == 1 + 3 * 400
        assert descriptors(union.pid) < 200
        with open(f"{union.path}/000/d/f", "ab") as file:
            file.write(b"!")


@pytest.mark.skipif(SERVER == "unopened", reason="what is open is not known to this server")
def test_too_many_open_files_are_an_error_and_the_server_continues(base: str) -> None:
    with make_union(base, {"f": b"f"}, wrapper=["prlimit", "--nofile=300:300"]) as union:
        opened: list[int] = []
        try:
            with pytest.raises(OSError) as caught:
                while len(opened) < 400:
                    opened.append(os.open(f"{union.path}/f", os.O_RDONLY))
            assert caught.value.errno == errno.EMFILE
            assert len(opened) > 200
        finally:
            for fd in opened:
                os.close(fd)
        wait_until(lambda: descriptors(union.pid) < 100, "the server closes them, too")
        with open(f"{union.path}/f", "ab") as file:
            file.write(b" goes on")


def test_many_files_are_read_and_written_with_few_descriptors(base: str) -> None:
    lower = {f"f{number}": b"lower" for number in range(400)}
    with make_union(base, lower, wrapper=["prlimit", "--nofile=300:300"]) as union:
        for number in range(400):
            with open(f"{union.path}/f{number}", "r+b", buffering=0) as file:
                assert file.read() == b"lower"
                if number % 2:
                    file.write(b" and upper")
        assert descriptors(union.pid) < 200
        for number in range(400):
            with open(f"{union.path}/f{number}", "rb") as file:
                assert file.read() == (b"lower and upper" if number % 2 else b"lower")


def test_a_busy_mount_can_be_unmounted_lazily_and_the_server_ends_when_the_last_file_is_closed(
    base: str,
) -> None:
    union = make_union(base, {"f": b"content"}).mount()
    with open(f"{union.path}/f", "rb") as file:
        unmount(union.path, lazy=True)
        assert file.read() == b"content"
        assert union.process is not None
        assert union.process.poll() is None
    assert union.process.wait(PATIENCE) == 0
    union.process = None
    assert union.log() == ""
