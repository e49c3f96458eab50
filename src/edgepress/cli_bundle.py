"""`edgepress bundle`, `verify` and `keygen`. Parse, call one function, print."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import click

from edgepress.options import config_from, config_options
from edgepress.progress import drawn_progress
from edgepress.recipe import BundleConfig

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="folder to make, or one file where the name ends in .zip")
@click.option("--sign", "key", type=FILE, help="private key (ECDSA P-256, PEM): sign every file; see `edgepress keygen`")
@click.option("--json", "as_json", is_flag=True, help="print the manifest as one JSON document")
@click.option("--again", is_flag=True, help="do it again even if the result is there")
@config_options(BundleConfig)
def bundle(run: Path, out: Path, key: Optional[Path], as_json: bool, again: bool, **values: Any) -> None:
    """Pack the file that ships with everything it needs: the same run gives the same bytes.

    RUN is the folder of a run. A bundle that lies at OUT is replaced.
    """
    from edgepress.bundle_command import pack

    with drawn_progress():
        manifest = pack(run, out, config=config_from(BundleConfig, values, command="bundle"), key=key, again=again)
    click.echo(json.dumps(manifest, indent=2, ensure_ascii=False) if as_json else f"{manifest['variant']} for {', '.join(manifest['runtimes'])}. {manifest['why']}\n{out}")


@click.command()
@click.argument("bundle", type=FILE)
@click.option("--key", type=FILE, help="public key of the signer (PEM): check the signature too")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def verify(bundle: Path, key: Optional[Path], as_json: bool) -> None:
    """Check a bundle, a folder or a zip: every byte, and with --key that it is what the key's holder signed. Nothing in it is run."""
    from edgepress.bundle_archive import verify_bundle

    found = verify_bundle(bundle, key=key)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        signed = f"signed by key {found['signed_by'][:16]}…" if key else "signed; give --key to check by whom" if found["signed"] else "not signed"
        click.echo(f"{bundle}: {found['files']} files are byte for byte what was packed; {signed}")


@click.command()
@click.argument("key", type=FILE)
def keygen(key: Path) -> None:
    """Make a key pair to sign bundles with: KEY (keep it secret) and, beside it, its public half for those who verify."""
    from edgepress.signing import make_key

    public = make_key(key)
    click.echo(f"{key}: private, sign with it: edgepress bundle RUN -o bundle.zip --sign {key}\n{public}: public, give it away: edgepress verify bundle.zip --key {public}")
