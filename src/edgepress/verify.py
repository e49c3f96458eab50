"""Check a bundle's signature with nothing but Python 3.9 and openssl: python verify.py BUNDLE --key PUBLIC.pem

The format is OpenSSF Model Signing v1.0, key method (https://github.com/ossf/model-signing-spec): a sigstore bundle around a DSSE envelope around an
in-toto statement that lists the sha256 of every file. This file needs nothing else of edgepress: copy it to a device once, by a way you trust.
"""
import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # the folder of this file may be the one to be checked: nothing in it is imported

import argparse
import base64
import binascii
import hashlib
import json
import os
import stat
import subprocess
import tempfile
from typing import AbstractSet, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

SIGNATURE = "model.sig"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
GIT = (".git", ".gitattributes", ".github", ".gitignore")  # what signers leave out unless they say otherwise
CURVES: Mapping[bytes, Tuple[str, str]] = {  # object identifier in the key → name, hash
    bytes.fromhex("06082a8648ce3d030107"): ("P-256", "sha256"), bytes.fromhex("06052b81040022"): ("P-384", "sha384"), bytes.fromhex("06052b81040023"): ("P-521", "sha512")}
_EC_KEY = bytes.fromhex("06072a8648ce3d0201")
_LARGEST_SIGNATURE = 16 << 20


class NotVerified(ValueError):
    """The files are not what the holder of the key signed, or the signature is no signature."""


def verify(model: str, public_key: str, *, signature: Optional[str] = None) -> Dict[str, Any]:
    """Check that every file of a folder (or one file) is as it was signed, and that there are no others.

    Args:
        public_key: path of a PEM file with an ECDSA key.
        signature: path; default: model.sig in the folder.

    Returns:
        {"files": how many, "name": as the signer called it, "key": sha256 of the key, hex}.

    Raises:
        NotVerified: with the reason.
    """
    signature = signature or os.path.join(model, SIGNATURE)
    pem = read_public_key(public_key)
    bundle = _parse(_read(signature, _LARGEST_SIGNATURE), "the signature")
    payload, signed = open_bundle(bundle, pem)
    check_signature(pem, encode_dsse(payload), signed)
    resources, ignored = read_statement(_parse(payload, "the signed statement"))
    if os.path.isfile(model):
        found = {name: model for name in resources if name in (".", os.path.basename(model))}  # the reference implementation calls a single file "."
    else:
        found = dict(list_files(model, ignored=ignored, signature=signature))
    _compare(resources, found)
    return {"files": len(resources), "name": json.loads(payload)["subject"][0]["name"], "key": key_hint(pem)}


def read_public_key(path: str) -> str:
    """The PEM of a public key file in its one canonical form (SubjectPublicKeyInfo, lines of 64).

    Raises:
        NotVerified: not a public ECDSA key on P-256, P-384 or P-521.
    """
    lines = _read(path, 1 << 16).decode("ascii", "replace").split("-----BEGIN PUBLIC KEY-----")
    if len(lines) != 2 or "-----END PUBLIC KEY-----" not in lines[1]:
        raise NotVerified(f"{path} is not a public key in PEM form; accepted: a file that begins with -----BEGIN PUBLIC KEY-----")
    try:
        data = base64.b64decode("".join(lines[1].split("-----END PUBLIC KEY-----")[0].split()), validate=True)
    except binascii.Error as error:
        raise NotVerified(f"{path} is damaged ({error})") from error
    pem = "-----BEGIN PUBLIC KEY-----\n" + "".join(line + "\n" for line in _wrap(base64.b64encode(data).decode())) + "-----END PUBLIC KEY-----\n"
    curve_of(pem)
    return pem


def _wrap(text: str) -> List[str]:
    return [text[start:start + 64] for start in range(0, len(text), 64)]


def curve_of(pem: str) -> Tuple[str, str]:
    """(name, hash) of a key's curve."""
    data = base64.b64decode("".join(pem.splitlines()[1:-1]))
    found = [entry for identifier, entry in CURVES.items() if _EC_KEY + identifier in data[:40]]
    if not found:
        raise NotVerified("the key is none of ECDSA P-256, P-384, P-521, the kinds that the format knows")
    return found[0]


def key_hint(pem: str) -> str:
    """How a signature names its key: sha256 of the PEM, hex."""
    return hashlib.sha256(pem.encode()).hexdigest()


