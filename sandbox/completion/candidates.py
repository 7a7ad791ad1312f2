"""Find the candidates for an argument of the command line. Each function returns candidates with their descriptions.

A request comes while the user types, so a file may be missing, unreadable or incomplete: then there are no candidates.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.editing import template_files
from sandbox.errors import SandboxError, SpecError
from sandbox.reference.entries import entries
from sandbox.reference.prose import TOPICS
from sandbox.spec.codecs import ListOf
from sandbox.spec.decode import Record
from sandbox.spec.document import parse_document
from sandbox.spec.load import parse, read
from sandbox.spec.lookup import ANY_KEY, codec_at, declarations, is_enforced
from sandbox.spec.notation import KeyPath, format_key_path, literal, parse_key_path
from sandbox.spec.settings import Codec, settings_of
from sandbox.spec.values.layers import LayerCodec
from sandbox.state.location import default_path, locate

Candidates = Mapping[str, str]

_IMAGE = "image:"
_LONGEST_VALUE = 40
"""The most characters of a value that are shown beside its key."""


def paths(prefix: str, *, suffix: str = "") -> Candidates:
    """Return the paths that begin with *prefix*: directories, with a slash, and files whose names end in *suffix*.

    A leading ~ is the home directory. Hidden files are offered only if the last part of *prefix* begins with a dot.
    """
    head, _, start = prefix.rpartition("/")
    head += "/" if "/" in prefix else ""
    try:
        with os.scandir(os.path.expanduser(head) or ".") as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError:
        return {}
    return {
        f"{head}{name}/" if directory else f"{head}{name}": ""
        for name, directory in sorted(found)
        if name.startswith(start)
        and (start or not name.startswith("."))
        and (directory or name.endswith(suffix))
    }


def language_keys() -> Candidates:
    """Return the keys that this version enforces, except those inside lists and inside tables whose keys the user chooses."""
    return {
        key: setting.doc
        for key, setting in declarations()
        if "[]" not in key and ANY_KEY not in key.split(".") and is_enforced(parse_key_path(key))
    }


def topics() -> Candidates:
    """Return the arguments of `sandbox reference`: its topics, and every key (volumes[].target)."""
    return {**dict.fromkeys(TOPICS, ""), **{entry.key: entry.doc for entry in entries()}}


def lists() -> Candidates:
    """Return the keys of lists to which this version lets elements be added."""
    return {
        key: doc for key, doc in language_keys().items() if isinstance(codec_at(parse_key_path(key)), ListOf)
    }


def elements(collection: str, prefix: str) -> Candidates:
    """Return the words for an element of the list *collection* ("volumes" or "volume"): KEY= and KEY=VALUE, or image:NAME."""
    for key in lists():
        codec = codec_at((*parse_key_path(key), 0))
        if isinstance(codec, LayerCodec) and key == collection and prefix.startswith(_IMAGE):
            return images(prefix)
        if isinstance(codec, Record) and collection in (key, key.removesuffix("s")):
            settings = settings_of(codec.cls)
            name, equals, _ = prefix.partition("=")
            if equals:
                return _assigned(name, settings[name].codec) if name in settings else {}
            return {f"{name}=": setting.doc for name, setting in settings.items() if setting.enforced}
    return {}


def assignments(prefix: str) -> Candidates:
    """Return the candidates for KEY=VALUE: the keys of single values with "=", and behind "=" the values, if they are few."""
    key, equals, _ = prefix.partition("=")
    if not equals:
        return {
            f"{name}=": doc
            for name, doc in language_keys().items()
            if not isinstance(codec_at(parse_key_path(name)), Record)
        }
    try:
        codec = codec_at(parse_key_path(key))
    except ValueError:
        return {}
    return {} if codec is None else _assigned(key, codec)


def _assigned(key: str, codec: Codec[Any]) -> Candidates:
    return {f"{key}={value}": "" for value in _values(codec)}


def _values(codec: Codec[Any]) -> tuple[str, ...]:
    """Return the values of *codec* that this version enforces, if they are few; else an empty tuple."""
    if "boolean" not in codec.toml_types:
        return codec.choices
    refused = getattr(codec, "planned", None)
    return (*codec.choices, *(literal(value) for value in (True, False) if value is not refused))


def keys_of_file(file: str) -> Candidates:
    """Return the keys that *file* itself sets, with their values, in the order of the file."""
    try:
        tree, _ = parse_document(_read(file), file=file, directory="/")
    except SpecError:
        return {}
    return {format_key_path(path): _shown(value) for path, value in _walk(tree, ())}


def _read(file: str) -> bytes:
    """Return the content of *file*. Raises SpecError unless it is a regular file: reading a FIFO could block forever."""
    return read(file, regular=True)


def _walk(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key), item
        yield from _walk(item, (*path, key))


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return ""
    text = literal(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def templates() -> Candidates:
    """Return the templates of `sandbox init` with their descriptions."""
    return template_files.templates()


def persistent_layers() -> Candidates:
    """Return the names of the persistent layers in the state directory, with the environment file of each."""
    from sandbox.lifecycle.inventory import (
        list_names,  # imported here, because it imports the code that unpacks archives
    )

    try:
        where = locate(os.environ, os.geteuid())
    except SandboxError:
        return {}
    found = {}
    for name in list_names(where, "layer"):
        try:
            with open(os.path.join(where.state, "sandboxes", name, "state.json"), encoding="utf-8") as file:
                found[name] = str(json.load(file).get("file") or "")
        except (OSError, ValueError, AttributeError):
            continue
    return found


def images(prefix: str = "") -> Candidates:
    """Return the names of the images of the store, each after "image:" if *prefix* begins so."""
    from sandbox.lifecycle.inventory import list_names  # as above

    before = _IMAGE if prefix.startswith(_IMAGE) else ""
    try:
        names = list_names(locate(os.environ, os.geteuid()), "image")
    except SandboxError:
        return {}
    return {f"{before}{name}": "" for name in names}


def sandboxes() -> Candidates:
    """Return the names of sandboxes of which a record exists: persistent layers, and runs that are not persistent."""
    from sandbox.state.runs import list_runs

    try:
        runs = list_runs(default_path(os.environ, os.geteuid()))
    except (SandboxError, OSError):
        runs = []
    named = {
        run.record.name: run.record.file or "" for run in runs if run.record is not None and run.record.name
    }
    return {**named, **persistent_layers()}


def networks() -> Candidates:
    """Return the networks that have running members, each with the names of these."""
    from sandbox.state.shared_networks import found_networks

    try:
        found = found_networks(os.environ, os.geteuid())
    except (SandboxError, OSError):
        return {}
    return {name: " ".join(one.names[0] for one in record.running()) for name, record in found.items()}


def files_and_sandboxes(prefix: str) -> Candidates:
    """Return the environment files that begin with *prefix*, and the names of sandboxes."""
    return {**paths(prefix, suffix=".toml"), **sandboxes()}


def exported(prefix: str) -> Candidates:
    """Return what `export` takes: as :func:`files_and_sandboxes`, or image:NAME."""
    return images(prefix) if prefix.startswith(_IMAGE) else files_and_sandboxes(prefix)


def snapshots(name: str) -> Candidates:
    """Return the snapshots of the sandbox *name*, with their times."""
    from sandbox.state.snapshots import read_snapshots

    state_directory = default_path(os.environ, os.geteuid())
    try:
        found = read_snapshots(os.path.join(state_directory, "sandboxes", os.path.basename(name)))
    except (SandboxError, OSError):
        return {}
    return {one.name: one.as_dict()["time"] for one in found}


def kept_items() -> Candidates:
    """Return the arguments of `rm`: kept layers, volumes and archives with their files, and the remains of ended runs."""
    from sandbox.lifecycle.inventory import take
    from sandbox.state.runs import list_runs

    try:
        where = locate(os.environ, os.geteuid())
        found = take(where, sizes=False)
        runs = list_runs(where.state)
    except (SandboxError, OSError):
        return {}
    things = {item.title: ", ".join(item.source or [one.file for one in item.files]) for item in found.items}
    return {**things, **{run.id: "an ended run" for run in runs if run.state == "ended"}}


def profiles(file: str) -> Candidates:
    """Return the profiles of *file* and of the files that it extends."""
    try:
        spec = parse(_read(file), path=file, environ=os.environ, unenforced="keep")
    except SpecError:
        return {}
    return dict.fromkeys(spec.profile, "")
