"""The wheel and the source distribution have all their files, and the installed command runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.e2e.support import Launcher

#: Run once, because the archives do not depend on the account.
pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.once]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a directory with a wheel and a source distribution of this checkout."""
    top = tmp_path_factory.mktemp("packaging")
    source = top / "source"
    shutil.copytree(PROJECT, source, ignore=_ignored, symlinks=True)
    # The requirements of the build are installed for development, so the build downloads nothing.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(top / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    yield top / "dist"
    shutil.rmtree(top)


def _ignored(directory: str, names: list[str]) -> set[str]:
    """Return what the archives are made without: hidden files, and at the top what builds and tools write."""
    at_top = ("build", "dist", "*.egg-info", "tests", "site") if directory == str(PROJECT) else ()
    return shutil.ignore_patterns(".*", "__pycache__", *at_top)(directory, names)


@pytest.fixture(scope="module")
def installed(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a virtual environment with the wheel, and with the dependencies of the one that runs the tests."""
    top = tmp_path_factory.mktemp("installed")
    os.chmod(top, 0o755)
    venv.create(top / "venv", with_pip=False)
    python = top / "venv/bin/python"
    (wheel,) = archives.glob("*.whl")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True, timeout=110)
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    # Last in the path, so that the installed packages are found first. A .pth file of a checkout has no effect there.
    Path(done.stdout.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield top / "venv/bin"
    shutil.rmtree(top)


def run(installed: Path, *words: str) -> str:
    """Return the output of the installed command `sandbox`."""
    done = subprocess.run(
        [str(installed / "sandbox"), *words], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.returncode == 0, done
    return done.stdout


def test_both_archives_have_every_file_of_the_packages(archives: Path) -> None:
    tracked = {
        str(path.relative_to(PROJECT))
        for package in ("sandbox", "unionfs")
        for path in Path(PROJECT, package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md")
    }
    (wheel,) = archives.glob("*.whl")
    assert tracked - set(zipfile.ZipFile(wheel).namelist()) == set()
    (source,) = archives.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked - names == set()
    assert {"README.md", "LICENSE", "pyproject.toml"} <= names


def test_installed_command_starts_an_example(installed: Path, launcher: Launcher) -> None:
    example = launcher.write(Path(PROJECT, "configs/hello.toml").read_text(encoding="utf-8"), "hello.toml")
    done = subprocess.run(
        [str(installed / "sandbox"), "up", str(example)],
        env=launcher.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    script = "import sandbox, unionfs; print(sandbox.__file__, unionfs.__file__)"
    found = subprocess.run(
        [str(installed / "python"), "-c", script], capture_output=True, text=True, check=True, cwd="/"
    )
    assert found.stdout.count(f"{installed.parent}/lib/") == 2


def test_installed_command_finds_its_pages_completions_templates_and_schema(
    installed: Path, tmp_path: Path
) -> None:
    assert "unionfs" in run(installed, "man", "unionfs")
    assert "complete" in run(installed, "completion", "bash")
    assert '"$schema"' in run(installed, "schema")
    run(installed, "init", str(tmp_path / "new.toml"))
    assert run(installed, "check", str(tmp_path / "new.toml")) == ""
    assert run(installed, "--version").strip() == f"sandbox {_version()}"


def _version() -> str:
    import sandbox

    return sandbox.__version__
