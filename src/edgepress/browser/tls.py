"""A certificate of our own for one evening: over https browsers lend the camera, threads and WebGPU to a page on the local network."""
from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Sequence, Tuple

from edgepress.errors import JobError, UnsupportedError

DAYS = 2


def self_signed(addresses: Sequence[str]) -> Tuple[ssl.SSLContext, str]:
    """A TLS context with a fresh self-signed certificate, by the openssl command, and the certificate's SHA-256 fingerprint. The key never leaves memory for longer than this call.

    Raises:
        UnsupportedError: there is no openssl command.
        JobError: it failed.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise UnsupportedError("--https needs the openssl command, which is not installed here", "install openssl, or leave --https out: without it phones lend no camera")
    names = ",".join([f"IP:{address}" for address in addresses] + ["DNS:localhost"])
    with tempfile.TemporaryDirectory(prefix="edgepress-tls-") as folder:
        key, certificate = Path(folder) / "key.pem", Path(folder) / "certificate.pem"
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", str(DAYS),
                   "-subj", "/CN=edgepress", "-addext", f"subjectAltName={names}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise JobError("no certificate could be made", command=command, exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest().upper()
    return context, ":".join(digest[i:i + 2] for i in range(0, len(digest), 2))
