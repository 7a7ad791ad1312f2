"""Declare a credential. Its printed form has no secret."""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A name and a password, or an identity token, for a registry."""

    #: The user's name; "" with an identity token.
    user: str
    #: The password or identity token.
    secret: str = field(repr=False)
    #: Whether `secret` is an identity token, which the token server exchanges (OAuth 2, RFC 6749, "refresh_token").
    is_token: bool = False
    #: The file or the helper that has it, for messages.
    origin: str

    def basic(self) -> str:
        """Return the value of the Authorization header for Basic authentication (RFC 7617)."""
        import base64

        return f"Basic {base64.b64encode(f'{self.user}:{self.secret}'.encode()).decode()}"

    def secrets(self) -> frozenset[str]:
        """Return the texts that no message may contain."""
        return frozenset((self.secret, self.basic().removeprefix("Basic ")))