def encode_dsse(payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding of DSSE v1."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def open_bundle(bundle: Any, pem: str) -> Tuple[bytes, bytes]:
    """(payload, signature) of a sigstore bundle that this key should have signed. Strict: a part that nothing checks could be changed unseen."""
    _keys(bundle, "the signature", {"mediaType", "verificationMaterial", "dsseEnvelope"})
    if bundle["mediaType"] != MEDIA_TYPE:
        raise NotVerified(f"the signature is of type {bundle['mediaType']!r}; accepted: {MEDIA_TYPE}")
    material = bundle["verificationMaterial"]
    _keys(material, "verificationMaterial", {"publicKey"}, {"tlogEntries", "timestampVerificationData"})
    if material.get("tlogEntries") or material.get("timestampVerificationData"):
        raise NotVerified("the signature has entries of a transparency log; accepted: signatures made with a key alone")
    _check_key(material["publicKey"], pem)
    envelope = bundle["dsseEnvelope"]
    _keys(envelope, "dsseEnvelope", {"payload", "payloadType", "signatures"})
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise NotVerified(f"the signed payload is of type {envelope['payloadType']!r}; accepted: {PAYLOAD_TYPE}")
    if not isinstance(envelope["signatures"], list) or len(envelope["signatures"]) != 1:
        raise NotVerified("dsseEnvelope.signatures is no list of exactly one signature")
    signed = envelope["signatures"][0]
    _keys(signed, "the signature", {"sig"}, {"keyid"})
    if signed.get("keyid") not in (None, ""):
        raise NotVerified("the signature has a keyid, which this format does not use")
    return _decode(envelope["payload"], "payload"), _decode(signed["sig"], "sig")


def _check_key(named: Any, pem: str) -> None:
    if isinstance(named, dict) and "hint" not in named:  # signatures made before version 1.1 of the reference implementation hold the key itself
        _keys(named, "publicKey", {"rawBytes"}, {"keyDetails"})
        fits = _decode(named["rawBytes"], "rawBytes") in (pem.encode(), base64.b64decode("".join(pem.splitlines()[1:-1])))
    else:
        _keys(named, "publicKey", {"hint"})
        fits = named["hint"] == key_hint(pem)
    if not fits:
        raise NotVerified("the signature was made with another key")


def check_signature(pem: str, message: bytes, signed: bytes) -> None:
    """Check an ECDSA signature (DER) with the `cryptography` package where it is installed, else with the openssl command.

    Raises:
        NotVerified: it is not this key's signature of this message, or there is neither.
    """
    curve, digest = curve_of(pem)
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        valid = _ask_openssl(pem, message, signed, digest)
    else:
        try:
            serialization.load_pem_public_key(pem.encode()).verify(signed, message, ec.ECDSA(getattr(hashes, digest.upper())()))  # type: ignore[call-arg,union-attr]
            valid = True
        except (exceptions.InvalidSignature, ValueError):
            valid = False
    if not valid:
        raise NotVerified(f"the signature does not fit the key ({curve}) and the signed list of files: one of them was changed")


def _ask_openssl(pem: str, message: bytes, signed: bytes, digest: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="verify-") as work:
        paths = [os.path.join(work, name) for name in ("key", "sig", "message")]
        for path, data in zip(paths, (pem.encode(), signed, message)):
            with open(path, "wb") as file:
                file.write(data)
        try:
            done = subprocess.run(["openssl", "dgst", f"-{digest}", "-verify", paths[0], "-signature", paths[1], paths[2]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise NotVerified(f"the openssl command cannot be started ({error.strerror}); install openssl, or the Python package cryptography") from error
    return done.returncode == 0 and done.stdout.strip() == b"Verified OK"


def read_statement(statement: Any) -> Tuple[Dict[str, str], List[str]]:
    """({file: sha256 hex}, ignored paths) of a signed in-toto statement.

    Raises:
        NotVerified: another kind of statement, or a list of files that contradicts itself.
    """
    predicate = _field(statement, "predicate", dict)
    for key, accepted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement.get(key) != accepted:
            raise NotVerified(f"{key} of the signed statement is {statement.get(key)!r}; accepted: {accepted}")
    how = _field(predicate, "serialization", dict)
    for key, accepted_value in (("method", "files"), ("hash_type", "sha256"), ("allow_symlinks", False)):
        if how.get(key) != accepted_value:
            raise NotVerified(f"{key} of the signature is {how.get(key)!r}; accepted: {accepted_value!r}")
    resources: Dict[str, str] = {}
    for resource in _field(predicate, "resources", list):
        name, digest = _field(resource, "name", str), _field(resource, "digest", str)
        if resource.get("algorithm") != "sha256" or name in resources or name.startswith("/") or ".." in name.split("/"):
            raise NotVerified(f"the signed list has an entry {name!r} that cannot be: two of one name, a path out of the folder, or another hash than sha256")
        resources[name] = digest
    subjects = _field(statement, "subject", list)
    root = hashlib.sha256(b"".join(map(_unhex, resources.values()))).hexdigest()
    if not resources or len(subjects) != 1 or not _field(subjects[0], "name", str) or _field(subjects[0], "digest", dict) != {"sha256": root}:
        raise NotVerified("the signed list of files is empty or contradicts its own digest")
    ignored = how.get("ignore_paths", list(GIT))
    if not isinstance(ignored, list) or not all(isinstance(path, str) and path.strip("./") and ".." not in path.split("/") for path in ignored):
        raise NotVerified("ignore_paths of the signature is no list of paths")
    return resources, ignored


def list_files(folder: str, *, ignored: Sequence[str], signature: str) -> Iterator[Tuple[str, str]]:
    """(name relative to the folder, path) of every file in it.

    Raises:
        NotVerified: a link, a device, or a name that is not UTF-8.
    """
    skipped = {os.path.normpath(os.path.join(folder, path)) for path in ignored} | {os.path.normpath(signature)}
    todo = [folder]
    while todo:
        place = todo.pop()
        try:
            entries = list(os.scandir(place))
        except OSError as error:
            raise NotVerified(f"{place} cannot be read ({error.strerror})") from error
        for entry in entries:
            path = os.path.join(place, entry.name)
            if os.path.normpath(path) in skipped:
                continue
            kind = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                todo.append(path)
            elif not stat.S_ISREG(kind) or not entry.name.isprintable():
                raise NotVerified(f"{ascii(entry.name)} is a link, a device, or has a name that nobody can read; accepted: files")
            else:
                yield os.path.relpath(path, folder).replace(os.sep, "/"), path


def _compare(resources: Mapping[str, str], found: Mapping[str, str]) -> None:
    missing, extra = sorted(set(resources) - set(found)), sorted(set(found) - set(resources))
    if missing or extra:
        words = [f"{name} is missing" for name in missing] + [f"{name} was not signed" for name in extra]
        raise NotVerified("; ".join(words[:5]) + (f"; and {len(words) - 5} more" if len(words) > 5 else ""))
    for name, path in sorted(found.items()):
        if hash_file(path) != resources[name]:
            raise NotVerified(f"{name} is not the file that was signed: its bytes changed")


def hash_file(path: str) -> str:
    """sha256 of a file, hex."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    except OSError as error:
        raise NotVerified(f"{path} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _read(path: str, most: int) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path):
        raise NotVerified(f"{path} is no file")
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise NotVerified(f"{path} cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise NotVerified(f"{path} is larger than {most:,} bytes")
    return data


def _parse(data: bytes, what: str) -> Any:
    """JSON without a second key of one name, which two readers could read differently."""
    def once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key stands there twice")
        return dict(pairs)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise NotVerified(f"{what} is damaged ({error})") from error


def _keys(value: Any, what: str, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset()) -> None:
    if not isinstance(value, dict) or not needed <= set(value) <= needed | allowed:
        shown = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise NotVerified(f"{what} has the parts {shown}; accepted: {', '.join(sorted(needed))}")


def _field(value: Any, key: str, kind: type) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(key), kind):
        raise NotVerified(f"the signed statement has no {key}")
    return value[key]


def _decode(text: Any, what: str) -> bytes:
    """Base64 in its one canonical spelling: another one would be a change that nobody notices."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise NotVerified(f"{what} of the signature is damaged ({error})") from error
    if base64.b64encode(data).decode() != text:
        raise NotVerified(f"{what} of the signature is damaged (its base64 is not canonical)")
    return data


def _unhex(digest: str) -> bytes:
    try:
        data = bytes.fromhex(digest)
    except ValueError as error:
        raise NotVerified(f"the signed list has the digest {digest!r}, which is no hexadecimal number") from error
    if data.hex() != digest or len(data) != 32:
        raise NotVerified(f"the signed list has the digest {digest!r}, which is no sha256")
    return data


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """`python verify.py BUNDLE --key PUBLIC.pem`: 0 where everything is as it was signed, otherwise 1."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Check that a bundle is what the holder of a key signed.")
    parser.add_argument("bundle", help="folder, or a single file")
    parser.add_argument("--key", required=True, help="public key of the signer, PEM")
    parser.add_argument("--signature", help="default: model.sig in the folder")
    given = parser.parse_args(arguments)
    try:
        result = verify(given.bundle, given.key, signature=given.signature)
    except NotVerified as error:
        sys.stderr.write(f"NOT VERIFIED: {error}\n")
        return 1
    print(f"verified: {result['files']} files are what the holder of key {result['key'][:16]}… signed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
