"""Every command and recipe in the documents is parsed: options that do not exist, or moved, are found here."""
from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edgepress.cli import cli
from edgepress.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(p for pattern in ("*.md", "docs/*.md", "models/*/README.md", "benchmarks/*.md", "device/*.md", "device/*/README.md") for p in ROOT.glob(pattern))


def commands(document: Path) -> list:
    """`edgepress …` lines in code blocks (fenced or indented) and in back quotes; a trailing comment is cut."""
    text = document.read_text(encoding="utf-8")
    lines = [line.strip() for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines += [line.strip() for line in text.splitlines() if line.startswith("    ")] + re.findall(r"`(edgepress [^`]+)`", text)
    cut = [re.split(r"\s+#", line)[0] for line in lines if line.startswith("edgepress ") and "…" not in line and "..." not in line]
    return list(dict.fromkeys(part.strip() for line in cut for part in re.split(r"\s{3,}|&&", line) if part.strip().startswith("edgepress ")))


def test_the_documents_show_commands() -> None:
    assert len(commands(ROOT / "README.md")) >= 10


@pytest.mark.parametrize("document, line", [(d, line) for d in DOCUMENTS for line in commands(d)], ids=lambda v: v if isinstance(v, str) else v.name)
def test_every_documented_command_parses(document: Path, line: str) -> None:
    words = shlex.split(line)[1:]
    if words[0] in ("--help", "-h", "--version"):
        return
    command = cli.commands[words[0]]
    if {"-h", "--help"} & set(words):
        return
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("models/*/recipe.toml")), ids=lambda p: p.parent.name)
def test_every_recipe_loads(recipe: Path) -> None:
    assert load_recipe(recipe).images
