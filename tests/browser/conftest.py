"""One warm browser, the runtimes for browsers, and a small run for all tests of this folder."""
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from chromium import Chromium  # noqa: E402
from pages import make_photos, make_run, tiny_variants  # noqa: E402

from edgepress.browser import packages  # noqa: E402
from edgepress.errors import EdgepressError  # noqa: E402


def _missing(why: str) -> None:
    """Skip, or fail where this machine must have everything."""
    if os.environ.get("EDGEPRESS_REQUIRE_EMULATOR"):
        pytest.fail(f"EDGEPRESS_REQUIRE_EMULATOR is set, but {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def web_packages(pytestconfig: pytest.Config) -> Iterator[Path]:
    """The installed packages; fetched by npm once and kept in pytest's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_HOME", str(pytestconfig.cache.mkdir("edgepress-browser")))
        if not (packages.packages_folder() / packages.RECORD).is_file():
            if shutil.which("npm") is None:
                _missing("npm is not installed")
            try:
                packages.install_packages()
            except EdgepressError as error:
                _missing(f"the browsers' runtimes cannot be fetched: {error}")
        yield packages.packages_folder()


@pytest.fixture(scope="session")
def program() -> str:
    """The name of Chromium here."""
    found = next((name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None)
    if found is None:
        _missing("chromium is not installed")
    return str(found)


@pytest.fixture(scope="session")
def chromium(program: str) -> Iterator[Chromium]:
    """A running headless Chromium."""
    browser = Chromium(program)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four files: float and int8, TFLite and ONNX."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "files").mkdir()
    return make_run(folder, tiny_variants(folder / "files"), make_photos(folder / "photos"))
