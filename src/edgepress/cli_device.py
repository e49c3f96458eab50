"""`edgepress device …`: register, look at, prepare and measure the devices that files ship to. Parse, call one function, print."""
from __future__ import annotations

import click


@click.group()
def device() -> None:
    """Devices: a Raspberry Pi over ssh, a phone over adb, an emulated one, any phone's browser.

    \b
    edgepress device add ssh://pi@raspberrypi.local --name pi
    edgepress device check pi
    """
