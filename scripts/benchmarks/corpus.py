"""Make the lower layers that workloads run on, and the archives and packages that they unpack and install."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import zipfile

from benchmarks.roots import ENTRIES, LARGEST, make_root, programs_of
from benchmarks.workload import DATA, Corpus

#: Number of files in each tree at scale 1, and their sizes in bytes.
APPENDED, REMOVED, COMMITTED, COMPILED, INSTALLED = 800, 2000, 600, 40, 500
SIZES = {"append": 8192, "remove": 2048}
LARGE = 256
"""MiB of each large file at scale 1."""
_WORDS = (
    "the of a to in is that it was for on are with as his they at be this from have or by one had not".split()
)


def make_corpus(directory: str, *, root: str | None, scale: float, python: str) -> Corpus:
    """Write three layers and the inputs into *directory*.

    The bottom layer is the root file system. Above it is the layer with the trees of the workloads. The top layer merges
    with one in twenty of the chosen directories.

    Raises:
        OSError, subprocess.CalledProcessError: *root* cannot be used, or the disk is full.
    """
    top, made, base, inputs = (os.path.join(directory, name) for name in ("top", "made", "base", "inputs"))
    origin = make_root(root, base, scale)
    chosen = choose_directories(base, max(20, round(ENTRIES * scale)))
    for path in chosen[::20]:
        os.makedirs(os.path.join(top, path), exist_ok=True)
        with open(os.path.join(top, path, "of-the-top-layer"), "wb") as file:
            file.write(b"top\n")
        _copy_attributes(base, top, path)
    corpus = Corpus(
        layers=(top, made, base),
        inputs=inputs,
        directories=tuple(chosen),
        files=tuple(files_in(base, chosen)),
        programs=programs_of(base),
        origin=origin,
        python=python,
        scale=scale,
    )
    os.makedirs(os.path.join(made, DATA))
    os.mkdir(inputs)
    make_data(os.path.join(made, DATA), corpus)
    make_inputs(corpus)
    return corpus


def _copy_attributes(base: str, top: str, path: str) -> None:
    """Copy the attributes of the directories that lead to *path* to the top layer, for example the mode of /tmp."""
    while True:
        shutil.copystat(os.path.join(base, path), os.path.join(top, path))
        if not path:
            return
        path = os.path.dirname(path)


def choose_directories(base: str, entries: int) -> list[str]:
    """Return random directories of *base* with about *entries* entries together, sorted."""
    sizes: list[tuple[str, int]] = []
    for path, directories, files in os.walk(base):
        directories.sort()
        if os.access(path, os.R_OK | os.X_OK):
            sizes.append((os.path.relpath(path, base).removeprefix("."), len(directories) + len(files)))
    sizes.sort()
    random.Random(7).shuffle(sizes)
    chosen: list[str] = []
    for path, size in sizes:
        if entries <= 0:
            break
        chosen.append(path)
        entries -= size
    return sorted(chosen)


def files_in(base: str, directories: list[str]) -> list[str]:
    """Return the regular files in *directories* that this user may read and that are not large."""
    found = []
    for directory in directories:
        with os.scandir(os.path.join(base, directory)) as entries:
            found += [
                os.path.join(directory, entry.name)
                for entry in entries
                if entry.is_file(follow_symlinks=False)
                and entry.stat().st_size <= LARGEST
                and os.access(entry.path, os.R_OK)
            ]
    return sorted(found)


def make_data(directory: str, corpus: Corpus) -> None:
    """Write the trees that workloads change, compile and commit, and the large file."""
    rng = random.Random(20)
    for name, whole in (("append", APPENDED), ("remove", REMOVED)):
        for index in range(corpus.amount(whole)):
            _write(os.path.join(directory, name, f"d{index // 50}", f"f{index}"), rng.randbytes(SIZES[name]))
    for index in range(corpus.amount(COMMITTED)):
        text = " ".join(rng.choices(_WORDS, k=400)).encode()
        _write(os.path.join(directory, "repository", f"d{index // 30}", f"f{index}.txt"), text)
    make_program(os.path.join(directory, "program"), corpus.amount(COMPILED))
    with open(os.path.join(directory, "large"), "wb") as file:
        for _ in range(corpus.amount(LARGE)):
            file.write(rng.randbytes(1 << 20))


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def make_program(directory: str, files: int) -> None:
    """Write *files* C sources that call each other, and a makefile."""
    for index in range(files):
        following = f"f{index + 1}(x + {index})" if index + 1 < files else "x"
        source = (
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
            f'#include "all.h"\nint f{index}(int x) {{ return {following}; }}\n'
        )
        _write(os.path.join(directory, f"f{index}.c"), source.encode())
    header = "".join(f"int f{index}(int x);\n" for index in range(files))
    _write(os.path.join(directory, "all.h"), header.encode())
    main = '#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%d\\n", f0(1)); return 0; }\n'
    _write(os.path.join(directory, "main.c"), main.encode())
    makefile = (
        "objects := $(patsubst %.c,%.o,$(wildcard *.c))\n"
        "program: $(objects)\n\t$(CC) -o $@ $(objects)\n"
        "%.o: %.c all.h\n\t$(CC) -c -o $@ $<\n"
    )
    _write(os.path.join(directory, "Makefile"), makefile.encode())


def make_inputs(corpus: Corpus) -> None:
    """Write the archive, the wheel and, if dpkg-deb is installed, the Debian package.

    The package is in a layer, because apt-get looks for it inside the root file system.
    """
    made = os.path.join(corpus.layers[1], DATA)
    archive = os.path.join(corpus.inputs, "archive.tar")
    subprocess.run(["tar", "-cf", archive, "-C", made, "remove"], check=True)
    make_wheel(corpus.inputs, corpus.amount(INSTALLED))
    if shutil.which("dpkg-deb") is not None:
        make_package(corpus.inputs, os.path.join(made, "package.deb"), corpus.amount(INSTALLED))


def make_wheel(directory: str, modules: int) -> None:
    """Write a wheel (PEP 427) with *modules* modules in one package."""
    info = "benchwheel-1.0.dist-info"
    files = {f"benchwheel/m{index}.py": f"def f(x):\n    return x + {index}\n" for index in range(modules)}
    files["benchwheel/__init__.py"] = ""
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: benchwheel\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(os.path.join(directory, "benchwheel-1.0-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)


def make_package(directory: str, target: str, files: int) -> None:
    """Write a Debian package of *files* files of 2 KiB, without scripts."""
    tree = os.path.join(directory, "package")
    control = (
        "Package: benchpackage\nVersion: 1.0\nArchitecture: all\nMaintainer: bench <bench@localhost>\n"
        "Description: files to install\n"
    )
    _write(os.path.join(tree, "DEBIAN", "control"), control.encode())
    rng = random.Random(5)
    for index in range(files):
        path = os.path.join(tree, "usr/lib/benchpackage", f"d{index // 50}", f"f{index}")
        _write(path, rng.randbytes(2048))
    # dpkg-deb checks the modes of its DEBIAN directory, and would refuse those of a umask of 077.
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", tree], check=True)
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, target]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
