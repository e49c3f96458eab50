"""Every kind of file a folder of photos may hold becomes the right RGB pixels, or one clear error."""
from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepress.errors import DatasetError
from edgepress.modelspec import ModelSpec
from edgepress.preprocess import UnusableImage, decode, decode_reduced, load_pixels, to_pixels


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixel(data: bytes, x: int = 0, y: int = 0) -> tuple:
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def corners() -> Image.Image:
    """6 wide, 4 high; red top left, green top right, blue bottom left."""
    image = Image.new("RGB", (6, 4), "white")
    for at, color in (((0, 0), "red"), ((5, 0), "lime"), ((0, 3), "blue")):
        image.putpixel(at, {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}[color])
    return image


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation: int, form: str) -> None:
    undo = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
    stored = corners().transpose(undo[orientation]) if orientation > 1 else corners()
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright, size = decode_reduced(encoded(stored, form, exif=exif), side=2)
    assert upright.size == size == (6, 4)
    assert np.array_equal(np.asarray(upright), np.asarray(corners()))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_photo() -> None:
    data = encoded(corners(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff junk")
    assert decode(data).size == (6, 4)


@pytest.mark.parametrize("mode, color, form, expected", [
    ("L", 200, "PNG", (200, 200, 200)),
    ("1", 1, "PNG", (255, 255, 255)),
    ("LA", (0, 0), "PNG", (255, 255, 255)),
    ("LA", (100, 255), "PNG", (100, 100, 100)),
    ("RGBA", (255, 0, 0, 0), "PNG", (255, 255, 255)),
    ("RGBA", (0, 0, 0, 128), "PNG", (127, 127, 127)),
    ("RGBA", (10, 20, 30, 255), "WEBP", (10, 20, 30)),
    ("CMYK", (0, 0, 0, 255), "TIFF", (0, 0, 0)),
    ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
    ("YCbCr", (255, 128, 128), "JPEG", (255, 255, 255)),
    ("F", 0.5, "TIFF", (127, 127, 127)),
])
def test_modes(mode: str, color: object, form: str, expected: tuple) -> None:
    data = encoded(Image.new(mode, (5, 3), color), form, **({"lossless": True} if form == "WEBP" else {}))
    assert pixel(data) == expected


def test_cmyk_jpeg_is_not_inverted() -> None:
    assert max(pixel(encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG"))) < 8
    assert min(pixel(encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG"))) > 247


def test_palette_with_a_transparent_color_is_laid_on_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7] + [0] * 762)
    assert pixel(encoded(image, "PNG")) == (9, 8, 7)
    assert pixel(encoded(image, "PNG", transparency=1)) == (255, 255, 255)
    assert pixel(encoded(image, "GIF", transparency=1)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_is_scaled_and_not_clipped(form: str) -> None:
    ramp = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert ramp.mode == "I;16"
    assert np.array_equal(np.asarray(decode(encoded(ramp, form)))[..., 0].ravel(), np.arange(256))


def test_16_bit_color_keeps_its_high_byte() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    row = b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0x0100)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert pixel(data) == (255, 128, 1)


def test_32_bit_integers_are_scaled() -> None:
    image = Image.fromarray(np.array([[0, 65535], [-5, 32896]], np.int32))
    assert np.asarray(decode(encoded(image, "TIFF")))[..., 0].tolist() == [[0, 255], [0, 128]]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    assert pixel(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)) == (255, 0, 0)


def bomb_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_bomb_is_refused_from_its_header_without_a_warning(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnusableImage, match="more than the 64 accepted"):
            decode(bomb_header(side, side))


def test_pixel_limit_is_the_callers() -> None:
    data = encoded(Image.new("L", (200, 100)), "PNG")
    assert decode(data, max_pixels=20_000).size == (200, 100)
    with pytest.raises(UnusableImage, match="200x100"):
        decode(data, max_pixels=19_999)


@pytest.mark.parametrize("damage, reason", [
    (lambda data: b"", "damaged|empty|not an image"),
    (lambda data: data[:len(data) // 2], "truncated"),
    (lambda data: b"<html>not found</html>", "not an image"),
    (lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    (lambda data: b"\0\0\0\x18ftypheic" + bytes(40), "convert it to JPEG"),
])
def test_damaged_files_say_so(damage, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file.write_bytes(damage(encoded(Image.fromarray(noise), "JPEG")))
    with pytest.raises(DatasetError, match=reason) as caught:
        decode(file)
    assert "photo.jpg" in str(caught.value)
    assert "photo.jpg" not in caught.value.reason


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UnusableImage, match="cannot be read"):
            decode(path)


@pytest.mark.filterwarnings("ignore")
def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8))
    for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        good = np.frombuffer(encoded(image, form), np.uint8)
        for _ in range(40):
            bad = good.copy()
            bad[rng.integers(0, len(bad), 6)] = rng.integers(0, 255, 6)
            try:
                assert decode(bad[:rng.integers(1, len(bad) + 1)].tobytes(), max_pixels=10_000).mode == "RGB"
            except UnusableImage:
                pass  # refusing is right too; anything else fails the test


def halves(width: int, height: int) -> Image.Image:
    """Left half black, right half white."""
    values = np.zeros((height, width, 3), np.uint8)
    values[:, width // 2:] = 255
    return Image.fromarray(values)


def test_stretch_keeps_everything_and_ignores_the_aspect() -> None:
    pixels = to_pixels(halves(400, 100), size=(50, 50), resize="stretch")
    assert pixels.shape == (50, 50, 3) and pixels.dtype == np.uint8 and pixels.flags.writeable
    assert pixels[:, :24].max() == 0 and pixels[:, 26:].min() == 255


def test_crop_takes_the_center() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    assert to_pixels(image, size=(40, 40), resize="crop")[:, 1:-1].min() == 255
    assert to_pixels(image.rotate(90, expand=True), size=(40, 40), resize="crop")[1:-1].min() == 255


def test_pad_keeps_the_aspect_between_black_bars() -> None:
    pixels = to_pixels(Image.new("RGB", (200, 100), "white"), size=(40, 40), resize="pad")
    rows = pixels[:, :, 0].min(axis=1)
    assert rows.tolist() == [0] * 10 + [255] * 20 + [0] * 10


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("source", [(1, 1), (1, 900), (900, 1), (37, 53), (2000, 1500)])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 32)])
def test_every_size_comes_out_right(resize: str, source: tuple, size: tuple) -> None:
    pixels = to_pixels(Image.new("RGB", source, (9, 90, 200)), size=size, resize=resize)
    assert pixels.shape == size + (3,)
    middle = pixels[(size[0] - 1) // 2, (size[1] - 1) // 2].astype(int)
    assert np.abs(middle - (9, 90, 200)).max() <= 2  # Pillow's box reduction rounds down over boxes of 10^5 pixels


def test_reduction_does_not_alias() -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = to_pixels(Image.fromarray(stripes), size=(30, 30))
    assert 120 <= pixels.min() and pixels.max() <= 135


def test_resize_rule_must_exist() -> None:
    with pytest.raises(ValueError, match="accepted: stretch, crop, pad"):
        to_pixels(Image.new("RGB", (2, 2)), size=(1, 1), resize="squash")


def test_load_pixels_follows_the_spec(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    halves(40, 20).save(file)
    spec = ModelSpec(labels=("a", "b"), input_height=10, input_width=30, resize="pad")
    assert np.array_equal(load_pixels(file, spec), to_pixels(decode(file), size=(10, 30), resize="pad"))
    assert np.array_equal(load_pixels(file, spec), load_pixels(file.read_bytes(), spec))


def large(form: str = "JPEG", orientation: int = 1) -> bytes:
    rng = np.random.default_rng(3)
    smooth = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((2600, 2000), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"save_all": True, "append_images": [smooth]} if form == "MPO" else {}
    return encoded(smooth, form, quality=90, exif=exif, **options)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["JPEG", "MPO"])
@pytest.mark.parametrize("orientation, whole", [(1, (2600, 2000)), (6, (2000, 2600))])
def test_large_jpeg_is_decoded_smaller_and_comes_out_the_same(form: str, orientation: int, whole: tuple) -> None:
    data = large(form, orientation)
    image, size = decode_reduced(data, side=224)
    assert size == whole == decode(data).size and image.size == (whole[0] // 2, whole[1] // 2)
    for resize in ("stretch", "crop", "pad"):
        spec = ModelSpec(labels=(), input_height=224, input_width=192, resize=resize)
        difference = np.abs(load_pixels(data, spec).astype(int) - to_pixels(decode(data), size=spec.size, resize=resize).astype(int))
        assert difference.max() <= 3 and difference.mean() < 0.3


def test_small_jpeg_and_other_formats_are_decoded_whole() -> None:
    small = encoded(Image.new("RGB", (1199, 1100)), "JPEG")
    assert decode_reduced(small, side=32)[0].size == (1199, 1100)
    assert decode_reduced(encoded(Image.new("L", (1300, 1300)), "PNG"), side=32)[0].size == (1300, 1300)


def test_truncated_large_jpeg_is_noticed_when_decoded_smaller() -> None:
    data = large()
    with pytest.raises(UnusableImage, match="truncated"):
        decode_reduced(data[:len(data) * 9 // 10], side=32)
