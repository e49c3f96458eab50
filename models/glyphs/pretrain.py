"""Pretrain the embedded `glyphs` backbone on rendered letters and digits: python models/glyphs/pretrain.py

Every picture is made here from free fonts (fonts.txt): a letter is drawn once per font and then bent, thickened, blurred, lowered in
resolution, colored and inverted anew for every training step, so no two steps see the same picture.
"""
from __future__ import annotations

import argparse
import importlib.util
import string
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgepress.backbones import build_backbone
from edgepress.tf import import_tensorflow, set_deterministic, set_threads
from edgepress.weightfiles import write_npz

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parents[1] / "src" / "edgepress" / "data" / "glyphs_32.npz"
CHARACTERS = string.digits + string.ascii_letters
SAME_SHAPE = "cosuvwxzkp"  # a lower-case letter that is its capital made smaller counts as the capital
SIZE, MASTER = 32, 64  # pixels of a training picture and of a drawn letter


def class_names() -> List[str]:
    """The classes: digits and letters, with letters of one shape in both cases together."""
    return [c for c in CHARACTERS if c not in SAME_SHAPE]


def font_files() -> List[Path]:
    """Every upright or slanted font file of the packages in fonts.txt, in a fixed order."""
    files: List[Path] = []
    for line in (HERE / "fonts.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("font"):
            package = line.split("==")[0].replace("-", "_")
            spec = importlib.util.find_spec(package)
            if spec is None:
                raise SystemExit(f"the fonts are not installed: python -m pip install -r {HERE / 'fonts.txt'}")
            folder = Path(spec.submodule_search_locations[0]) / "files"
            files += sorted({p.stem: p for p in sorted(folder.glob("*.[ot]tf"))}.values())
    return files


def draw(character: str, font: ImageFont.FreeTypeFont, stroke: int) -> np.ndarray:
    """One letter, white on black, float32 [MASTER, MASTER] in 0..1, its ink scaled to 44 pixels high and centered."""
    canvas = Image.new("L", (3 * MASTER, 3 * MASTER))
    ImageDraw.Draw(canvas).text((MASTER, MASTER), character, fill=255, font=font, stroke_width=stroke)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font draws nothing for {character!r}")
    ink = canvas.crop(box)
    scale = 44 / max(ink.height, ink.width * 0.8)
    ink = ink.resize((max(2, round(ink.width * scale)), max(2, round(ink.height * scale))), Image.Resampling.BILINEAR)
    picture = Image.new("L", (MASTER, MASTER))
    picture.paste(ink, ((MASTER - ink.width) // 2, (MASTER - ink.height) // 2))
    return np.asarray(picture, dtype=np.float32) / 255


def draw_all() -> Tuple[np.ndarray, np.ndarray]:
    """Letters of every font at two stroke widths: pictures [N, MASTER, MASTER] and classes [N]."""
    pictures, classes, names = [], [], class_names()
    loaded = [ImageFont.truetype(str(path), 48) for path in font_files()] + [ImageFont.load_default(48)]
    for font in loaded:
        for stroke in (0, 2):
            for character in CHARACTERS:
                pictures.append(draw(character, font, stroke))
                classes.append(names.index(character.upper() if character in SAME_SHAPE else character))
    return np.stack(pictures), np.asarray(classes)


def bend(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random affine map and smooth bending of [N, MASTER, MASTER], sampled at [N, SIZE, SIZE] (bilinear)."""
    count = len(pictures)
    y, x = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
    angle, shear = rng.normal(0, 0.14, count), rng.normal(0, 0.18, count)
    sx, sy = rng.uniform(0.68, 1.35, count), rng.uniform(0.68, 1.25, count)
    tx, ty = rng.normal(0, 0.08, (2, count))
    cos, sin = np.cos(angle), np.sin(angle)
    u = (cos * sx)[:, None, None] * x + ((shear - sin) * sx)[:, None, None] * y + tx[:, None, None]
    v = (sin * sy)[:, None, None] * x + (cos * sy)[:, None, None] * y + ty[:, None, None]
    smooth = np.stack([np.sin(np.pi * (k * np.linspace(0, 1, SIZE)[:, None] + p)) for k, p in ((0.7, 0), (1, 0.5), (2, 0), (2, 0.5))])[..., 0]
    weights = rng.normal(0, 0.07, (2, count, 4, 4))
    fields = np.einsum("cnij,ih,jw->cnhw", weights, smooth, smooth)
    u, v = (u + fields[0] + 1) * (MASTER - 1) / 2, (v + fields[1] + 1) * (MASTER - 1) / 2
    return sample(pictures, np.clip(v, 0, MASTER - 1.001), np.clip(u, 0, MASTER - 1.001))


def sample(pictures: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear values of [N, H, W] at fractional [N, h, w] rows and columns."""
    n = np.arange(len(pictures))[:, None, None]
    r, c = rows.astype(np.int64), columns.astype(np.int64)
    fr, fc = (rows - r).astype(np.float32), (columns - c).astype(np.float32)
    top = pictures[n, r, c] * (1 - fc) + pictures[n, r, c + 1] * fc
    bottom = pictures[n, r + 1, c] * (1 - fc) + pictures[n, r + 1, c + 1] * fc
    return top * (1 - fr) + bottom * fr


def low_resolution_maps() -> np.ndarray:
    """[K, SIZE, SIZE] matrices: average down to k pixels and enlarge again, as photos of small digits were."""
    eye = Image.fromarray(np.eye(SIZE, dtype=np.float32))
    return np.stack([np.asarray(eye.resize((SIZE, k), Image.Resampling.BOX).resize((SIZE, SIZE), kind))
                     for k in (8, 8, 10, 12, 14, 16, 20, 24, 28, 32) for kind in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)])


def color(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink [N, SIZE, SIZE] in 0..1 to RGB pictures in -1..1: contrast, colors or grey, gradients, noise."""
    count = len(ink)
    ink = np.clip(ink * rng.uniform(0.7, 1.8, (count, 1, 1)), 0, 1) ** rng.uniform(0.6, 1.6, (count, 1, 1))
    grey = rng.random((count, 1)) < 0.6
    pure = rng.random((count, 1)) < 0.5
    back, front = (np.where(grey, rng.random((count, 1)), rng.random((count, 3))) for _ in range(2))
    close = np.abs(back.mean(1) - front.mean(1)) < 0.3
    front[close] = (front[close] + 0.5) % 1.0
    invert = (rng.random((count, 1)) < 0.35).astype(np.float64)
    back, front = np.where(pure, invert, back), np.where(pure, 1 - invert, front)
    picture = back[:, None, None] + (front - back)[:, None, None] * ink[..., None]
    slope = np.linspace(-0.5, 0.5, SIZE)
    light = rng.normal(0, 0.12, (count, 2)) * ~pure
    picture = picture + (light[:, 0, None, None] * slope[:, None] + light[:, 1, None, None] * slope)[..., None]
    noise = rng.normal(0, 1, picture.shape) * (rng.uniform(0, 0.08, (count, 1, 1, 1)) * (rng.random((count, 1, 1, 1)) < 0.5))
    return np.clip((picture + noise) * 2 - 1, -1, 1).astype(np.float32)


def batches(seed: int, size: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Endless batches of (pictures [size, 32, 32, 3] in -1..1, classes [size])."""
    pictures, classes = draw_all()
    rng, maps = np.random.default_rng(seed), low_resolution_maps()
    digits = np.flatnonzero(classes < 10)
    while True:
        chosen = np.concatenate([rng.choice(digits, size // 4), rng.integers(0, len(classes), size - size // 4)])
        ink = bend(pictures[chosen], rng)
        down = maps[rng.integers(0, len(maps), size)]
        yield color(np.einsum("nij,njk,nlk->nil", down, ink, down, optimize=True), rng), classes[chosen]


def train(steps: int, batch: int, seed: int) -> object:
    """Train backbone and classifier; returns the backbone."""
    tensorflow, keras = import_tensorflow()
    set_deterministic(seed)
    backbone = build_backbone("glyphs_32", weights="none").model
    model = keras.Model(backbone.input, keras.layers.Dense(len(class_names()), name="letters")(backbone.output))
    rate = keras.optimizers.schedules.CosineDecay(1e-5, steps - 100, warmup_target=4e-3, warmup_steps=100, alpha=0.01)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    shapes = (tensorflow.TensorSpec((batch, SIZE, SIZE, 3)), tensorflow.TensorSpec((batch,), tensorflow.int64))
    data = tensorflow.data.Dataset.from_generator(lambda: batches(seed, batch), output_signature=shapes).prefetch(4)
    rounds = 10
    model.fit(data, steps_per_epoch=steps // rounds, epochs=rounds, verbose=2)
    return backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--preview", type=Path, help="write a sheet of training pictures here and stop")
    arguments = parser.parse_args()
    set_threads(2)
    if arguments.preview:
        pictures, _ = next(batches(arguments.seed, 256))
        sheet = ((pictures.reshape(16, 16, SIZE, SIZE, 3).transpose(0, 2, 1, 3, 4).reshape(512, 512, 3) + 1) * 127.5).astype(np.uint8)
        Image.fromarray(sheet).save(arguments.preview)
        return
    started = time.monotonic()
    write_npz(arguments.output, train(arguments.steps, arguments.batch, arguments.seed))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
