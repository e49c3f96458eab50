"""An emulated 64-bit Raspberry Pi: a real Debian arm64 user space under QEMU, in private namespaces of this machine.

Programs, compiled kernels and their answers are the real ones; time is not. Needs no root and changes nothing outside its own folder and processes.
"""
from __future__ import annotations

from edgepress.emulator.profiles import PROFILES as PROFILES
from edgepress.emulator.root import build_root as build_root
from edgepress.emulator.running import Emulated as Emulated, introduce as introduce, start as start
