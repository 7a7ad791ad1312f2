"""A start imports no unneeded module, and compiles no filter that an earlier start has compiled."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, Launcher

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Modules of the TOML parser, which the launcher needs for each file.
_PARSER = frozenset(
    "_datetime _string _typing datetime string tomllib tomllib._parser tomllib._re tomllib._types typing".split()
)
#: Modules that launcher and server import, besides their own and those of the interpreter's start.
ALLOWED = frozenset(
    "__future__ _abc _bisect _blake2 _collections _ctypes _functools _json _locale _operator _sha2 _sha256 _socket _sre _struct _warnings "
    "_weakrefset argparse array binascii bisect collections collections.abc contextlib copyreg ctypes ctypes._endian enum errno "
    "fcntl functools gc genericpath gettext importlib importlib._abc importlib.machinery importlib.util itertools json json.decoder "
    "json.encoder json.scanner keyword locale math mmap operator pwd re re._casefix re._compiler re._constants re._parser reprlib "
    "resource runpy select selectors signal socket stat struct sys termios threading time tty types warnings weakref".split()
)
#: Modules that the interpreter imports before our code, depending on the packages of this machine.
_OF_THE_INTERPRETER = re.compile(
    r"(encodings|zipimport|zlib|site|sitecustomize|usercustomize|_virtualenv|_distutils_hack|apport_python_hook|_sitebuiltins|os|posix"
    r"|posixpath|io|abc|codecs|_codecs|_io|_stat|_signal|marshal|winreg|_frozen_importlib\w*|_imp|_thread|_weakref|_collections_abc|"
    r"linecache|token\w*|_tokenize)\b.*"
)


def imported(launcher: Launcher, spec: str) -> list[str]:
    done = launcher.up(spec, ["true"], environ={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.status == 0, done.err
    return re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.err, re.MULTILINE)


#: Our modules for other verbs, and those that only failures, reports, tracing, joining, archives and pyfuse3 need.
NOT_AT_A_START = (
    "sandbox.doctor",
    "sandbox.editing",
    "sandbox.explain",
    "sandbox.reference",
    "sandbox.completion",
    "sandbox.manual",
    "sandbox.seccomp.compiler",
    "sandbox.changes",
    "sandbox.runtime.control",
    "sandbox.runtime.freezing",
    "sandbox.state.control",
    "sandbox.state.earlier_layers",
    "sandbox.state.joined_namespaces",
    "sandbox.state.snapshots",
    "unionfs.changes",
    "unionfs.launch.control",
    "sandbox.runtime.report",
    "sandbox.runtime.usage",
    "sandbox.runtime.seccomp_trace",
    "sandbox.kernel.service_manager",
    "sandbox.images.unpack",
    "sandbox.images.tar",
    "sandbox.images.archive_names",
    "sandbox.images.mounted_layers",
    "sandbox.images.chunked",
    "sandbox.runtime.image_layers",
    "unionfs.layer.contents",
    "unionfs.layer_index.archive_chunks",
    "unionfs.layer_index.fetched_data",
    "unionfs.layer_index.fetcher",
    "unionfs.mount",
    "unionfs.fuse.libfuse",
)


def test_a_start_imports_nothing_that_its_file_does_not_need(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[[volumes]]\ntype = "tmpfs"\ntarget = "/scratch"\n'
    assert launcher.up(spec, ["true"]).status == 0  # compiles the filters
    found = set(imported(launcher, spec))
    assert {"sandbox.runtime.supervisor", "unionfs.fuse.direct.loop"} <= found
    ours = {name for name in found if name.partition(".")[0] in ("sandbox", "unionfs")}
    unneeded = tuple(f"{name}." for name in NOT_AT_A_START)
    assert {
        name for name in found - ours - ALLOWED - _PARSER if not _OF_THE_INTERPRETER.fullmatch(name)
    } == set()
    assert [name for name in sorted(ours) if f"{name}.".startswith(unneeded)] == []


def test_modules_that_a_start_must_not_import_exist() -> None:
    assert [name for name in NOT_AT_A_START if importlib.util.find_spec(name) is None] == []


def confine_without_imports(site: Path) -> None:
    """Install a sitecustomize in *site* that forbids the server to import anything once it is confined."""
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if '--serve-fd' in sys.orig_argv:\n"
        "    import unionfs.launch.confine\n"
        "    really = unionfs.launch.confine.restrict_files\n"
        "    def last(*given):\n"
        "        sys.meta_path.clear()\n"
        "        return really(*given)\n"
        "    unionfs.launch.confine.restrict_files = last\n"
    )


def test_the_server_imports_nothing_once_it_is_confined(launcher: Launcher, tmp_path: Path) -> None:
    """The sandbox's root may be unable to read Python's library, for example in a home directory."""
    confine_without_imports(tmp_path)
    script = (
        "cd /etc && echo a > new && cp passwd copied && chmod 600 passwd && mv copied moved && ln new linked && ln -s linked soft && "
        "rm new && mkdir d && mv d e && rmdir e && mkfifo fifo && truncate -s 100 moved && dd if=/dev/zero of=f bs=64k count=40 2>&1 "
        "| grep -o 'No space'; touch -d 2001-01-01 moved; ls -lR /etc > /dev/null 2>&1; stat -f / > /dev/null; cat soft; cat linked"
    )
    spec = HOST_ROOT + 'size = "1M"\n'
    done = launcher.shell(script, spec, environ={"PYTHONPATH": str(tmp_path)})
    assert done.out.split("\n") == ["No space", "a", "a", ""]
    assert done.err.splitlines() == [
        "sandbox: warning: root.size of 1M was reached: the writable layer was full, and writing failed"
    ]


def test_threads_of_a_confined_server_copy_read_and_sync(launcher: Launcher, tmp_path: Path) -> None:
    confine_without_imports(tmp_path)
    (tmp_path / "layer").mkdir()
    (tmp_path / "layer" / "large").write_bytes(b"x" * (4 << 20))
    spec = HOST_ROOT.replace("layers = [", f'layers = ["dir:{tmp_path}/layer", ')
    script = "printf y | dd of=/large conv=notrunc,fsync 2> /dev/null && head -c 3 /large && wc -c < /large && sync /large /"
    done = launcher.shell(script, spec, environ={"PYTHONPATH": str(tmp_path)})
    assert (done.out, done.err) == ("yxx4194304\n", "")


def test_the_filters_of_system_calls_are_compiled_once(launcher: Launcher) -> None:
    assert "pyseccomp" in imported(launcher, HOST_ROOT)
    assert "pyseccomp" not in imported(launcher, HOST_ROOT)
    kept = sorted((launcher.state / "filters").iterdir())
    assert len(kept) == 2  # the program's, and the server's
    before = [path.stat().st_mtime_ns for path in kept]
    assert launcher.up(HOST_ROOT, ["true"]).status == 0
    assert [path.stat().st_mtime_ns for path in sorted((launcher.state / "filters").iterdir())] == before
