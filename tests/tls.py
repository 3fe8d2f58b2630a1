"""Certificates, and which server programs take them."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

import trustme

from service.demo.servers import HOST, Certificates


def issue(
    folder: Path, authority: trustme.CA | None = None, *, not_after: datetime | None = None
) -> Certificates:
    """Write a certificate for 127.0.0.1, its key, and the certificate of the authority that signed it."""
    authority = authority or trustme.CA()
    issued = authority.issue_cert(HOST, not_after=not_after)
    files = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(files.ca))
    issued.cert_chain_pems[0].write_to_path(str(files.certificate))
    issued.private_key_pem.write_to_path(str(files.key))
    return files


def supports_tls(binary: Path) -> bool:
    """Whether this program was built with TLS."""
    # The server cannot start, since the certificate does not exist. One without TLS fails earlier.
    result = subprocess.run(
        [binary, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/dev/null/none"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "Failed to configure TLS" in result.stdout
