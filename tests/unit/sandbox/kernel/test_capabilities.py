"""Calculations with capability sets."""

from __future__ import annotations

import pytest

from sandbox.kernel import capabilities
from sandbox.kernel.capabilities import DEFAULT, CapabilitySets, effective_set, sets_for


def test_names_have_the_kernel_s_numbers():
    numbers = {
        name: capabilities.NUMBERS[name] for name in ("CHOWN", "SYS_ADMIN", "SETFCAP", "CHECKPOINT_RESTORE")
    }
    assert numbers == {"CHOWN": 0, "SYS_ADMIN": 21, "SETFCAP": 31, "CHECKPOINT_RESTORE": 40}


def test_the_default_is_podman_s_eleven():
    assert len(DEFAULT) == 11
    assert DEFAULT.issubset(capabilities.NAMES)


@pytest.mark.parametrize("name", ["net_raw", "NET_RAW", "CAP_NET_RAW", "cap_net_raw"])
def test_names_are_taken_in_any_case_with_or_without_cap(name):
    assert capabilities.parse(name) == "NET_RAW"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="unknown capability 'CAP_NETRAW'"):
        capabilities.parse("CAP_NETRAW")


def test_dropping_and_adding():
    assert effective_set(DEFAULT, ["CAP_CHOWN"], ["net_raw"]) == DEFAULT - {"CHOWN"} | {"NET_RAW"}


def test_dropping_all_keeps_what_is_added():
    assert effective_set(DEFAULT, ["all"], ["KILL"]) == {"KILL"}


def test_adding_all_gives_what_the_kernel_knows():
    known = frozenset({"CHOWN", "KILL"})
    assert effective_set(DEFAULT, [], ["ALL"], known=known) == known
    assert effective_set(DEFAULT, ["chown"], ["all"], known=known) == known


def test_what_is_both_dropped_and_added_is_added():
    assert "CHOWN" in effective_set(DEFAULT, ["CHOWN"], ["CHOWN"])


def test_adding_what_this_kernel_lacks_is_an_error():
    with pytest.raises(ValueError, match="does not have the capability BPF"):
        effective_set(DEFAULT, [], ["BPF"], known=DEFAULT)


def test_root_gets_what_is_allowed_and_hands_nothing_to_files():
    assert sets_for(0, DEFAULT, frozenset({"KILL"})) == CapabilitySets(bounding=DEFAULT, permitted=DEFAULT)


def test_another_user_gets_only_what_was_asked_for_by_name_and_keeps_it_over_exec():
    sets = sets_for(1000, DEFAULT | {"NET_RAW"}, frozenset({"NET_RAW", "SYS_ADMIN"}))
    only = frozenset({"NET_RAW"})
    assert sets == CapabilitySets(bounding=DEFAULT | only, permitted=only, inheritable=only, ambient=only)


def test_another_user_gets_nothing_by_default():
    assert sets_for(1000, DEFAULT) == CapabilitySets(bounding=DEFAULT, permitted=frozenset())


def test_masks_and_names_are_each_other_s_inverse():
    assert capabilities.mask(["CHOWN", "CHECKPOINT_RESTORE"]) == 1 << 40 | 1
    assert capabilities.names(capabilities.mask(DEFAULT)) == DEFAULT
    assert capabilities.names(1 << 63) == frozenset()


def test_what_the_kernel_knows_ends_at_its_last_capability(tmp_path):
    path = tmp_path / "sys/kernel/cap_last_cap"
    path.parent.mkdir(parents=True)
    path.write_text("37\n")
    known = capabilities.known_to_kernel(str(tmp_path))
    assert "AUDIT_READ" in known
    assert "PERFMON" not in known
    path.write_text("99\n")
    assert capabilities.known_to_kernel(str(tmp_path)) == set(capabilities.NAMES)


def test_the_sets_of_this_process_are_those_that_proc_shows():
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if line.startswith("Cap"))
    shown = [capabilities.names(int(status[key], 16)) for key in ("CapEff", "CapPrm", "CapInh")]
    assert list(capabilities.current_sets()) == shown
