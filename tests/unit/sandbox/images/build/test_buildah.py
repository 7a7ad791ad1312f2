"""Compare plans with what buildah builds from the same file: the configuration of the image, and the files of the context.

The builds start from scratch and run no command, so that they need no image and no network. Some results of buildah differ
from the Dockerfile reference, which decides; the files here avoid them:

    it does not let a stage inherit the arguments of the stage that it starts from;
    it does not expand ranges of ports, and runs CMD in the shell form with /bin/sh, whatever SHELL says;
    it has no default working directory but "/", and adds a label of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sandbox.images.build import dockerignore
from sandbox.images.build.config import write_config
from sandbox.images.build.patterns import glob
from sandbox.images.build.plan import CopyFiles
from tests.support.tree import make_tree
from tests.unit.sandbox.images.build.planning import plan

pytestmark = pytest.mark.buildah

ARGUMENTS = {"GIVEN": "from the command line", "OVERRIDDEN": "given"}

WHOLE = """\
ARG TOP=top
FROM scratch AS base
ARG TOP
ENV A=1 B="two words" C='$A' D=$A
ENV A=2 E=$A
ENV old style  value
LABEL top=$TOP "quoted key"="x y" e=${E:-none} n=${NOTHING:-"d f"} p=${A:+set} esc=\\$A
CMD ["base"]
WORKDIR /w
WORKDIR sub
VOLUME ["/v", "/x y"]
VOLUME /v /w
EXPOSE 80 53/udp
STOPSIGNAL SIGINT
USER 7:8
ONBUILD LABEL triggered=$A
ONBUILD ENV T=1
HEALTHCHECK --interval=1m30s --timeout=2s --start-period=3s --retries=4 CMD curl "$A" || exit 1
FROM scratch
ARG GIVEN
ARG OVERRIDDEN=default
ARG DEFAULT="de fault"
LABEL g=$GIVEN o=$OVERRIDDEN d=$DEFAULT
ENV OVERRIDDEN=env
LABEL o2=$OVERRIDDEN
SHELL ["/bin/bash", "-c"]
CMD ["exec", "form"]
ENTRYPOINT ["/entry", "point"]
HEALTHCHECK NONE
FROM base
ENTRYPOINT exec me
LABEL e=$E
WORKDIR ../other
EXPOSE 81/tcp 80
"""


class Buildah:
    """Builds in a directory of the test. Its storage is removed with it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(place),
            "XDG_RUNTIME_DIR": str(place),
            "TMPDIR": str(place),
        }

    def run(self, *arguments: str) -> str:
        storage = (
            "--root",
            f"{self.place}/storage",
            "--runroot",
            f"{self.place}/run",
            "--storage-driver",
            "vfs",
        )
        done = subprocess.run(
            ["buildah", *storage, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def config(self, text: str, target: str = "") -> dict[str, Any]:
        """Return the configuration of the image that *text* builds, without what buildah adds."""
        (self.place / "Containerfile").write_text(text)
        (self.place / "context").mkdir(exist_ok=True)
        self.run(
            *(
                "build",
                "--isolation",
                "chroot",
                "--format",
                "docker",
                "--pull=never",
                "-t",
                "built",
                "--layers=false",
            ),
            *(f"--build-arg={name}={value}" for name, value in ARGUMENTS.items()),
            *((f"--target={target}",) if target else ()),
            *("-f", str(self.place / "Containerfile"), str(self.place / "context")),
        )
        found = json.loads(self.run("inspect", "--type", "image", "built"))["Docker"]["config"]
        found["Labels"].pop("io.buildah.version")
        kept = {key: value for key, value in found.items() if value and key in KEYS}
        return kept | {"WorkingDir": found["WorkingDir"].rstrip("/")} if found.get("WorkingDir") else kept

    def files(self, text: str, context: Path) -> list[str]:
        """Return the paths of files in the image that *text* builds from *context*."""
        (self.place / "Containerfile").write_text(text)
        output = self.place / "built.tar"
        self.run(
            *("build", "--isolation", "chroot", "--layers=false", "-o", f"type=tar,dest={output}"),
            *("-f", str(self.place / "Containerfile"), str(context)),
        )
        with tarfile.open(output) as archive:
            return sorted(member.name.removeprefix("./") for member in archive if member.isfile())


KEYS = frozenset(
    "User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal Shell OnBuild Healthcheck".split()
)


@pytest.fixture
def buildah(tmp_path: Path) -> Buildah:
    return Buildah(tmp_path)


def planned(text: str, target: str = "") -> dict[str, Any]:
    """Return the configuration in the form of `Buildah.config`."""
    found = plan(text, ARGUMENTS, target=target).result.config
    written = write_config(found, {})
    cwd = str(written.get("WorkingDir", "")).rstrip("/")
    return {key: value for key, value in written.items() if key != "WorkingDir"} | {"WorkingDir": cwd}


@pytest.mark.parametrize("target", ["base", "1", ""])
def test_buildah_gives_an_image_the_same_configuration(buildah: Buildah, target: str) -> None:
    assert planned(WHOLE, target) == buildah.config(WHOLE, target)


def generated(seed: int) -> str:
    """Return a file with many instructions that use each other's variables."""
    choices = random.Random(seed)
    names = ["A", "B", "C", "GIVEN"]

    def word() -> str:
        name = choices.choice(names)
        return choices.choice(
            [
                "x",
                f"${name}",
                f"${{{name}}}y",
                f"'${name}'",
                f'"${name} {choices.choice("ab")}"',
                f"${{{name}:-d{choices.randrange(9)}}}",
                f"${{{name}:+s}}",
                f"\\${name}",
                '"a\\"b"',
                "a\\ b",
                "",
            ]
        )

    lines = ["FROM scratch"]
    for number in range(40):
        kind = choices.choice(["ENV", "ENV", "ARG", "LABEL", "LABEL", "WORKDIR", "USER", "CMD"])
        if kind in {"ENV", "LABEL"}:
            keys = [
                choices.choice(names) if kind == "ENV" else f"l{number}.{index}"
                for index in range(choices.randint(1, 3))
            ]
            lines.append(
                f"{kind} " + " \\\n  ".join(f"{key}={word()}{word()}" for key in dict.fromkeys(keys))
            )
        elif kind == "ARG":
            lines.append(f"ARG {choices.choice(names)}={word()}")
        elif kind == "WORKDIR":
            lines.append(
                f"WORKDIR {choices.choice(['/r', 'sub', '..', './a/../b', '/'])}{choices.choice(['', '/x'])}"
            )
        elif kind == "USER":
            lines.append(f"USER u${{C:+{number}}}")
        else:
            lines.append(
                choices.choice(
                    [f"CMD c {number} $A", f'CMD ["c", "{number}", "$A"]', f"ENTRYPOINT e{number}"]
                )
            )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(3))
def test_buildah_expands_variables_to_the_same(buildah: Buildah, seed: int) -> None:
    text = generated(seed)
    assert planned(text) == buildah.config(text)


TREE = {
    "keep": b"",
    "skip.log": b"",
    "src": {"a.c": b"", "b.log": b"", "gen": {"x.c": b"", "keep.log": b""}, ".hidden": b""},
    "docs": {"deep": {"er": {"page.md": b"", "note.txt": b""}}, "page.md": b""},
    "node_modules": {"m": {"index.js": b""}},
    "odd [name]": b"",
}


def paths_of(tree: dict[str, Any], above: str = "") -> dict[str, list[str]]:
    """Return the names in each directory of *tree* by its path."""
    found = {above: sorted(tree)}
    for name, inside in tree.items():
        if isinstance(inside, dict):
            found |= paths_of(inside, f"{above}/{name}" if above else name)
    return found


@pytest.mark.parametrize(
    "patterns",
    [
        "**/*.log\nnode_modules\n# keep\n\ndocs/**/*.txt\n**/.hidden\n/keep\n",
        "*\n!src\nsrc/gen\n!src/gen/keep.log\n",
        "src/*\n!src/*.c\nodd \\[name]\n*.log\n!skip.log\n",
        "**/er\ndo?s/page.md\n[ns]ode*\n",
    ],
)
def test_buildah_leaves_the_same_files_out(buildah: Buildah, tmp_path: Path, patterns: str) -> None:
    context = tmp_path / "context"
    make_tree(context, TREE | {".dockerignore": patterns.encode()})
    rules = dockerignore.parse(patterns.encode(), ".dockerignore")
    directories = paths_of(TREE)
    files = [f"{path}/{name}" if path else name for path, names in directories.items() for name in names]
    files = [path for path in files if path not in directories]
    built = buildah.files("FROM scratch\nCOPY . /\n", context)
    assert [path for path in built if path != ".dockerignore"] == sorted(
        path for path in files if not rules.excludes(path)
    )


WILDCARDS = ("src/*.c", "*/gen/x.*", "s[a-r]*/?.c", "k*", "*/.h*", "odd*", "docs/*/er/*.md", "d[^a]cs/p*")


def test_buildah_finds_the_same_files_by_wildcards(buildah: Buildah, tmp_path: Path) -> None:
    context = tmp_path / "context"
    make_tree(context, TREE)
    text = "FROM scratch\n" + "".join(
        f"COPY {source} /{number}/\n" for number, source in enumerate(WILDCARDS)
    )
    directories = paths_of(TREE)
    expected = []
    for number, step in enumerate(plan(text).result.steps):
        assert isinstance(step.action, CopyFiles)
        found = glob(step.action.sources[0], lambda path: directories.get(path, []))
        assert found
        expected += [f"{number}/{os.path.basename(path)}" for path in found]
    assert buildah.files(text, context) == sorted(expected)
