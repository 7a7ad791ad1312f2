"""docs/howto/images.md and the part of README.md about registries do what they show, with a registry on loopback.

Each command is run as it is written. Lines that a page prints below a command are compared; "..." stands for any text.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.e2e.archive import Archive
from tests.e2e.images import layout, run
from tests.e2e.support import Launcher, sandbox
from tests.e2e.test_tutorial import commands_in, files_in
from tests.unit.sandbox.images.registry.docker_registry import running

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.userns,
    pytest.mark.docker_registry,
    pytest.mark.umoci,
    pytest.mark.busybox,
    pytest.mark.twice,
]

PAGE = Path(PROJECT, "docs/howto/images.md")
README = Path(PROJECT, "README.md")
EXAMPLE = "registry.example.com"


@pytest.fixture
def host(launcher: Launcher) -> Iterator[str]:
    """Return the host of a registry that has the images of the pages; the layout of one of them is in `layout`."""
    work = launcher.directory / "work"
    work.mkdir()
    archive = Archive(launcher.directory / "root.tar")
    for name in ("bin", "etc", "opt", "proc", "sys", "dev", "tmp"):
        archive.add(name)
    archive.add("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    archive.add("bin/sh", kind=b"2", linkname="busybox").layer()
    image = layout(work / "layout", launcher.directory / "root.tar", "latest")
    settings = {"cmd": ("/bin/sh", "-c", "echo $GREETING"), "env": ("GREETING=hello",)}
    words = [f"--config.{name}={value}" for name, values in settings.items() for value in values]
    run("umoci", "config", "--image", image, "--clear=config.cmd", "--clear=config.env", *words)
    with running(launcher.directory) as found:
        conf = launcher.directory / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{found}"\ninsecure = true\n')
        launcher.environ |= {"CONTAINERS_REGISTRIES_CONF": str(conf), "PYTHONPATH": PROJECT}
        assert sandbox(launcher, "image", "import", f"oci:{image}", "made:1").status == 0
        for name in ("web", "tools"):
            pushed = sandbox(launcher, "push", "made:1", f"docker://{found}/team/{name}:1")
            assert pushed.status == 0, pushed.err
        assert sandbox(launcher, "image", "rm", "made:1").status == 0
        yield found


def run_page(launcher: Launcher, host: str, text: str) -> None:
    """Run the commands of *text*, and compare what they print with what it shows."""
    work = launcher.directory / "work"
    script = [
        "set -e",
        f"cd {shlex.quote(str(work))}",
        f'sandbox() {{ {sys.executable} -m sandbox "$@"; }}',
    ]
    commands = commands_in(text)
    for number, (command, _) in enumerate(commands):
        script += [f"echo '=={number}'", f"{{ {command}\n}} 2>&1"]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        env=launcher.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    printed = re.split(r"^==\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert done.returncode == 0, f"{commands[len(printed) - 1][0]}\n{printed[-1]}\n{done.stderr}"
    assert len(printed) == len(commands) > 3
    for (command, expected), output in zip(commands, printed, strict=True):
        pattern = "\n".join(
            "(?s:.*)" if line == "..." else ".*".join(map(re.escape, line.split("..."))) for line in expected
        )
        assert not expected or re.fullmatch(pattern, output.rstrip("\n")), (
            f"{command}\nprinted:\n{output}\nexpected:\n{pattern}"
        )


def test_the_page_about_images_does_what_it_shows(launcher: Launcher, host: str) -> None:
    # A build needs a network; tests/e2e/test_build.py has others.
    text = re.sub(r"(?s)## Build images\n.*?(?=\n## )", "", PAGE.read_text(encoding="utf-8"))
    assert "## Always the same images" in text
    text = re.sub(r"sha256:[0-9a-f]+\.\.\.", "sha256:...", text.replace(EXAMPLE, host))
    work = launcher.directory / "work"
    for name, content in files_in(text).items():
        (work / name).write_text(content, encoding="utf-8")
    assert (work / "web.toml").exists()
    # The page leaves open what this file has; its image is imported before.
    (work / "tools.toml").write_text(
        '[root]\nlayers = ["image:tools"]\nwritable = "persistent"\n'
        '[process]\ncommand = ["/bin/sh", "-c", "echo 1 > /opt/new"]\n'
    )
    run_page(launcher, host, text)
    assert (work / "tools.tar").exists()
    assert (work / "web.toml.lock.toml").exists()


def test_the_readme_goes_from_pull_to_push(launcher: Launcher, host: str) -> None:
    readme = README.read_text(encoding="utf-8").replace(EXAMPLE, host)
    block = next(
        each
        for each in re.findall(r"^```console\n.*?^```$", readme, re.DOTALL | re.MULTILINE)
        if host in each
    )
    assert "sandbox push tools:2" in block
    file, _, _ = block.partition("$ cat tools.toml\n")[2].partition("$ ")
    (launcher.directory / "work" / "tools.toml").write_text(file)
    run_page(launcher, host, block)
    pulled = sandbox(launcher, "pull", f"docker://{host}/team/tools:2", "again:1")
    assert pulled.status == 0, pulled.err
