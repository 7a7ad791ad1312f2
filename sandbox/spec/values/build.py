"""Codecs of the paths of a build step that copies files."""

from __future__ import annotations

from sandbox.spec.codecs import check_sandbox_path, expect_text, text_schema
from sandbox.spec.notation import shown
from sandbox.spec.settings import Codec, Cursor, Invalid


class CopySourceCodec(Codec[str]):
    """A path below the build context, or in the image that `from` names. It may have wildcards."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        if not text:
            raise Invalid("the path is empty", 'write "." for the whole build context')
        if ".." in text.split("/"):
            hint = "name a path below the build context, which `build --context DIR` sets"
            raise Invalid(f'{shown(text)} contains ".."', hint)
        return text

    def schema(self) -> dict[str, object]:
        return text_schema()

    def describe(self) -> str:
        return "path below the build context, with wildcards"


class CopyTargetCodec(Codec[str]):
    """An absolute path in the image. A slash at the end makes it a directory."""

    expects = "string"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        path = check_sandbox_path(text)
        return f"{path}/" if text.endswith("/") and path != "/" else path

    def schema(self) -> dict[str, object]:
        return text_schema("^/")

    def describe(self) -> str:
        return "path in the image"
