"""Test `sandbox.spec.requests`: every kind of request; each setting is either a request or listed as harmless."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.reference.entries import entries
from sandbox.spec.load import parse
from sandbox.spec.requests import REQUESTING_KEYS, requests

ROOT = '[root]\nlayers = ["tar:/base.tar"]\n'

#: Settings that expose nothing of the machine: they restrict, count, or concern only the sandbox.
HARMLESS = frozenset(
    "build[].run build[].copy.target build[].copy.owner build[].copy.mode build[].env build[].user build[].cwd build[].labels "
    "build[].arg devices[].target health.command health.interval health.retries health.timeout "
    "ids.gid_map[].inside ids.uid_map[].inside limits.core limits.cpu_time limits.cpu_weight limits.cpus limits.cpuset "
    "limits.file_size limits.io[].read limits.io[].read_operations limits.io[].write limits.io[].write_operations "
    "limits.memory limits.memory_high limits.oom_score_adj limits.open_files limits.pids limits.processes limits.stack "
    "limits.swap limits.wall_time network.egress.deny network.hosts network.on_failure network.search "
    "namespaces.time.boottime namespaces.time.monotonic networks.NAME.internal networks.NAME.subnet process.args process.command process.cwd process.env process.groups "
    "process.init process.stop_signal process.stop_timeout process.terminal process.umask process.user profile "
    "restart.delay restart.max restart.policy root.driver root.inodes root.layers[].immutable root.layers[].mount root.native root.pull root.server root.size "
    "sandbox.description sandbox.hostname sandbox.labels sandbox.name sandboxes.NAME.depends_on sandboxes.NAME.profiles "
    "security.capabilities.drop security.landlock.bind security.landlock.connect security.landlock.execute "
    "security.landlock.read security.landlock.write security.masked_paths security.readonly_paths security.seccomp.deny volumes[].content "
    "volumes[].mode volumes[].options volumes[].size".split()
)


def asked(text: str, **environ: str) -> list[tuple[str, str]]:
    environ = {"HOME": "/home/me", **environ}
    spec = parse((ROOT + text).encode(), path="/files/x.toml", environ=environ, unenforced="keep")
    found = requests(spec)
    assert all(request.place is not None for request in found)
    return [(request.kind, request.what) for request in found if request.what != "/base.tar"]


def test_every_setting_is_a_request_or_listed_as_harmless() -> None:
    keys = {entry.key for entry in entries() if not entry.is_table}
    assert keys - REQUESTING_KEYS == HARMLESS
    assert keys >= REQUESTING_KEYS


def test_a_file_without_other_requests_requests_only_its_layers() -> None:
    assert asked("[process]\ncommand = ['true']\n[[volumes]]\ntype = 'tmpfs'\ntarget = '/t'\n") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[volumes]]\ntype='bind'\nsource='~/.ssh'\ntarget='/k'", [("path", "/home/me/.ssh")]),
        ("[[volumes]]\ntype='bind'\nsource='../up'\ntarget='/k'", [("path", "/files/../up")]),
        ("[[volumes]]\ntype='named'\nsource='cache'\ntarget='/c'", [("privilege", "volume cache")]),
        ("[[devices]]\npath='/dev/kvm'", [("path", "/dev/kvm")]),
        ("[process]\nenv_file='/etc/environment'", [("path", "/etc/environment")]),
        ("[process]\ninherit_env=['TOKEN']", [("variable", "TOKEN")]),
        ("[process]\ncommand=['x', '${env:SECRET:-}']", [("variable", "SECRET")]),
        ("[process.env]\nA='$${env:NOT}'", []),
        ("[network]\nmode='host'", [("privilege", 'network.mode = "host"')]),
        (
            "[network]\nmode='private'\nports=['80:80']\ndns=['9.9.9.9']",
            [
                ("port", "127.0.0.1:80:80/tcp"),
                ("privilege", 'network.mode = "private"'),
                ("privilege", "name server 9.9.9.9"),
            ],
        ),
        (
            "[network]\nnetworks=['a']\naliases=['db']\n[networks.a]\ninternal=true",
            [("privilege", "network a"), ("privilege", "alias db")],
        ),
        ("[namespaces]\nipc='host'", [("privilege", 'namespaces.ipc = "host"')]),
        ("[namespaces]\nuts='path:/proc/1/ns/uts'", [("path", "/proc/1/ns/uts")]),
        ("[namespaces]\nuts='sandbox:db'", [("privilege", 'namespaces.uts = "sandbox:db"')]),
        ("[ids]\nmap='keep-id'", [("privilege", 'ids.map = "keep-id"')]),
        (
            "[ids]\nuid_map=[{inside=0,outside=5,count=2}]\ngid_map=[{inside=0,outside=7,count=1}]",
            [("privilege", "uids 5 to 6"), ("privilege", "gid 7")],
        ),
        ("[security]\ncapabilities.add=['net_raw']", [("privilege", "capability CAP_NET_RAW")]),
        ("[security]\nno_new_privileges=false", [("privilege", "security.no_new_privileges = false")]),
        ("[security]\nseccomp='unconfined'", [("privilege", 'security.seccomp = "unconfined"')]),
        ("[security]\nseccomp='/p.json'", [("path", "/p.json")]),
        (
            "[security.seccomp]\nallow=['ptrace']\nlog=true",
            [("privilege", "system call ptrace"), ("privilege", "security.seccomp.log = true")],
        ),
        ("[limits]\npids=5\noptional=['pids']", [("privilege", "limits.pids is optional")]),
        ("[[limits.io]]\npath='/dev/sda'\nread=5", [("path", "/dev/sda")]),
        ("[sandboxes.db]\nfile='db.toml'", [("path", "/files/db.toml")]),
        (
            "[[build]]\ncopy={source='a',target='/a'}\n[[build]]\ncopy={source='b',target='/b',from='image:t'}",
            [("path", "a"), ("path", "image:t")],
        ),
        ("[[build]]\nrun='make'\nnetwork=true", [("privilege", "build network")]),
    ],
)
def test_request_is_named(text: str, expected: list[tuple[str, str]]) -> None:
    assert asked(text) == expected


def test_layers_request_their_paths_and_crossed_mounts() -> None:
    text = '[root]\nlayers = ["dir:/", { dir = "/srv", cross = ["/data"] }, "oci:./i:t", "image:d"]\nwritable = "persistent"\n'
    spec = parse(text.encode(), path="/files/x.toml", environ={}, unenforced="keep")
    assert [(request.kind, request.what) for request in requests(spec)] == [
        ("path", "/"),
        ("path", "/srv"),
        ("path", "/srv/data"),
        ("path", "/files/i"),
        ("path", "d"),
        ("privilege", 'root.writable = "persistent"'),
    ]


def test_extended_files_are_requests(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(ROOT)
    spec = parse(b'extends = "base.toml"\n', path=str(tmp_path / "x.toml"), environ={})
    found = requests(spec)
    assert [request.what for request in found] == [str(tmp_path / "base.toml"), "/base.tar"]


@pytest.mark.parametrize(
    ("more", "reaches"),
    [("[networks.a]\ninternal=true", False), ("egress={}\n[networks.a]", False), ("[networks.a]", True)],
)
def test_only_a_network_that_is_not_internal_reaches_other_machines(more: str, *, reaches: bool) -> None:
    text = f"{ROOT}[network]\nnetworks=['a']\n{more}\n"
    spec = parse(text.encode(), path="/files/x.toml", environ={}, unenforced="keep")
    found = [request for request in requests(spec) if request.key.startswith("network.")]
    assert [("other machines" in request.text) for request in found] == [reaches]
