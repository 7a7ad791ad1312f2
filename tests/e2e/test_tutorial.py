"""docs/tutorial.md and docs/howto/snapshots.md do what they show: each command is run, and its output compared.

In an expected line, "..." stands for any text. Root runs the whole page in a copy of this machine, as it writes to /usr/local. An
ordinary user runs the part "Without root".
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.e2e.support import Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

PAGE = Path(PROJECT, "docs/tutorial.md")
SNAPSHOTS = Path(PROJECT, "docs/howto/snapshots.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


#: Runs a command in a copy of this machine: its root under kernel OverlayFS, whose changes are in memory. $0 is shown, too.
OVER_COPY = f"""
set -e
mount --make-rprivate /
mount -t tmpfs copy /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
for at in /proc /sys /dev /run {shlex.quote(PROJECT)} "$0"; do
  mkdir -p "/mnt/root$at"
  mount --rbind "$at" "/mnt/root$at"
done
rm -rf /mnt/root/usr/local/share/greet /mnt/root/usr/local/bin/greet
mkdir -p /mnt/root/usr/local/share /mnt/root/usr/local/bin
echo Debian > /mnt/root/etc/issue
cd /mnt/root
mkdir -p old
pivot_root . old  # in a chroot, the kernel would refuse user namespaces
umount -l /old
exec "$@"
"""


def files_in(text: str) -> dict[str, str]:
    """Return the files of the page: blocks that begin with a comment that is a file name."""
    found = {}
    for _, block in BLOCK.findall(text):
        match = re.match(r"# ([\w.-]+)\n", block)
        if match is not None:
            found[match[1]] = block
    return found


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Return the commands of the page, those of root too, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for kind, block in BLOCK.findall(text):
        if kind != "console":
            continue
        for line in block.splitlines():
            if line.startswith(("$ ", "# ")):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def run_page(
    launcher: Launcher, text: str, directory: Path, *, private: bool = False, page: Path = PAGE
) -> None:
    """Run the commands of *text*, a part of *page*, in *directory*; with *private*, in a copy of this machine."""
    launcher.environ |= {"SANDBOX_STATE_DIR": f"{directory}/state", "SANDBOX_RUN_DIR": f"{directory}/run"}
    directory.mkdir()
    for name, content in files_in(page.read_text(encoding="utf-8")).items():
        (directory / name).write_text(content, encoding="utf-8")
    script = [
        "set -e",
        f"cd {shlex.quote(str(directory))}",
        f'sandbox() {{ {sys.executable} -m sandbox "$@"; }}',
    ]
    for number, (command, _) in enumerate(commands_in(text)):
        script += [f"echo '=={number}'", f"{command} 2>&1"]
    wrapper = ["unshare", "--mount", "sh", "-c", OVER_COPY, str(directory)] if private else []
    done = subprocess.run(
        [*wrapper, "bash", "-c", "\n".join(script)],
        env={**launcher.environ, "PYTHONPATH": PROJECT},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    printed = re.split(r"^==\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    for (command, expected), output in zip(commands_in(text), printed, strict=False):
        pattern = "\n".join(".*".join(map(re.escape, line.split("..."))) for line in expected)
        assert re.fullmatch(pattern, output.rstrip("\n")), (
            f"{command}\nprinted:\n{output}\nexpected:\n{pattern}"
        )
    assert done.returncode == 0, done.stderr
    assert len(printed) == len(commands_in(text))


@pytest.mark.root
@pytest.mark.overlay
def test_root_keeps_a_part_of_what_an_installer_did_and_discards_the_rest(
    launcher: Launcher, tmp_path: Path
) -> None:
    text, _, _ = PAGE.read_text(encoding="utf-8").partition("## Without root")
    run_page(launcher, text, tmp_path / "work", private=True)
    assert not os.path.exists("/etc/greet-sudoers")


def test_an_ordinary_user_does_the_same_with_a_directory_of_their_own(
    launcher: Launcher, tmp_path: Path
) -> None:
    _, _, text = PAGE.read_text(encoding="utf-8").partition("## Without root")
    assert text
    run_page(launcher, text, tmp_path / "work")


def test_a_sandbox_returns_to_an_earlier_state_and_is_forked(launcher: Launcher, tmp_path: Path) -> None:
    text = SNAPSHOTS.read_text(encoding="utf-8")
    assert "sandbox rollback" in text
    run_page(launcher, text, tmp_path / "work", page=SNAPSHOTS)
