"""Test `sandbox.spec.other_engines`: hints for every key and value of other engines that its tables declare."""

from __future__ import annotations

import re

import pytest

from sandbox.errors import SpecError
from sandbox.spec import parse
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.lookup import codec_at, keys, path_of
from sandbox.spec.model import NOT_IN_PROFILES, Spec
from sandbox.spec.notation import literal
from sandbox.spec.other_engines import KEYS, KEYS_INSIDE, MAIN_KEYS, VALUES
from sandbox.spec.settings import settings_of
from sandbox.spec.short_forms import parse_volume

ROOT = 'root.layers = ["dir:/"]\n'
LANGUAGE_KEYS = set(keys())


def told(text: str) -> dict[str, Diagnostic]:
    """Return the mistakes of *text*, by key."""
    with pytest.raises(SpecError) as caught:
        parse(text.encode(), path="/specs/test.toml", environ={"HOME": "/home/alice"})
    return {one.key: one for one in caught.value.diagnostics if isinstance(one, Diagnostic)}


def hint(text: str, key: str) -> str:
    found = told(text)[key].hint
    assert found is not None
    return found


@pytest.mark.parametrize(
    "meaning", sorted({*KEYS.values(), *(one for words in KEYS_INSIDE.values() for one in words.values())})
)
def test_a_meaning_is_a_key_of_the_language_or_a_complete_hint_with_its_keys(meaning: str) -> None:
    known = {part for key in LANGUAGE_KEYS for part in re.split(r"[.\[\]]+", key)}
    if " " in meaning:
        assert meaning.startswith("remove it") or known & set(re.findall(r"[a-z_]+", meaning))
    else:
        assert meaning in LANGUAGE_KEYS


@pytest.mark.parametrize("word", sorted(KEYS))
def test_the_hint_for_a_key_of_another_engine_names_the_equivalent_key(word: str) -> None:
    assert word not in settings_of(Spec)
    said, meaning = hint(f"{word} = 1\n{ROOT}", word), KEYS[word]
    table, _, key = meaning.rpartition(".")
    if " " in meaning:
        assert said == meaning
    elif table:
        assert said == f"write {key} in [{table}]"
    else:
        assert re.fullmatch(
            rf"write (\[\[{meaning}\]\]|\[{meaning}(\.NAME)?\]|{meaning} above the first \[table\])", said
        )


@pytest.mark.parametrize("word", sorted(KEYS))
def test_the_hint_in_a_profile_names_a_table_of_the_profile(word: str) -> None:
    meaning = KEYS[word]
    if meaning in NOT_IN_PROFILES or meaning.startswith(("remove", "sandboxes")) or " " in meaning:
        return
    said = hint(f"{ROOT}[profile.p]\n{word} = 1\n", f"profile.p.{word}")
    assert f"[profile.p.{meaning.rpartition('.')[0] or meaning}" in said.replace("[[", "[")


@pytest.mark.parametrize(
    ("table", "word"), [(table, word) for table, words in KEYS_INSIDE.items() for word in words]
)
def test_the_hint_in_a_table_names_the_key_of_that_table(table: str, word: str) -> None:
    array = table in ("volumes", "devices")
    header = f"[[{table}]]" if array else f"[{table}]"
    said, meaning = (
        hint(f"{ROOT}{header}\n{word} = 1\n", f"{table}{'[0]' if array else ''}.{word}"),
        KEYS_INSIDE[table][word],
    )
    assert said == (meaning if " " in meaning else f"did you mean {meaning.rpartition('.')[2]}?")


def test_a_misnamed_required_key_is_the_only_mistake() -> None:
    assert set(told(f'{ROOT}[[volumes]]\ntype = "tmpfs"\ndestination = "/x"\n')) == {"volumes[0].destination"}


