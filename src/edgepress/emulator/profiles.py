"""Which processor QEMU plays for each board."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

from edgepress.errors import UnsupportedError, nearest


@dataclass(frozen=True)
class Profile:
    """A board: `cpu` is QEMU's name of its processor. Always named: QEMU's default has extensions (SVE2, SME) that no Raspberry Pi has."""

    board: str
    cpu: str


PROFILES: Mapping[str, Profile] = {
    "rpi3": Profile("Raspberry Pi 3, Zero 2 W", "cortex-a53"),
    "rpi4": Profile("Raspberry Pi 4, 400", "cortex-a72"),
    "rpi5": Profile("Raspberry Pi 5, 500", "cortex-a76"),
}


def find_profile(name: str) -> Profile:
    """The profile of a name.

    Raises:
        UnsupportedError: there is none.
    """
    if name not in PROFILES:
        raise UnsupportedError(f"emulated device {name!r} does not exist; {nearest(name, PROFILES)}", "use one of these, for example emu://rpi4")
    return PROFILES[name]
