"""Codec of the list of processors that may be used."""

from __future__ import annotations

from sandbox.spec.codecs import expect_text, text_schema
from sandbox.spec.notation import shown
from sandbox.spec.patterns import pattern
from sandbox.spec.settings import Codec, Cursor, Invalid

_RANGE = pattern(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?")


class CpuSetCodec(Codec[str]):
    """A list of processors in the format of cpuset(7): numbers and ranges, as in "0-3,8"."""

    expects = "list of processors"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        for part in text.split(","):
            match = _RANGE.fullmatch(part)
            if match is None:
                raise Invalid(
                    f"{shown(text)} is not a list of processors", 'write numbers and ranges, such as "0-3,8"'
                )
            if match["last"] is not None and int(match["last"]) < int(match["first"]):
                raise Invalid(f"the range {shown(part)} ends before it begins", fragment=part)
        return text

    def schema(self) -> dict[str, object]:
        return text_schema("^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$")

    def describe(self) -> str:
        return f'{self.expects}: numbers and ranges, such as "0-3,8"'
