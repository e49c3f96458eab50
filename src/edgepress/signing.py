"""Sign and verify bundles in the format of OpenSSF Model Signing v1.0, key method, with the openssl command and nothing else."""
from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Sequence

from edgepress import verify
from edgepress.artifact import write_atomic
from edgepress.errors import ArtifactError, EdgepressError
from edgepress.verify import SIGNATURE, NotVerified

PASSWORD = "EDGEPRESS_KEY_PASSWORD"  # environment variable with the password of an encrypted key


def sign_folder(folder: Path, key: Path) -> Path:
    """Sign every file of a folder; the path of the signature, model.sig in it. An older signature is replaced.

    Args:
        key: private ECDSA P-256 key, PEM.

    Raises:
        EdgepressError: no such key, another kind of key, or openssl refuses it.
        ArtifactError: the folder has something in it that cannot be signed, such as a link.
    """
    pem = public_key_of(key)
    signature = folder / SIGNATURE
    payload = statement_of(folder)
    signed = _openssl(["dgst", "-sha256", "-sign", str(key), *_password()], verify.encode_dsse(payload), f"{key} cannot sign")
    bundle = {"mediaType": verify.MEDIA_TYPE, "verificationMaterial": {"publicKey": {"hint": verify.key_hint(pem)}, "tlogEntries": []},
              "dsseEnvelope": {"payload": base64.b64encode(payload).decode(), "payloadType": verify.PAYLOAD_TYPE, "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}]}}
    write_atomic(signature, json.dumps(bundle, separators=(",", ":")).encode())
    return signature


def statement_of(folder: Path) -> bytes:
    """The in-toto statement about the files of a folder: same files, same bytes. The signature's own file is left out and named as ignored.

    Raises:
        ArtifactError: no files, or one that cannot be signed.
    """
    try:
        found = dict(verify.list_files(str(folder), ignored=(), signature=str(folder / SIGNATURE)))
        resources = [{"name": name, "algorithm": "sha256", "digest": verify.hash_file(path)} for name, path in sorted(found.items())]
    except NotVerified as error:
        raise ArtifactError(f"{folder} cannot be signed: {error}", "remove it") from error
    if not resources:
        raise ArtifactError(f"{folder} cannot be signed: it has no files")
    root = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
    how: Dict[str, Any] = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE]}
    statement = {"_type": verify.STATEMENT_TYPE, "subject": [{"name": Path(os.path.abspath(folder)).name or "bundle", "digest": {"sha256": root}}],
                 "predicateType": verify.PREDICATE_TYPE, "predicate": {"serialization": how, "resources": resources}}
    return json.dumps(statement, separators=(",", ":")).encode()


def verify_folder(folder: Path, public_key: Path) -> str:
    """Check a signed bundle: each file, no other file, the signer's key. Returns the key's hint (sha256 of its PEM).

    Raises:
        ArtifactError: anything is not as it was signed.
    """
    try:
        return verify.verify(str(folder), str(public_key))["key"]
    except NotVerified as error:
        hint = "ask its maker for the public key that belongs to it" if "key" in str(error) else "get it again from where it comes, and do not run anything in it"
        raise ArtifactError(f"{folder} is not verified: {error}", hint) from error


def make_key(private: Path) -> Path:
    """Make an ECDSA P-256 key pair: `private` (readable by its owner alone), and beside it `<name>.pub.pem`, whose path is returned.

    Raises:
        EdgepressError: one of the files exists, or cannot be written.
    """
    public = private.with_name(f"{private.stem}.pub.pem")
    for path in (private, public):
        if path.exists():
            raise EdgepressError(f"{path} exists; accepted: a new name", "a key that was used must not be overwritten: nothing signed with it could be told from a forgery")
    secret = _openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], b"", "no key could be made")
    pem = _openssl(["pkey", "-pubout"], secret, "no key could be made")
    try:
        with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
    except OSError as error:
        raise EdgepressError(f"{private} cannot be written ({error.strerror})", "choose another place") from error
    write_atomic(public, pem)
    return public


def public_key_of(key: Path) -> str:
    """The PEM of the public half of a private key.

    Raises:
        EdgepressError: no private ECDSA P-256 key.
    """
    if not key.is_file():
        raise EdgepressError(f"{key} does not exist; accepted: a private key, PEM", "make one with `edgepress keygen`")
    pem = _openssl(["pkey", "-in", str(key), "-pubout", *_password()], b"", f"{key} is no private key that openssl reads").decode()
    try:
        curve, _ = verify.curve_of(pem)
    except NotVerified as error:
        raise EdgepressError(f"{key} cannot sign: {error}", "make a key with `edgepress keygen`") from error
    if curve != "P-256":
        raise EdgepressError(f"{key} is a key on {curve}; accepted: P-256, which every verifier knows", "make a key with `edgepress keygen`")
    return pem


def _password() -> List[str]:
    """Where openssl finds the password of an encrypted key; it is never asked for at the terminal."""
    return ["-passin", f"env:{PASSWORD}"] if PASSWORD in os.environ else ["-passin", "pass:"]


def _openssl(arguments: Sequence[str], data: bytes, what: str) -> bytes:
    try:
        done = subprocess.run(["openssl", *arguments], input=data, capture_output=True)
    except OSError as error:
        raise EdgepressError(f"{what}: the openssl command cannot be started ({error.strerror})", "install openssl") from error
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[0]
        raise EdgepressError(f"{what} ({reason})", f"an encrypted key needs its password in ${PASSWORD}" if "ass" in reason or "crypt" in reason else "give another key")
    return done.stdout
