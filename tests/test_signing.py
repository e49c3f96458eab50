"""Signatures in the OpenSSF model-signing format: ours, its reference implementation's, and every way to be wrong that its specification lists."""
from __future__ import annotations

import base64
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import pytest

from edgepress import verify
from edgepress.errors import ArtifactError, EdgepressError
from edgepress.signing import make_key, sign_folder, verify_folder
from edgepress.verify import NotVerified

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
FILES = {"model.tflite": bytes(range(256)) * 8, "manifest.json": b'{"schema": 1}', "golden/00 é.png": b"\x89PNG" * 20, ".hidden/x": b"", "labels.txt": b"a\nb\n"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder / "mine.pem")
    make_key(folder / "other.pem")
    return folder


@pytest.fixture(scope="module")
def signed_once(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "bundle"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    sign_folder(folder, keys / "mine.pem")
    return folder


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "copied elsewhere"))


@pytest.fixture(params=["cryptography", "openssl"])
def verifier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to check a signature, the first where it is installed."""
    if request.param == "cryptography":
        pytest.importorskip("cryptography")
    else:
        monkeypatch.setitem(sys.modules, "cryptography", None)
    return request.param


def openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout


def test_what_was_signed_is_verified_elsewhere(signed: Path, keys: Path, verifier: str) -> None:
    hint = verify_folder(signed, keys / "mine.pub.pem")
    assert hint == json.loads((signed / "model.sig").read_text())["verificationMaterial"]["publicKey"]["hint"]
    assert (keys / "mine.pem").stat().st_mode & 0o777 == 0o600


def test_the_statement_is_what_the_specification_says(signed: Path) -> None:
    bundle = json.loads((signed / "model.sig").read_text())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json" and bundle["verificationMaterial"]["tlogEntries"] == []
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0" and statement["subject"][0]["name"] == "bundle"
    names = [resource["name"] for resource in statement["predicate"]["resources"]]
    assert names == sorted(FILES)
    assert statement["predicate"]["serialization"] == {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ["model.sig"]}


def test_the_standalone_file_verifies_without_edgepress(signed: Path, keys: Path, tmp_path: Path) -> None:
    """On a device: this one file, Python and openssl; nothing of site-packages, and nothing of the bundle is imported."""
    shutil.copy(verify.__file__, signed / "verify.py")
    sign_folder(signed, keys / "mine.pem")
    command = [sys.executable, "-S", str(signed / "verify.py"), str(signed), "--key", str(keys / "mine.pub.pem")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "6 files" in done.stdout, done.stderr
    for name in ("json", "hashlib", "argparse", "cryptography", "sitecustomize"):
        (signed / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    done = subprocess.run(command, capture_output=True, text=True, cwd=signed)
    assert done.returncode == 1 and "was not signed" in done.stderr and not (tmp_path / "ran").exists()


def _change_bundle(change: Callable[[Dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    def apply(folder: Path, keys: Path) -> None:
        bundle = json.loads((folder / "model.sig").read_text())
        change(bundle)
        (folder / "model.sig").write_text(json.dumps(bundle))
    return apply


def _change_statement(change: Callable[[Dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    """A changed statement with a right signature: what a confused signer could make."""
    def apply(folder: Path, keys: Path) -> None:
        bundle = json.loads((folder / "model.sig").read_text())
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        change(statement)
        payload = json.dumps(statement).encode()
        (keys / "message").write_bytes(verify.encode_dsse(payload))
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(openssl("dgst", "-sha256", "-sign", str(keys / "mine.pem"), str(keys / "message"))).decode()
        (folder / "model.sig").write_text(json.dumps(bundle))
    return apply


def _file(name: str, content: Optional[bytes]) -> Callable[[Path, Path], None]:
    def apply(folder: Path, keys: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return apply


# The rejections of the specification's conformance suite (key method), then our own.
WRONG = {
    "tampered-content": (_file("model.tflite", b"tampered"), "model.tflite is not the file"), "missing-file": (_file("labels.txt", None), "labels.txt is missing"),
    "extra-file": (_file("injected.bin", b"x"), "injected.bin was not signed"), "extra-file-in-git": (_file(".git/hooks", b"x"), "was not signed"),
    "no-signature": (_change_bundle(lambda b: b["dsseEnvelope"].update(signatures=[])), "exactly one"), "wrong-mediatype": (_change_bundle(lambda b: b.update(mediaType="application/json")), "application/json"),
    "wrong-payload-type": (_change_bundle(lambda b: b["dsseEnvelope"].update(payloadType="application/octet-stream")), "octet-stream"), "corrupted": (_file("model.sig", b'{"garbage": true}'), "garbage"),
    "empty": (_file("model.sig", b""), "damaged"), "no-bundle": (_file("model.sig", None), "model.sig cannot be read"), "missing-envelope": (_change_bundle(lambda b: b.pop("dsseEnvelope")), "dsseEnvelope"),
    "missing-verification-material": (_change_bundle(lambda b: b.pop("verificationMaterial")), "verificationMaterial"),
    "as-certificate": (_change_bundle(lambda b: b.update(verificationMaterial={"x509CertificateChain": {"certificates": []}, "tlogEntries": []})), "x509"),
    "wrong-statement-type": (_change_statement(lambda s: s.update(_type="https://in-toto.io/Statement/v0.1")), "_type"), "wrong-predicate": (_change_statement(lambda s: s.update(predicateType="https://example.com/v1")), "predicateType"),
    "empty-resources": (_change_statement(lambda s: s["predicate"].update(resources=[])), "empty or contradicts"), "missing-serialization": (_change_statement(lambda s: s["predicate"].pop("serialization")), "no serialization"),
    "other-root-digest": (_change_statement(lambda s: s["subject"][0]["digest"].update(sha256="0" * 64)), "contradicts"), "two-subjects": (_change_statement(lambda s: s["subject"].append(s["subject"][0])), "contradicts"),
    "same-name-twice": (_change_statement(lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0])), "cannot be"),
    "path-outside": (_change_statement(lambda s: s["predicate"]["resources"][0].update(name="../x")), "cannot be"), "everything-ignored": (_change_statement(lambda s: s["predicate"]["serialization"].update(ignore_paths=["."])), "ignore_paths"),
    "other-hash": (_change_statement(lambda s: s["predicate"]["serialization"].update(hash_type="blake3")), "blake3"), "shards": (_change_statement(lambda s: s["predicate"]["serialization"].update(method="shards")), "shards"),
    "links-followed": (_change_statement(lambda s: s["predicate"]["serialization"].update(allow_symlinks=True)), "allow_symlinks"),
    "two-signatures": (_change_bundle(lambda b: b["dsseEnvelope"]["signatures"].append({"sig": "AA=="})), "exactly one"), "unknown-part": (_change_bundle(lambda b: b.update(more=1)), "more"),
    "log-entries": (_change_bundle(lambda b: b["verificationMaterial"].update(tlogEntries=[{}])), "transparency log"), "sig-spelled-otherwise": (_change_bundle(lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=b["dsseEnvelope"]["signatures"][0]["sig"] + "\n")), "damaged"),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_wrong_signature_is_refused(case: str, signed: Path, keys: Path) -> None:
    change, words = WRONG[case]
    change(signed, keys)
    with pytest.raises(ArtifactError, match=words):
        verify_folder(signed, keys / "mine.pub.pem")


@pytest.mark.parametrize("variant", ["keyid null", "keyid absent", "no log entries", "old key"])
def test_spellings_of_other_signers_are_accepted(variant: str, signed: Path, keys: Path) -> None:
    bundle = json.loads((signed / "model.sig").read_text())
    signature = bundle["dsseEnvelope"]["signatures"][0]
    if variant == "keyid null":
        signature["keyid"] = None
    elif variant == "keyid absent":
        del signature["keyid"]
    elif variant == "no log entries":
        del bundle["verificationMaterial"]["tlogEntries"]
    else:
        bundle["verificationMaterial"]["publicKey"] = {"rawBytes": base64.b64encode((keys / "mine.pub.pem").read_bytes()).decode(), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    (signed / "model.sig").write_text(json.dumps(bundle))
    assert verify_folder(signed, keys / "mine.pub.pem")


def test_another_key_a_truncated_signature_and_links(signed: Path, keys: Path, verifier: str) -> None:
    with pytest.raises(ArtifactError, match="another key"):
        verify_folder(signed, keys / "other.pub.pem")
    _change_bundle(lambda b: b["verificationMaterial"]["publicKey"].update(hint=verify.key_hint(verify.read_public_key(str(keys / "other.pub.pem")))))(signed, keys)
    with pytest.raises(ArtifactError, match="does not fit the key"):
        verify_folder(signed, keys / "other.pub.pem")
    for size in (1, 100, 500):
        (signed / "model.sig").write_bytes((signed / "model.sig").read_bytes()[:size])
        with pytest.raises(ArtifactError, match="damaged"):
            verify_folder(signed, keys / "mine.pub.pem")
    sign_folder(signed, keys / "mine.pem")
    shutil.move(signed / "labels.txt", signed.parent / "labels.txt")
    (signed / "labels.txt").symlink_to(signed.parent / "labels.txt")
    with pytest.raises(ArtifactError, match="a link"):
        verify_folder(signed, keys / "mine.pub.pem")
    with pytest.raises(ArtifactError, match="cannot be signed"):
        sign_folder(signed, keys / "mine.pem")


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_all_noticed(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "check_signature", functools.lru_cache(None)(verify.check_signature))  # openssl is asked once about the same bytes
    chance = random.Random(20)
    files = sorted(path for path in signed.rglob("*") if path.is_file() and path.stat().st_size)
    for number in range(1000):
        path = files[number % len(files)]
        whole = path.read_bytes()
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(data))
        with pytest.raises(NotVerified):
            verify.verify(str(signed), str(keys / "mine.pub.pem"))
        path.write_bytes(whole)
    assert verify_folder(signed, keys / "mine.pub.pem")


@pytest.mark.parametrize("curve", ["P-384", "P-521", "secp256k1", "RSA", "Ed25519"])
def test_keys_of_other_kinds(curve: str, tmp_path: Path, signed: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    options = ["-algorithm", curve] if curve in ("RSA", "Ed25519") else ["-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}"]
    openssl("genpkey", *options, "-out", str(key))
    public.write_bytes(openssl("pkey", "-in", str(key), "-pubout"))
    with pytest.raises(EdgepressError, match="accepted: P-256|none of ECDSA"):
        sign_folder(signed, key)
    with pytest.raises(NotVerified, match="another key|none of ECDSA"):
        verify.verify(str(signed), str(public))
    if curve.startswith("P-"):
        message, digest = b"message", {"P-384": "sha384", "P-521": "sha512"}[curve]
        (tmp_path / "message").write_bytes(message)
        pem = verify.read_public_key(str(public))
        verify.check_signature(pem, message, openssl("dgst", f"-{digest}", "-sign", str(key), str(tmp_path / "message")))
        with pytest.raises(NotVerified):
            verify.check_signature(pem, b"massage", openssl("dgst", f"-{digest}", "-sign", str(key), str(tmp_path / "message")))


def test_an_encrypted_key_takes_its_password_from_the_environment(tmp_path: Path, signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.pem"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes-256-cbc", "-pass", "pass:secret", "-out", str(key))
    with pytest.raises(EdgepressError, match="EDGEPRESS_KEY_PASSWORD"):
        sign_folder(signed, key)
    monkeypatch.setenv("EDGEPRESS_KEY_PASSWORD", "secret")
    assert sign_folder(signed, key)


def test_wrong_keys_are_named(tmp_path: Path, signed: Path, keys: Path) -> None:
    with pytest.raises(EdgepressError, match="exists; accepted: a new name"):
        make_key(keys / "mine.pem")
    with pytest.raises(EdgepressError, match="does not exist"):
        sign_folder(signed, tmp_path / "none.pem")
    with pytest.raises(EdgepressError, match="no private key"):
        sign_folder(signed, keys / "mine.pub.pem")
    with pytest.raises(ArtifactError, match="not a public key"):
        verify_folder(signed, keys / "mine.pem")


@pytest.fixture(scope="session")
def model_signing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The format's reference implementation in a virtual environment of its own ($EDGEPRESS_MODEL_SIGNING names one that is there already)."""
    if os.environ.get("EDGEPRESS_MODEL_SIGNING"):
        return Path(os.environ["EDGEPRESS_MODEL_SIGNING"])
    folder = tmp_path_factory.mktemp("model_signing")
    venv.create(folder, with_pip=True)
    done = subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "model-signing==1.1.1", "pyOpenSSL"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("model-signing cannot be installed here: " + done.stderr.strip()[-200:])
    return folder / "bin" / "model_signing"


@pytest.mark.slow
def test_the_reference_implementation_accepts_ours_and_we_accept_its(model_signing: Path, signed: Path, keys: Path) -> None:
    def run(verb: str, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run([model_signing, verb, "key", str(signed), "--signature", str(signed / "model.sig"), *options], capture_output=True, text=True)

    checked = run("verify", "--public_key", str(keys / "mine.pub.pem"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    standalone = subprocess.run([model_signing.parent / "python", verify.__file__, str(signed), "--key", str(keys / "mine.pub.pem")], capture_output=True, text=True)
    assert standalone.returncode == 0, standalone.stderr  # this Python has the cryptography package: the other way to check
    (signed / "labels.txt").write_bytes(b"a\nc\n")
    assert run("verify", "--public_key", str(keys / "mine.pub.pem")).returncode == 1
    assert run("sign", "--private_key", str(keys / "mine.pem")).returncode == 0
    assert verify_folder(signed, keys / "mine.pub.pem")
    (signed / "labels.txt").write_bytes(b"a\nb\n")
    with pytest.raises(ArtifactError, match="labels.txt"):
        verify_folder(signed, keys / "mine.pub.pem")
