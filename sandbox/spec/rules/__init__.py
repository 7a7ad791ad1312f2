"""Check combinations of settings: contradictions, and settings that only make sense beside others.

    isolation   namespaces, ids
    network     [network], [networks]
    storage     [root], [[volumes]], [[devices]]
    process     [process], [limits], [restart], [sandboxes], [[build]]
    rule        what a rule is

One small function per rule. Each rule lists the settings that it reads. It is skipped if one of them is wrong by itself, so
that no mistake is reported twice in different words. `sandbox.spec.load` calls `check_rules` and then `unify_network`.
"""

from __future__ import annotations

from sandbox.spec.model import Spec
from sandbox.spec.notation import parse_key_path
from sandbox.spec.rules import isolation, network, process, storage
from sandbox.spec.rules.rule import Rule
from sandbox.spec.settings import Problems
from unionfs._stdlib import dataclasses

RULES: tuple[Rule, ...] = (
    Rule(("sandbox.hostname", "namespaces.uts"), isolation.hostname_needs_private_uts),
    Rule(("network.mode", "namespaces.net"), network.mode_matches_namespace),
    Rule(("namespaces", "sandbox.name"), isolation.joined_namespaces_fit_together),
    Rule(("limits.swap", "limits.memory"), process.swap_needs_memory),
    Rule(("limits.memory_high", "limits.memory"), process.memory_high_is_below_memory),
    Rule(("ids.map", "process.groups"), isolation.single_id_has_no_groups),
    Rule(("ids.map", "process.user"), isolation.single_id_is_zero),
    Rule(("process.stop_signal",), process.stop_signal_can_end_programs),
    Rule(("ids",), isolation.id_maps_are_whole),
    Rule(("root.writable",), storage.only_a_writable_layer_is_bounded),
    Rule(("root.lazy", "root.server", "root.native"), storage.lazy_layers_are_served_without_waiting),
    Rule(("network",), network.some_settings_need_a_network),
    Rule(("network", "security.capabilities"), network.networks_have_no_way_around),
    Rule(("network.aliases", "network.networks"), network.aliases_need_networks),
    Rule(("network.networks", "networks"), network.networks_are_defined),
    Rule(("restart",), process.restarting_is_wanted),
    Rule(("sandboxes",), process.dependencies_have_an_order),
    # These check one element at a time, so that a mistake in one element does not hide those in the others.
    Rule((), process.optional_names_settings),
    Rule((), storage.volume_fields_fit_its_type),
    Rule((), storage.file_is_read_only),
    Rule((), storage.later_mounts_cannot_be_restricted),
    Rule((), storage.volume_targets_differ),
    Rule(("root.native",), storage.direct_binds_do_not_overlap),
    Rule((), storage.devices_appear_below_dev),
    Rule((), storage.device_targets_differ),
    Rule((), network.ports_differ),
    Rule(("networks",), network.subnets_have_addresses),
    Rule(("network.networks", "networks"), network.joined_subnets_differ),
    Rule((), process.build_steps_do_one_thing),
)


def check_rules(spec: Spec, problems: Problems) -> None:
    """Add to *problems* the rules that the settings of *spec* break. A rule is skipped if a setting that it reads is wrong."""
    broken = [
        problem
        for rule in RULES
        if not any(problems.affects(parse_key_path(key)) for key in rule.reads)
        for problem in rule.check(spec)
    ]
    for problem in broken:
        problems.add(problem)


def unify_network(spec: Spec) -> Spec:
    """Return *spec* with the mode of the network that other settings imply, and with "host" in both settings that mean it.

    Call this only if *spec* breaks no rule: then the implied mode contradicts nothing in the file.
    """
    if (implied := network.mode_of(spec)) != spec.network.mode:
        spec = dataclasses.replace(spec, network=dataclasses.replace(spec.network, mode=implied))
    if spec.network.mode == "host":
        return dataclasses.replace(spec, namespaces=dataclasses.replace(spec.namespaces, net="host"))
    if spec.namespaces.net == "host":
        return dataclasses.replace(spec, network=dataclasses.replace(spec.network, mode="host"))
    return spec
