"""The dataset stage on folders as users have them: hostile files, copies, splits that stay put, and errors that say what to do."""
from __future__ import annotations

import csv
import json
import os
import shutil
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from photo_folders import class_folders, photo

from edgepress.errors import DatasetError, MissingDependencyError, RecipeError
from edgepress.imageset import load_images
from edgepress.recipe import DatasetConfig
from edgepress.stages.dataset import dataset

CONFIG = DatasetConfig()


def run(images: Path, out: Path, config: DatasetConfig = CONFIG) -> tuple:
    """(dataset.json, rows of index.csv by file name) of the stage."""
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    dataset(out, images=images, config=config)
    with open(out / "index.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = {Path(row["path"]).relative_to(images).as_posix() if Path(row["path"]).is_absolute() and images.is_dir() else row["path"]: row for row in csv.DictReader(file)}
    return json.loads((out / "dataset.json").read_text(encoding="utf-8")), rows


def splits(rows: dict) -> dict:
    return {name: row["split"] for name, row in rows.items()}


def files_below(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


def test_plain_folder(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos", labels=("dog", "cat", "bird"), count=40)
    facts, rows = run(images, tmp_path / "out")
    assert facts["labels"] == ["bird", "cat", "dog"]
    assert facts["images"] == facts["found"] == len(rows) == 120 and facts["skipped"] == []
    for split, share in (("train", 0.65), ("validation", 0.15), ("test", 0.2)):
        assert sum(facts["counts"][split].values()) == facts["splits"][split] == pytest.approx(share * 120, abs=20)
    assert all(facts["counts"][split][label] for split in facts["counts"] for label in facts["labels"])
    row = rows["cat/00003.png"]
    assert (row["label"], row["width"], row["height"], len(row["sha256"]), len(row["phash"])) == ("1", "40", "30", 64, 16)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dataset.json", "index.csv"]  # no copies of the photos


def test_same_folder_same_bytes(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos")
    run(images, tmp_path / "a"), run(images, tmp_path / "b")
    for name in ("index.csv", "dataset.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_adding_photos_does_not_move_the_others(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos", count=40)
    before = splits(run(images, tmp_path / "out")[1])
    class_folders(images, count=25, seed=500)
    class_folders(images, labels=("emu",), count=25, seed=900)
    after = splits(run(images, tmp_path / "out")[1])
    assert len(after) == len(before) + 75
    assert {name: after[name] for name in before} == before


def test_renaming_and_moving_photos_does_not_move_their_split(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos", count=40)
    before = {row["sha256"]: row["split"] for row in run(images, tmp_path / "out")[1].values()}
    for file in sorted((images / "cat").iterdir()):
        file.rename(file.with_name("z" + file.name[::-1].replace("gnp.", "") + ".png"))
    images.rename(tmp_path / "elsewhere")
    after = {row["sha256"]: row["split"] for row in run(tmp_path / "elsewhere", tmp_path / "out")[1].values()}
    assert after == before


def test_copies_never_straddle_a_split(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos", count=30)
    for i in range(30):
        original = Image.open(images / "cat" / f"{i:05}.png")
        shutil.copy(images / "cat" / f"{i:05}.png", images / "cat" / f"copy{i}.png")
        original.save(images / "cat" / f"smaller{i}.jpg", quality=60)
        original.resize((80, 60), Image.Resampling.BICUBIC).save(images / "cat" / f"larger{i}.png")
    facts, rows = run(images, tmp_path / "out")
    for i in range(30):
        sides = {rows[f"cat/{name}"]["split"] for name in (f"{i:05}.png", f"copy{i}.png", f"smaller{i}.jpg", f"larger{i}.png")}
        assert len(sides) == 1, i
    assert len({row["split"] for row in rows.values()}) == 3
    assert facts["near_duplicates"] == 90 and len(facts["duplicate_groups"]) == 30
    alone, _ = run(images, tmp_path / "exact", replace(CONFIG, near_duplicate_bits=None))
    assert (alone["duplicates"], alone["near_duplicates"]) == (30, 0)


def test_split_folders_are_respected_and_leaks_leave_the_training_side(tmp_path: Path) -> None:
    for k, (folder, count) in enumerate((("Train", 20), ("valid", 5), ("test", 8))):
        class_folders(tmp_path / "photos" / folder, count=count, seed=100 * k)
    images = tmp_path / "photos"
    shutil.copy(images / "test/cat/00200.png", images / "Train/cat/leak.png")
    Image.open(images / "test/dog/00201.png").save(images / "Train/dog/near.jpg", quality=70)
    shutil.copy(images / "test/cat/00202.png", images / "valid/cat/leak.png")
    facts, rows = run(images, tmp_path / "out")
    assert facts["splits"] == {"train": 40, "validation": 10, "test": 16} and facts["leaked"] == 3
    reasons = {s["path"]: s["reason"] for s in facts["skipped"]}
    assert reasons == {"Train/cat/leak.png": "an exact duplicate of test/cat/00200.png, which is in test",
                       "Train/dog/near.jpg": "a near duplicate of test/dog/00201.png, which is in test",
                       "valid/cat/leak.png": "an exact duplicate of test/cat/00202.png, which is in test"}
    assert any("3 photos lie in more than one split" in w for w in facts["warnings"])
    assert rows["valid/cat/00101.png"]["split"] == "validation" and facts["images"] + len(facts["skipped"]) == facts["found"]


def test_missing_split_is_taken_from_the_training_folder(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos/train", count=40)
    class_folders(tmp_path / "photos/test", count=5, seed=700)
    facts, rows = run(tmp_path / "photos", tmp_path / "out")
    assert facts["splits"]["test"] == 10 and facts["splits"]["train"] + facts["splits"]["validation"] == 80
    assert 2 <= facts["splits"]["validation"] <= 25
    assert {row["split"] for name, row in rows.items() if name.startswith("test/")} == {"test"}


def test_classes_called_train_and_test_are_classes(tmp_path: Path) -> None:
    facts, _ = run(class_folders(tmp_path / "vehicles", labels=("train", "car", "test")), tmp_path / "out")
    assert facts["labels"] == ["car", "test", "train"] and facts["images"] == 36


def test_small_classes_have_every_split(tmp_path: Path) -> None:
    for seed in range(0, 500, 100):
        images = class_folders(tmp_path / f"photos{seed}", count=4, seed=seed)
        facts, _ = run(images, tmp_path / "out", replace(CONFIG, min_images=3))
        assert all(facts["counts"][split][label] >= 1 for split in facts["counts"] for label in facts["labels"])


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def hostile_folder(root: Path) -> None:
    """Good photos of every kind, and everything else that lies in folders of photos."""
    class_folders(root, labels=("a cat", "чашка 杯"), count=10)
    cat, cup = root / "a cat", root / "чашка 杯"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(1).save(cat / "turned.jpg", exif=exif)
    photo(2).convert("L").save(cat / "grey.png")
    photo(3).convert("P").save(cat / "palette.gif")
    photo(4).convert("RGBA").save(cat / "alpha.webp")
    photo(5).convert("CMYK").save(cat / "print.jpg")
    Image.fromarray(np.asarray(photo(6).convert("L")).astype(np.uint16) * 257).save(cat / "deep.png")
    photo(7).save(cat / "moving.gif", save_all=True, append_images=[photo(8), photo(9)])
    photo(10).save(cat / "UPPER.JPEG")
    (cat / "deeper" / "still").mkdir(parents=True)
    photo(11).save(cat / "deeper" / "still" / "photo.png")
    good = (cat / "00000.png").read_bytes()
    (cup / "empty.jpg").write_bytes(b"")
    (cup / "short.png").write_bytes(good[:len(good) // 2])
    photo(12, size=(400, 300)).save(cup / "cut.jpg")
    (cup / "cut.jpg").write_bytes((cup / "cut.jpg").read_bytes()[:2000])
    (cup / "page.jpg").write_text("<html>404</html>")
    (cup / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (cup / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (cup / "notes.txt").write_text("hello")
    (cup / "nosuffix").write_text("hello")
    (cup / ".DS_Store").write_bytes(b"x")
    (root / "Thumbs.db").write_bytes(b"x")
    photo(13).save(root / "loose.png")
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_bytes(good)
    (root / "__MACOSX" / "a cat").mkdir(parents=True)
    (root / "__MACOSX" / "a cat" / "._00000.png").write_bytes(b"x")
    (cup / "gone.png").symlink_to(root / "nowhere.png")
    (cup / "loop").symlink_to(root)
    (cup / "self.png").symlink_to(cup / "self.png")
    os.mkfifo(cup / "pipe.jpg")
    photo(14).save(cup / "bytes.png")
    os.rename(cup / "bytes.png", os.fsencode(cup) + b"/caf\xe9.png")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    hostile_folder(tmp_path / "photos")
    return tmp_path / "photos"


def test_hostile_folder(hostile: Path, tmp_path: Path) -> None:
    facts, rows = run(hostile, tmp_path / "out")
    assert facts["labels"] == ["a cat", "чашка 杯"]
    reasons = {s["path"]: s["reason"] for s in facts["skipped"]}
    cup = "чашка 杯"
    expected = {f"{cup}/empty.jpg": "empty", f"{cup}/short.png": "truncated", f"{cup}/cut.jpg": "truncated", f"{cup}/page.jpg": "not an image",
                f"{cup}/bomb.png": "megapixels", f"{cup}/phone.heic": "convert it to JPEG", f"{cup}/notes.txt": "not the name of an image", f"{cup}/nosuffix": "no suffix",
                f"{cup}/.DS_Store": "hidden", "Thumbs.db": "not the name", "loose.png": "not inside a class folder", ".git/x.png": "hidden",
                "__MACOSX/a cat/._00000.png": "hidden", f"{cup}/gone.png": "broken link", f"{cup}/self.png": "broken link", f"{cup}/loop": "a link to a folder around it",
                f"{cup}/pipe.jpg": "not a regular file"}
    assert set(reasons) == set(expected)
    for path, part in expected.items():
        assert part in reasons[path], (path, reasons[path])
    used = {name for name in rows if name.startswith("a cat/")} - {f"a cat/{i:05}.png" for i in range(10)}
    assert used == {f"a cat/{n}" for n in ("turned.jpg", "grey.png", "palette.gif", "alpha.webp", "print.jpg", "deep.png", "moving.gif", "UPPER.JPEG", "deeper/still/photo.png")}
    assert (rows["a cat/turned.jpg"]["width"], rows["a cat/turned.jpg"]["height"]) == ("30", "40")
    assert any(name.endswith("caf\udce9.png") for name in rows)
    assert facts["images"] + len(facts["skipped"]) == facts["found"] == files_below(hostile) + 1  # os.walk takes the loop for a folder


def test_hostile_folder_can_be_loaded_again(hostile: Path, tmp_path: Path) -> None:
    facts, _ = run(hostile, tmp_path / "out")
    loaded = [load_images(tmp_path / "out", split=split) for split in ("train", "validation", "test")]
    assert sum(map(len, loaded)) == facts["images"]
    assert all(path.is_file() for images in loaded for path in images.paths)


@pytest.mark.parametrize("make, message", [
    (lambda root: None, "does not exist"),
    (lambda root: root.mkdir(), "holds no photos"),
    (lambda root: photo(0).save(root.with_suffix(".png")) or root.symlink_to(root.with_suffix(".png")), "is one file"),
    (lambda root: [root.mkdir()] + [photo(i).save(root / f"{i}.png") for i in range(3)], "holds 3 photos and no class folders"),
    (lambda root: class_folders(root, labels=("cat",)), "one class 'cat'; a classifier needs at least 2"),
    (lambda root: class_folders(root / "inner"), r"one class 'inner'.*its folders cat, dog may be the classes: give .*/photos/inner"),
    (lambda root: class_folders(root) and (root / "emu").mkdir(), "at least 10 usable photos, but 'emu' has 0"),
    (lambda root: class_folders(root) and class_folders(root, labels=("emu",), count=9), "at least 10 usable photos, but 'emu' has 9"),
    (lambda root: class_folders(root) and [(root / "dog" / f"{i:05}.png").write_bytes(b"") for i in range(3)], r"'dog' has 9 \(of 12 files\).*skipped: 3 files.*empty"),
    (lambda root: class_folders(root / "train") and class_folders(root / "test", labels=("cat", "emu"), seed=50), "'emu' has no training photos"),
    (lambda root: class_folders(root / "test"), "no training photos"),
    (lambda root: class_folders(root / "val") and class_folders(root / "valid"), "several folders for one split"),
])
def test_unusable_sources_say_what_is_needed(make, message: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    with pytest.raises(DatasetError, match=message) as caught:
        run(tmp_path / "photos", tmp_path / "out")
    assert caught.value.hint
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("key, value", [("test", 0.0), ("validation", 0.0), ("test", -0.1), ("validation", 0.91), ("test", float("nan")), ("min_images", 1), ("max_megapixels", 0), ("near_duplicate_bits", 40)])
def test_config_that_cannot_be(key: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"\[dataset\] {key} is .*accepted"):
        run(class_folders(tmp_path / "photos"), tmp_path / "out", replace(CONFIG, **{key: value}))


def test_shares_that_leave_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"validation = 0.4 and test = 0.6 leave too little"):
        run(class_folders(tmp_path / "photos"), tmp_path / "out", replace(CONFIG, test=0.6, validation=0.4))


def test_shares_are_not_looked_at_where_the_folder_has_the_splits(tmp_path: Path) -> None:
    for number, side in enumerate(("train", "validation", "test")):
        class_folders(tmp_path / "photos" / side, seed=number)
    facts, _ = run(tmp_path / "photos", tmp_path / "out", replace(CONFIG, test=0.0, validation=0.0))
    assert all(sum(facts["counts"][side].values()) for side in ("train", "validation", "test"))


def test_one_photo_in_two_classes_is_reported(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos")
    shutil.copy(images / "cat/00004.png", images / "dog/copy.png")
    facts, rows = run(images, tmp_path / "out")
    assert rows["cat/00004.png"]["split"] == rows["dog/copy.png"]["split"]
    assert any("several classes, for example cat/00004.png and dog/copy.png" in w for w in facts["warnings"])


def test_one_scene_from_a_fixed_camera_is_divided_and_said(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos", count=30)
    for i in range(30):
        scene = photo(7777)
        scene.putpixel((i, 5), (255, 255, 255))
        scene.save(images / "dog" / f"{i:05}.png")
    facts, _ = run(images, tmp_path / "out")
    assert all(facts["counts"][split]["dog"] for split in ("train", "test"))
    assert any("30 photos look like dog/00000.png" in w for w in facts["warnings"])


def test_imbalance_and_resolution(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos", labels=("rare",), count=10)
    class_folders(images, labels=("common",), count=60, seed=5000)
    facts, _ = run(images, tmp_path / "out")
    assert facts["imbalance"] == {"ratio": 6.0, "largest": {"label": "common", "images": 60}, "smallest": {"label": "rare", "images": 10}}
    test = facts["splits"]["test"]
    assert (1 - facts["resolvable_drop_points"] / 100) ** test == pytest.approx(0.05, rel=0.01)
    assert facts["resolution"]["smallest_provable_drop_points"] == pytest.approx(500 / test, rel=1e-3)
    assert f"the same {test} photos" in facts["resolution"]["explanation"]


def test_csv(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "photos")
    lines = ["path,label"] + [f"photos/{label}/{i:05}.png,{label}" for label in ("cat", "dog") for i in range(12)] + ["photos/none.png,cat", "photos/cat/00001.png,", ",dog"]
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    facts, rows = run(tmp_path / "list.csv", tmp_path / "out")
    assert facts["images"] == 24 and str(images / "cat/00000.png") in rows
    assert [s["reason"].split(" (")[0] for s in facts["skipped"]] == ["no label", "no path", "file does not exist"]


def test_rows_of_a_csv_without_a_file_are_no_usable_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "photos")
    (tmp_path / "list.csv").write_text("\n".join([*(f"photos/cat/{i:05}.png,cat" for i in range(12)), *(f"photos/gone/{i}.png,b" for i in range(12))]))
    monkeypatch.setattr("edgepress.stages.dataset.decode_reduced", None)  # noticed before any is decoded
    with pytest.raises(DatasetError, match=r"but 'b' has 0 \(skipped: 12 files, for example photos/gone/11.png: file does not exist\)"):
        run(tmp_path / "list.csv", tmp_path / "out")


def test_too_few_files_are_noticed_before_any_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.stages.dataset.decode_reduced", None)
    with pytest.raises(DatasetError, match="'cat' has 9, 'dog' has 9"):
        run(class_folders(tmp_path / "photos", count=9), tmp_path / "out")


def test_raw_tensors_are_no_photos(tmp_path: Path) -> None:
    (tmp_path / "y_labels.csv").write_text("a.bin,2,1\n")
    with pytest.raises(DatasetError, match="raw tensors"):
        run(tmp_path / "y_labels.csv", tmp_path / "out")


@pytest.mark.slow
def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    facts, rows = run(Path("digits"), tmp_path / "out")
    assert facts["images"] == 1797 and facts["labels"] == [str(i) for i in range(10)] and facts["splits"]["test"] == 408
    (tmp_path / "out").rename(tmp_path / "moved")
    test = load_images(tmp_path / "moved", split="test")
    assert len(test) == 408 and all(path.is_file() for path in test.paths)
    grey = np.asarray(Image.open(test.paths[0]))
    assert grey.shape == (8, 8) and grey.max() == 255 and rows["images/0/0000.png"]["label"] == "0"


def test_digits_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match="scikit-learn"):
        run(Path("digits"), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name, copies", [("flowers", 5), ("cats_dogs", 0), ("mnist_png", 0)])
def test_real_photos(name: str, copies: int, shared_data, tmp_path: Path) -> None:
    facts, rows = run(shared_data(f"datasets/{name}"), tmp_path / "out")
    assert facts["skipped"] == [] and facts["splits"]["test"] == sum(n.startswith("test/") for n in rows)
    assert facts["duplicates"] + facts["near_duplicates"] == copies  # looked at: all five pairs of flowers are the same photo, one of them in grey
