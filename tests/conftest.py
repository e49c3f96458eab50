"""Fixtures shared by all tests."""
from __future__ import annotations

from pathlib import Path

import pytest
from emulated import emulated_pi as emulated_pi

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """A function: path below the shared data folder, or skip with the reason."""
    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"real data {relative} is not beside the checkout")
        return path
    return find
