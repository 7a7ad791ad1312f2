"""Refusals and degradations of a plan, and the draft that continues without the refused settings."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.host.paths import PathFact
from sandbox.kernel.cgroups import NoHierarchy
from sandbox.plan import (
    Draft,
    draft,
    host_paths,
)
from sandbox.spec.load import parse
from tests.unit.sandbox.facts import NETWORK, PRIVATE, directory, host, plan
from tests.unit.sandbox.plan.plans import ROOT, refusal


def test_limit_without_a_cgroup_is_refused_or_where_optional_a_warning() -> None:
    text = refusal(ROOT + '[limits]\nmemory = "1G"\n')
    assert "limits.memory: cannot be enforced here: there is none" in text
    made = plan(ROOT + '[limits]\nmemory = "1G"\noptional = ["memory"]\n')
    assert made.cgroup.memory is None
    assert made.warnings == ("not enforced: limits.memory: there is none",)


def test_limits_that_cannot_be_enforced_for_one_reason_are_one_warning() -> None:
    made = plan(ROOT + '[limits]\nmemory = "1G"\npids = 9\noptional = ["memory", "pids"]\n')
    assert made.warnings == ("not enforced: limits.memory, limits.pids: there is none",)


def test_process_limit_above_the_hard_one_is_refused_or_where_optional_a_warning() -> None:
    facts = host(hard_limits={**host().hard_limits, "open_files": 100})
    assert "limits.open_files: 200 is above" in refusal(ROOT + "[limits]\nopen_files = 200\n", facts=facts)
    made = plan(ROOT + '[limits]\nopen_files = 200\noptional = ["open_files"]\n', facts)
    assert "open_files" not in made.process.rlimits
    assert made.warnings == (
        "not enforced: limits.open_files: 200 is above this process's hard limit of 100",
    )


def test_process_limit_above_the_hard_one_is_refused_with_every_remedy() -> None:
    facts = host(hard_limits={**host().hard_limits, "open_files": 100})
    assert refusal(ROOT + "[limits]\nopen_files = 200\n", facts=facts) == (
        "/specs/test.toml:4:14: limits.open_files: 200 is above this process's hard limit of 100\n"
        "    4 | open_files = 200\n"
        '      |              ^~~ set at most 100, or optional = ["open_files"], or let root raise the hard limit: '
        "nofile in limits.conf(5), to 200 or more, and log in anew"
    )


@pytest.mark.parametrize(
    ("systemd", "uid", "remedy"),
    [
        (True, 1000, "; or log in as user (ssh) or, as root, loginctl enable-linger user: no bus"),
        (True, 0, "; systemd could create a cgroup for it, but no bus"),
        (False, 1000, "; `sandbox doctor` prints what is needed to enforce it"),
    ],
)
def test_remedy_of_a_cgroup_limit_names_systemd_only_where_it_would_help(
    *, systemd: bool, uid: int, remedy: str
) -> None:
    none, no_bus = NoHierarchy(reason="there is none"), NoHierarchy(reason="no bus")
    facts = host(systemd=systemd, cgroups=none, scopes=no_bus, uid=uid)
    text = refusal(ROOT + "[limits]\npids = 9\n", facts=facts)
    whole = f'remove it, or allow the sandbox to run without it: optional = ["pids"]{remedy}'
    assert text.endswith(f"^ {whole}")


def drafted(text: str, **paths: PathFact) -> Draft:
    spec = parse(text.encode(), path="/specs/test.toml", environ={}, unenforced="keep")
    known = {path: directory(path) for path in host_paths(spec)}
    known |= {f"/specs/{name}": fact for name, fact in paths.items()}
    return draft(spec, host(), known, environ={}, state_directory="/state", private=PRIVATE, network=NETWORK)


def test_draft_goes_on_without_what_is_refused() -> None:
    text = (
        '[root]\nlayers = ["dir:gone", "oci:image", "dir:/"]\n'
        '[[volumes]]\ntype = "bind"\nsource = "gone"\ntarget = "/v"\n'
        '[[devices]]\npath = "gone"\ntarget = "/dev/gone"\n'
        "[limits]\nmemory = 4194304\n"
    )
    gone = PathFact(
        path="/specs/gone", real="/specs/gone", kind="missing", reason="no such file or directory"
    )
    made = drafted(text, gone=gone)
    assert [item.key for item in made.refusals] == [
        "root.layers[0]", "root.layers[1]", "volumes[0].source", "devices[0].path", "limits.memory",
    ]  # fmt: skip
    assert [layer.path for layer in made.plan.layers] == ["/"]
    assert [point.path for point in made.plan.skeleton] == ["/proc", "/sys", "/dev"]
    assert made.plan.cgroup.memory is None
    with pytest.raises(SpecError) as caught:
        made.accepted()
    assert len(caught.value.diagnostics) == 5


def test_setting_that_this_version_does_not_enforce_is_refused_even_if_the_file_was_loaded_to_be_looked_at() -> (
    None
):
    made = drafted(ROOT + '[health]\ncommand = ["true"]\n')
    with pytest.raises(SpecError, match=r"health: not enforced by this version"):
        made.accepted()


@pytest.mark.parametrize("name", ["net", "ipc", "uts", "cgroup"])
def test_namespace_that_may_go_unjoined_is_private_and_never_the_hosts(name: str) -> None:
    made = plan(ROOT + f'[namespaces]\n{name} = "path:/proc/1/ns/{name}"\noptional = ["{name}"]\n')
    assert name in made.namespaces
    assert made.warnings == (f"not enforced: namespaces.{name}: was not examined",)


def test_single_id_is_a_warning_only_where_more_were_asked_for() -> None:
    facts = host(uid_ranges=())
    assert plan(ROOT, facts).warnings == ()
    assert plan(ROOT, facts).differences[0].key == "ids.map"
    assert plan(ROOT + '[ids]\nmap = "auto"\n', facts).warnings == (
        'ids.map = "auto" maps a single id here: /etc/subuid has no range for user',
    )


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("70000", "user 70000 does not exist in the sandbox"),
        ("1:70000", "group 70000 does not exist in the sandbox"),
    ],
)
def test_account_that_the_id_map_lacks_is_refused(user: str, message: str) -> None:
    assert message in refusal(ROOT + f'[process]\nuser = "{user}"\n')


def test_group_without_subordinate_ids_is_refused() -> None:
    text = refusal(ROOT + '[process]\nuser = "0:5"\n', facts=host(uid_ranges=()))
    assert "process.user: only group 0 exists in the sandbox: /etc/subuid has no range for user" in text


def test_plan_knows_where_the_settings_stand_that_only_the_sandbox_finds_wrong() -> None:
    made = plan(ROOT + '[process]\nuser = "nobody-has-this-name"\n')
    assert made.places == {"process.user": "/specs/test.toml:4:8"}
