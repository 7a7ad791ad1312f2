"""Render the report as text for a terminal, at most 100 columns wide, in colour on request."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

from sandbox.explain.report import SECTIONS, Deviation, Fact, Report, Risk
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.notation import visible
from unionfs._stdlib.dataclasses import replace

WIDTH = 100
_LABEL = 20  # columns of labels at most; a longer one has a line of its own
_CODES = {"bold": "1", "dim": "2", "red": "31", "yellow": "33"}
_MARKS = {"danger": ("!!", "red"), "caution": ("! ", "yellow"), "note": ("- ", "")}


def render(report: Report, *, colour: bool = False, everything: bool = False) -> str:
    """Return *report* as text that ends with a line end: the risks, the differences, and the facts that the file sets.

    With *everything*, add the facts that hold by default or on this machine, and the steps of the plan.

    Invisible characters and control characters are escaped as in TOML, so that a file under review cannot forge text of
    the report.
    """
    return "".join(line + "\n" for line in _TextRenderer(colour=colour, everything=everything).report(report))


class _TextRenderer:
    def __init__(self, *, colour: bool, everything: bool) -> None:
        self._colour = colour
        self._everything = everything

    def report(self, report: Report) -> Iterator[str]:
        # The last of `files` is the file itself, as the user named it; it may be standard input.
        file = report.files[-1] if report.files else report.file
        yield from self._wrap("", f"{file}: sandbox {report.name}", "bold")
        if len(report.files) > 1:
            yield from self._wrap("", f"merged from {', '.join(report.files)}")
        count = len(report.refusals)
        verdict = (
            f"`sandbox up` refuses it here, for {report.account}: {count} reason{'s' if count > 1 else ''}, see the end."
            if report.refused
            else f"`sandbox up` would start it here, for {report.account}."
        )
        yield from self._wrap("", verdict, "red" if report.refused else "")
        yield from self._heading("Risks")
        for risk in report.risks:
            yield from self._risk(risk)
        yield from self._heading("Differences from the file")
        for deviation in report.deviations:
            yield from self._deviation(deviation)
        if not report.deviations:
            yield "  nothing"
        for name, heading in SECTIONS.items():
            facts = [fact for fact in report.sections.get(name, ()) if self._everything or fact.origin.is_set]
            if facts:
                yield from self._heading(heading)
                width = min(max(len(fact.label) for fact in facts), _LABEL)
                for fact in facts:
                    yield from self._fact(fact, width)
        if self._everything:
            title = "Steps of the start, in order" + (
                ", without those that are refused" if report.refused else ""
            )
            yield from self._heading(title)
            for number, step in enumerate(report.plan, 1):
                yield from self._wrap(f"  {number:2} ", step)
        if report.refused:
            yield from self._heading("Refused")
            for diagnostic in report.refusals:
                yield from self._refusal(diagnostic)
        if not self._everything:
            count = sum(not fact.origin.is_set for fact in report.facts())
            yield ""
            yield from self._wrap(
                "",
                f"{count} more facts are defaults or come from this machine: --all prints them, and the steps of the start.",
            )

    def _heading(self, text: str) -> Iterator[str]:
        yield ""
        yield self._styled(text, "bold")

    def _risk(self, risk: Risk) -> Iterator[str]:
        mark, style = _MARKS[risk.level]
        places = "".join(f" [{origin.text()}]" for origin in risk.origins)
        yield from self._wrap(f"  {mark} ", risk.text + places, style)

    def _fact(self, fact: Fact, width: int) -> Iterator[str]:
        label = _printable(fact.label)
        before = f"  {label:{width}}  "
        blank = " " * (width + 4)
        if len(label) > width:
            yield from self._wrap("  ", label)
            before = blank
        yield from self._wrap(before, f"{fact.text} [{fact.origin.text()}]")
        for note in fact.notes:
            yield from self._wrap(blank, note, "dim")

    def _deviation(self, deviation: Deviation) -> Iterator[str]:
        difference = deviation.difference
        effective = "is refused" if deviation.refused else difference.effective or "is not enforced"
        text = f"{difference.key} = {difference.asked} {effective}: {difference.reason}"
        yield from self._wrap("  - ", f"{text} [{deviation.origin.text()}]")

    def _refusal(self, diagnostic: Diagnostic) -> Iterator[str]:
        first, *marked = replace(diagnostic, hint=None).render().split("\n")
        yield from self._wrap("  ", first)
        # A source line and its caret cannot be wrapped. If they are too long, only the place is shown.
        if widest(marked) <= WIDTH:
            yield from marked
        if diagnostic.hint:
            yield from self._wrap("      hint: ", diagnostic.hint)

    def _wrap(self, before: str, text: str, style: str = "") -> Iterator[str]:
        """Yield *text* behind *before*, wrapped into lines with a hanging indent."""
        room = WIDTH - len(before)
        lines = textwrap.wrap(_printable(text), room, break_on_hyphens=False) or [""]
        for number, line in enumerate(lines):
            start = before if number == 0 else " " * len(before)
            yield (start + self._styled(line, style)).rstrip()

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._colour and style and text else text


def _printable(text: str) -> str:
    return "".join(map(visible, text))


def visible_length(line: str) -> int:
    """Return the number of columns of *line*, without escape sequences of colours."""
    return len(re.sub(r"\x1b\[[0-9;]*m", "", line))


def widest(lines: Iterable[str]) -> int:
    """Return the number of columns of the widest of *lines*."""
    return max(map(visible_length, lines), default=0)
