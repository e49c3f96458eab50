"""Facts about the machine, and who else used it."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgepress import host
from edgepress.host import Ticks, host_facts, interference, state_facts, ticks


def test_facts_are_plain_values() -> None:
    facts = host_facts()
    assert json.dumps(facts) and facts["cpus"] >= 1 and facts["python"].count(".") == 2
    assert set(state_facts()) == {"load_average", "temperature_c", "clock_mhz"}


def test_interference() -> None:
    before, after = Ticks(busy=10, stolen=0, total=100, own=1), Ticks(busy=18, stolen=1, total=120, own=5)
    assert interference(before, after) == {"others_share": 0.2, "stolen_share": 0.05}
    assert interference(None, after) == interference(before, before) == {"others_share": None, "stolen_share": None}


def test_ticks_count_this_process() -> None:
    before = ticks()
    if before is None:
        pytest.skip("there is no /proc here")
    sum(i * i for i in range(3_000_000))
    after = ticks()
    assert after is not None and after.own > before.own and after.total >= before.total


def test_memory_peak_sees_an_allocation() -> None:
    code = "from edgepress.host import peak_rss_bytes as peak\nbefore = peak()\nblock = bytearray(64 << 20)\nblock[::4096] = b'x' * len(block[::4096])\nprint(before, peak())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # this process has had its peak long ago
    before, after = done.stdout.split()
    assert before == "None" or int(after) >= int(before) + (32 << 20)  # half of it, as the process may have had room left


def test_what_cannot_be_read_is_none() -> None:
    assert host._read("/no/such/file") is None
