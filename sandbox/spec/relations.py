"""Find paths below other paths, and circular dependencies between names. Pure functions in near linear time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

Numbered = tuple[int, str]


def covered(paths: Iterable[Numbered], by: Iterable[Numbered]) -> Iterator[tuple[int, int]]:
    """Yield (number of a path, number of the topmost path of *by* that it is or is below); the root "/" covers nothing."""
    events = [(f"{path}/", 0, number) for number, path in by]
    events += [(f"{path}/", 1, number) for number, path in paths]
    around, owner = "", -1
    # In this order, all paths that start with a path directly follow it.
    for text, kind, number in sorted(events):
        if not around or not text.startswith(around):
            around, owner = (text, number) if kind == 0 else ("", -1)
        if kind == 1 and around:
            yield number, owner


def below(paths: Sequence[Numbered]) -> Iterator[tuple[int, int]]:
    """Yield (number of a path, number of the topmost other path that it is below)."""
    text_of = dict(paths)
    return (pair for pair in covered(paths, paths) if text_of[pair[0]] != text_of[pair[1]])


def cycles(following: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return a number for each name: two names have the same number if each leads to the other (Kosaraju's algorithm).

    *following* maps each name to the names that it leads to; names that are no keys of it lead to none.
    """
    backwards: dict[str, list[str]] = {}
    for name, others in following.items():
        for other in others:
            backwards.setdefault(other, []).append(name)
    finished: list[str] = []
    _walk(following, following, set(), finished)
    number_of: dict[str, int] = {}
    seen: set[str] = set()
    for number, name in enumerate(reversed(finished)):
        members: list[str] = []
        _walk((name,), backwards, seen, members)
        number_of.update(dict.fromkeys(members, number))
    return number_of


def _walk(
    starts: Iterable[str], following: Mapping[str, Iterable[str]], seen: set[str], finished: list[str]
) -> None:
    """Add to *finished* all names reachable from *starts* that *seen* lacks, each after the names that it leads to."""
    for start in starts:
        if start in seen:
            continue
        seen.add(start)
        pending = [(start, iter(following.get(start, ())))]
        while pending:
            name, others = pending[-1]
            other = next((one for one in others if one not in seen), None)
            if other is None:
                finished.append(name)
                pending.pop()
            else:
                seen.add(other)
                pending.append((other, iter(following.get(other, ()))))
