"""The page as a part of a bundle: `edgepress bundle RUN -o bundle --web`."""
from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.bundle_files import check_files, read_manifest
from edgepress.recipe import BundleConfig
from edgepress.stages import bundle as stage


@pytest.mark.device
def test_a_bundle_with_the_page_is_whole_and_lists_its_files(run: Path, web_packages: Path, tmp_path: Path) -> None:
    stage.bundle(tmp_path, run=run, config=BundleConfig(web=True, choose="float32.tflite"))
    folder = tmp_path / "bundle"
    listed = read_manifest(folder)["files"]
    assert {"web/index.html", "web/app.json", "web/manifest.webmanifest"} <= set(listed) and "manifest.json" not in listed
    assert check_files(folder) == []
    assert "`web/`" in (folder / "README.md").read_text(encoding="utf-8")
    (folder / "web" / "app.js").write_text("alert(1)")
    assert any("web/app.js is damaged" in problem for problem in check_files(folder))
