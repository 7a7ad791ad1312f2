"""The seccomp filter and the Landlock rules in the plan."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.host.paths import PathFact
from sandbox.kernel.capabilities import DEFAULT
from sandbox.kernel.landlock import Rules
from sandbox.plan import Plan, as_dict, describe
from sandbox.seccomp.builtin import NO_LEASES, default_filter
from sandbox.seccomp.values import MACHINES
from tests.unit.sandbox.facts import host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'
X86 = MACHINES["x86_64"]
PROFILE = (
    b'{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}'
)


def security(text: str, **facts: object) -> Plan:
    return plan(f"{ROOT}[security]\n{text}\n", host(**facts))


def refusal(text: str, **facts: object) -> str:
    with pytest.raises(SpecError) as caught:
        security(text, **facts)
    return str(caught.value)


def json_profile(content: bytes | None, reason: str = "") -> dict[str, PathFact]:
    kind = "missing" if content is None else "file"
    path = "/specs/web.json"
    return {path: PathFact(path=path, real=path, kind=kind, content=content, reason=reason)}  # type: ignore[arg-type]


def test_the_built_in_profile_is_the_default() -> None:
    made = plan(ROOT).process.seccomp
    assert made is not None
    assert (made.profile, made.filter) == ("default", default_filter(X86, DEFAULT))
    assert "seccomp profile default" in describe(plan(ROOT))
    assert security('seccomp = "default"').process.seccomp == made


def test_the_profile_follows_the_capabilities_and_the_machine() -> None:
    added = security('capabilities = { add = ["SYS_ADMIN"] }').process.seccomp
    assert added is not None
    assert added.filter == default_filter(X86, DEFAULT | {"SYS_ADMIN"})
    arm = plan(ROOT, host(machine="aarch64")).process.seccomp
    assert arm is not None
    assert arm.filter.architectures == ("ARM",)


def test_unconfined_is_no_filter() -> None:
    made = security('seccomp = "unconfined"')
    assert made.process.seccomp is None
    assert "no seccomp filter" in describe(made)
    assert security('seccomp = { profile = "unconfined" }').process.seccomp is None
    denying = security('seccomp = { profile = "unconfined", deny = ["ptrace"] }').process.seccomp
    assert denying is not None
    assert [rule.names for rule in denying.filter.forbidden] == [("ptrace",)]


def test_leases_are_refused_by_every_profile_unless_the_file_allows_the_call() -> None:
    profile = json_profile(b'{"defaultAction": "SCMP_ACT_ALLOW"}')
    cases = {
        "": True,
        'seccomp = "./web.json"': True,
        'seccomp = { profile = "./web.json", deny = ["ptrace"] }': True,
        'seccomp = { allow = ["fcntl"] }': False,
        'seccomp = { profile = "unconfined", deny = ["ptrace"] }': False,
    }
    for text, refused in cases.items():
        made = plan(f"{ROOT}[security]\n{text}\n", paths=profile).process.seccomp
        assert made is not None
        assert (set(NO_LEASES) <= set(made.filter.forbidden)) == refused, text


def test_changes_are_told() -> None:
    made = security('seccomp = { allow = ["keyctl"], deny = ["ptrace"], log = true }')
    assert "seccomp profile default, allow keyctl, deny ptrace, log only" in describe(made)
    shown = as_dict(made)["process"]["seccomp"]  # type: ignore[index]
    assert (shown["allow"], shown["deny"], shown["log"]) == (["keyctl"], ["ptrace"], True)
    assert isinstance(shown["filter"], str)


def test_a_json_profile_is_read_where_it_is() -> None:
    text = f'{ROOT}[security]\nseccomp = {{ profile = "./web.json" }}\n'
    made = plan(text, paths=json_profile(PROFILE)).process.seccomp
    assert made is not None
    assert made.profile == "/specs/web.json"
    assert [rule.names for rule in made.filter.rules] == [("read",)]


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (None, "no such file or directory", "/specs/web.json: no such file or directory"),
        (b"{}", "", "/specs/web.json: defaultAction: None is not an action"),
        (b"x", "", "/specs/web.json: is not JSON"),
    ],
)
@pytest.mark.parametrize("form", ["seccomp = '{}'", "seccomp = {{ profile = '{}' }}"])
def test_a_json_profile_that_cannot_be_used_is_refused_at_its_place(
    content: bytes | None, reason: str, message: str, form: str
) -> None:
    text = f"{ROOT}[security]\n{form.format('./web.json')}\n"
    with pytest.raises(SpecError) as caught:
        plan(text, paths=json_profile(content, reason))
    assert message in str(caught.value)
    key = "security.seccomp.profile" if "profile" in form else "security.seccomp"
    assert f"/specs/test.toml:4:{text.splitlines()[3].index(chr(39)) + 1}: {key}: " in str(caught.value)


def test_a_call_that_there_is_not_is_refused_with_the_one_that_is_meant() -> None:
    text = refusal('seccomp = { allow = ["keyctl", "ptrac"], deny = ["opennat"] }')
    assert 'security.seccomp.allow[1]: there is no system call "ptrac"' in text
    assert 'did you mean "ptrace"?' in text
    assert 'security.seccomp.deny[0]: there is no system call "opennat"' in text


@pytest.mark.parametrize(
    ("facts", "text", "reason", "hint"),
    [
        ({"libseccomp": None}, "", "libseccomp, which compiles seccomp filters, is not installed", "apt-get install libseccomp2"),
        ({"seccomp_actions": frozenset()}, "", "this kernel has no seccomp filters", "CONFIG_SECCOMP_FILTER"),
        ({"machine": "m68k"}, "", "seccomp filters are not supported on the architecture m68k", "another"),
        ({"seccomp_actions": frozenset({"errno"})}, "seccomp = { log = true }", "this kernel cannot log denied system calls", "remove log = true"),
    ],
)  # fmt: skip
def test_what_this_machine_lacks_is_refused_or_optional(
    facts: dict[str, object], text: str, reason: str, hint: str
) -> None:
    told = refusal(text, **facts)
    assert f"security.seccomp: cannot be enforced here: {reason}" in told
    assert hint in told
    assert 'optional = ["seccomp"]' in told
    made = security(f'{text}\noptional = ["seccomp"]', **facts)
    assert made.process.seccomp is None
    assert made.warnings == (f"not enforced: security.seccomp: {reason}",)
    assert security('seccomp = "unconfined"', **facts).process.seccomp is None


def test_rules_of_landlock_are_planned_as_they_are_written() -> None:
    made = security('landlock = { read = ["/etc", "/usr"], write = [], connect = [443] }')
    assert made.process.landlock == Rules(read=("/etc", "/usr"), write=(), connect=(443,), scoped=True)
    assert [line for line in describe(made) if line.startswith("landlock")] == [
        "landlock read /etc /usr",
        "landlock write nothing",
        "landlock connect 443",
        "landlock scoped: no signals and no connections to abstract sockets outside",
    ]
    assert plan(ROOT).process.landlock is None


def test_what_only_a_younger_landlock_restricts_costs_nothing_on_an_older_one() -> None:
    made = security('landlock = { read = ["/"] }', landlock=5)
    assert made.process.landlock == Rules(read=("/",))


@pytest.mark.parametrize(
    ("version", "text", "key", "needed"),
    [
        (1, 'read = ["/"]', "read", "version 2 of the Landlock ABI (Linux 5.19), and this kernel has version 1"),
        (2, 'write = ["/"]', "write", "version 3 of the Landlock ABI (Linux 6.2), and this kernel has version 2"),
        (3, "connect = [1]", "connect", "version 4 of the Landlock ABI (Linux 6.7), and this kernel has version 3"),
        (0, "bind = []", "bind", "version 4 of the Landlock ABI (Linux 6.7), and this kernel has no Landlock, or it was"),
    ],
)  # fmt: skip
def test_what_this_kernel_cannot_hold_is_refused_with_the_version_that_can(
    version: int, text: str, key: str, needed: str
) -> None:
    told = refusal(f"landlock = {{ {text} }}", landlock=version)
    assert f"security.landlock.{key}: needs {needed}" in told
    made = security(f'landlock = {{ {text} }}\noptional = ["landlock"]', landlock=version)
    assert made.process.landlock is None
    assert made.warnings[0].startswith(f"not enforced: security.landlock: needs {needed}")


def test_every_kind_that_cannot_be_held_is_told_and_none_is_held_alone() -> None:
    told = refusal('landlock = { read = ["/"], connect = [1], bind = [2] }', landlock=2)
    assert "security.landlock.connect" in told
    assert "security.landlock.bind" in told
    assert "security.landlock.read" not in told


def test_paths_of_landlock_have_their_places_for_the_running_sandbox() -> None:
    places = security('landlock = { read = ["/a"], execute = ["/b", "/c"] }').places
    assert {key for key in places if "landlock" in key} == {
        "security.landlock.read[0]",
        "security.landlock.execute[0]",
        "security.landlock.execute[1]",
    }
