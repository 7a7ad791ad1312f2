"""Certificates for tests of TLS, made with openssl(1). A test that uses them has the marker `openssl`."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_authority(directory: Path, name: str = "ca") -> Path:
    """Make a private authority; return its certificate, beside which is its key."""
    _openssl(
        directory,
        *(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ),
        *("-subj", f"/CN=test {name}", "-keyout", f"{name}.key", "-out", f"{name}.crt"),
    )
    return directory / f"{name}.crt"


def make_certificate(directory: Path, name: str, names: str = "IP:127.0.0.1", authority: str = "ca") -> Path:
    """Make a certificate of *authority* for *names*; return it. Its key is beside it."""
    _openssl(
        directory,
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
    )
    (directory / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    _openssl(
        directory,
        *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-extfile", f"{name}.ext", "-CAcreateserial"),
        *("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-out", f"{name}.cert"),
    )
    return directory / f"{name}.cert"


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)
