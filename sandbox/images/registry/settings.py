"""Declare the settings of the client: limits of time, size and attempts, and those of TLS."""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the client. All times are in seconds, all sizes in bytes."""

    #: For the connection to one address, by TCP and then by TLS.
    connect: float = 8.0
    #: Without progress: a response must begin within this time, and each such interval must bring `least_progress`. The whole
    #: response to a small request must arrive within it.
    stall: float = 15.0
    #: Fewer bytes than this in `stall` are no progress, so that a byte now and then does not keep a transfer alive.
    least_progress: int = 1 << 14
    #: Attempts in a row that bring nothing new: a transfer that has advanced by `advance` may fail as often again.
    attempts: int = 5
    advance: int = 1 << 20
    #: The first pause between attempts; each further one is twice as long, and each is shortened by up to a half at random.
    pause: float = 0.5
    #: All pauses of one operation together, also those that a registry requests with Retry-After.
    patience: float = 15.0
    #: The rate, in bytes per second, at which a registry at least computes the digest of a completed upload.
    verification: float = 50e6
    #: For one call of a credential helper, which may show a dialog.
    helper: float = 30.0
    #: The largest manifest, by the distribution specification, "Pushing manifests".
    manifest: int = 4 << 20
    #: The largest other document: a token, or an error.
    document: int = 1 << 20
    #: The size of a chunk of an upload, unless the registry demands larger ones.
    chunk: int = 16 << 20
    #: The largest range of :meth:`RegistryClient.read_range`.
    range: int = 64 << 20
    redirects: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """What the user requests about TLS."""

    #: False: accept any certificate, and plain HTTP. True: accept neither. None: registries.conf decides.
    verify: bool | None = None
    #: A directory with *.crt, *.cert and *.key; None: that of the host in containers-certs.d(5).
    cert_dir: str | None = None

    def is_insecure(self, configured: bool) -> bool:
        """Tell whether a host may be contacted without verification; *configured* is `insecure` of registries.conf."""
        return configured if self.verify is None else not self.verify
