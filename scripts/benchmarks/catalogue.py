"""The list of workloads."""

from __future__ import annotations

from benchmarks import contents, metadata, tools
from benchmarks.workload import DATA, Workload

_PROGRAM = (f"{DATA}/program",)
_REPOSITORY = (f"{DATA}/repository",)
_REMOVED = (f"{DATA}/remove",)

WORKLOADS = (
    Workload("walk cold", metadata.walk, cold=True, quick=True),
    Workload("walk warm", metadata.walk, prepare=metadata.walk, quick=True),
    Workload("stat storm", metadata.stat_storm, prepare=metadata.walk, quick=True),
    Workload("read all cold", contents.read_all, cold=True, quick=True),
    Workload("read all warm", contents.read_all, prepare=contents.read_all),
    Workload("open+read+close warm", contents.open_read_close, prepare=contents.read_all, quick=True),
    Workload("short programs", tools.short_programs, missing=tools.no_programs, quick=True),
    Workload("untar", metadata.untar, check=metadata.tree_of("untarred"), changes=(), quick=True),
    Workload("create and unlink", metadata.create_and_unlink, changes=(), quick=True),
    Workload("chmod -R", metadata.change_modes, check=metadata.tree_of(*_REMOVED), changes=_REMOVED),
    Workload(
        "append to lower files",
        metadata.append_to_lower,
        check=metadata.tree_of(DATA, "append"),
        changes=(f"{DATA}/append",),
        quick=True,
    ),
    # All of DATA is copied for the plain directory, because what remains beside the removed tree has to be the same everywhere.
    Workload("rm -r of a lower tree", metadata.remove_tree, changes=(DATA,), quick=True),
    Workload("sequential write", contents.write_large, changes=(), quick=True),
    Workload("sequential read", contents.read_large, cold=True, quick=True),
    Workload("random reads", contents.random_reads, cold=True),
    Workload(
        "random writes",
        contents.random_writes,
        prepare=contents.make_writable,
        check=contents.digest_of("pages"),
        changes=(),
    ),
    Workload("sqlite transactions", contents.sqlite_transactions, changes=(), quick=True),
    Workload(
        "git add, commit",
        tools.git_add_commit,
        prepare=tools.git_init,
        check=tools.git_fsck,
        changes=_REPOSITORY,
        needs=("git",),
    ),
    Workload(
        "git status",
        tools.git_status,
        prepare=tools.git_commit_all,
        check=tools.git_fsck,
        changes=_REPOSITORY,
        needs=("git",),
    ),
    Workload(
        "git gc",
        tools.git_gc,
        prepare=tools.git_commit_all,
        check=tools.git_fsck,
        changes=_REPOSITORY,
        needs=("git",),
    ),
    Workload(
        "dpkg -i",
        tools.dpkg_install,
        check=tools.package_status,
        changes=("",),
        needs=("dpkg",),
        missing=tools.no_dpkg,
    ),
    Workload(
        "apt-get install",
        tools.apt_install,
        check=tools.package_status,
        changes=("",),
        missing=tools.no_apt,
    ),
    Workload(
        "pip install", tools.pip_install, check=tools.installed_modules, changes=(), missing=tools.no_pip
    ),
    Workload("make -j2", tools.build, changes=_PROGRAM, needs=("make", "gcc")),
    Workload("two at once", contents.two_at_once, check=metadata.tree_of("untarred"), changes=("",)),
)