@pytest.mark.parametrize(("key", "word"), [(key, word) for key, words in VALUES.items() for word in words])
def test_the_hint_for_a_value_of_another_engine_names_the_equivalent_value(key: str, word: str) -> None:
    codec = codec_at(path_of(key))
    assert codec is not None
    choices, planned = codec.choices, getattr(codec, "planned", ())
    meaning = VALUES[key][word]
    assert meaning in (*choices, *planned)
    assert word not in (*choices, *planned)
    array, _, name = key.partition("[].")
    text = f"[[{array}]]\n{name} = {literal(word)}\n" if name else f"{key} = {literal(word)}\n"
    said = hint(f"{ROOT}{text}", path_text(key))
    assert said == f'write "{meaning}"' if meaning in choices else f'"{meaning}"' in said


def path_text(key: str) -> str:
    return key.replace("[]", "[0]")


@pytest.mark.parametrize("table", sorted(MAIN_KEYS))
def test_the_hint_for_a_value_in_place_of_a_table_names_the_key_that_takes_it(table: str) -> None:
    codec = codec_at((table, MAIN_KEYS[table]))
    assert codec is not None
    if "string" in codec.toml_types:
        base = "" if table == "root" else ROOT
        assert (
            hint(f'{table} = "x"\n{base}', table) == f'write [{table}], and below it {MAIN_KEYS[table]} = "x"'
        )


@pytest.mark.parametrize("key", sorted(settings_of(Spec)))
@pytest.mark.parametrize("value", ["[1]", "{ a = 1 }"])
def test_the_hint_for_a_top_level_key_below_a_header_names_its_place(key: str, value: str) -> None:
    said = hint(f"{ROOT}[process]\n{key} = {value}\n", f"process.{key}")
    if (key, value) == ("networks", "[1]"):  # a list there is the one of another table
        assert said == "networks belongs in [network]"
        return
    assert said.endswith(": all keys below [process] belong to that table")
    assert f"[{key}" in said or said.startswith("move it above the first [table]")


@pytest.mark.parametrize("header", ["process", "process.env"])
def test_the_hint_for_a_misplaced_short_form_volume_shows_the_equivalent_table(header: str) -> None:
    said = hint(f'{ROOT}[{header}]\nvolumes = ["/tmp:/x:ro"]\n', f"{header}.volumes")
    assert said == (
        'write [[volumes]] with type = "bind", source = "/tmp", target = "/x", read_only = true: '
        f"all keys below [{header}] belong to that table"
    )


@pytest.mark.parametrize(
    ("word", "table"),
    [
        ("/tmp:/x", {"type": "bind", "source": "/tmp", "target": "/x"}),
        ("/tmp:/x:ro", {"type": "bind", "source": "/tmp", "target": "/x", "read_only": True}),
        ("data:/x:rw", {"type": "named", "source": "data", "target": "/x"}),
        (".:/x:rslave", {"type": "bind", "source": ".", "target": "/x", "propagation": "slave"}),
        (
            "~:/x:noexec,nodev,ro",
            {
                "type": "bind",
                "source": "~",
                "target": "/x",
                "read_only": True,
                "options": ["noexec", "nodev"],
            },
        ),
    ],
)
def test_the_hint_for_a_short_form_volume_shows_the_equivalent_table(
    word: str, table: dict[str, object]
) -> None:
    assert parse_volume(word) == table
    said = hint(f'volumes = ["{word}"]\n{ROOT}', "volumes[0]")
    assert said == f"a volume is a table: write {literal(table)}"
    # The table in the hint is valid in place of the wrong value.
    parse(
        f"volumes = [{literal(table)}]\n{ROOT}".encode(),
        path="/specs/test.toml",
        environ={"HOME": "/home/alice"},
    )


@pytest.mark.parametrize("word", ["/tmp", ":/x", "/a:b", "/a:/b:ro:rw", "/a:/b:zz", "/a:/b:"])
def test_an_invalid_short_form_volume_gets_the_general_hint(word: str) -> None:
    assert hint(f'volumes = ["{word}"]\n{ROOT}', "volumes[0]").startswith("write a table, such as")
