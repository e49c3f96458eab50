"""The texts of a bundle for people and for other programs: README, licences, its small programs, requirements, the systemd unit."""
from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import edgepress
from edgepress import locks, verify
from edgepress.modelspec import SPEC_FILE, ModelSpec
from edgepress.report_text import milliseconds, percent, size
from edgepress.runtimes import load_runtime

Row = Mapping[str, Any]
PROGRAMS = {"run": "Say what is in photos: python run.py photo.jpg, python run.py folder/, python run.py --camera",
            "selftest": "Check that this bundle is whole and works on this machine: python selftest.py"}
NUMPY = {"tflite_runtime": "'numpy<2'"}  # its wheels were built against NumPy 1 and break with 2, although their metadata allows it
SHOWN_LABELS = 12


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with the same line ends everywhere."""
    path.write_text(text, encoding="utf-8", newline="\n")


def write_programs(out: Path) -> None:
    """Write run.py, selftest.py and verify.py."""
    for name, summary in PROGRAMS.items():
        write_text(out / f"{name}.py", _template("command.py", command=name, summary=summary))
    write_text(out / "verify.py", Path(verify.__file__).read_text(encoding="utf-8"))


def write_requirements(out: Path, runtimes: Sequence[str]) -> List[Tuple[str, str, str]]:
    """Write requirements/<runtime>-py<Python>-<machine>.txt, locked by hashes, for all combinations that have wheels; they are returned."""
    found = [lock for lock in locks.locked() if lock[0] in runtimes]
    if found:
        (out / "requirements").mkdir()
    for runtime, python, machine in found:
        write_text(out / "requirements" / f"{runtime}-py{python}-{machine}.txt", locks.lock_text(runtime, python, machine))
    return found


def write_service(out: Path, spec: ModelSpec) -> str:
    """Write service/<name>.service; the name."""
    slug = slug_of(spec.name)
    (out / "service").mkdir()
    write_text(out / "service" / f"{slug}.service", _template("service", slug=slug))
    return slug


def slug_of(name: str) -> str:
    """A name as part of paths, unit names and as the name of an app."""
    return re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-._")[:64] or "model"


def install_command(runtime: str) -> str:
    """What installs a runtime where pip may download the newest."""
    return f"python -m pip install {load_runtime(runtime).DISTRIBUTION} {NUMPY.get(runtime, 'numpy')} pillow"


def write_readme(out: Path, row: Row, spec: ModelSpec, about: Mapping[str, Any], *, golden: int, offline: bool, slug: str, web: bool = False) -> None:
    """Write README.md, LICENSES.md and the licence's text."""
    labels = ", ".join(spec.labels[:SHOWN_LABELS]) + (f" and {len(spec.labels) - SHOWN_LABELS} more (labels.txt)" if len(spec.labels) > SHOWN_LABELS else "")
    channels = f"{spec.input_type} [1, {spec.input_height}, {spec.input_width}, {spec.channels}]"
    input_text = channels + (", RGB 0–255, normalisation inside" if spec.normalization_inside else f", normalised by the program as `{SPEC_FILE}` says")
    others = "".join(f" Where pip has no package for this machine, `{name}` does it too: `{install_command(name)}`." for name in about["runtimes"][1:])
    reject = (f"It says `unknown` where the best class is less probable than {spec.reject_threshold:.0%}." if spec.reject_threshold is not None
              else "It has no reject threshold: it always names the best class, however improbable.")
    more = "".join(f"| `{entry['file']}` | {entry['variant']}, for {', '.join(entry['runtimes'])}: `--model {entry['file']}` |\n" for entry in about["models"][1:])
    texts = {"model": about["model"], "runtime": row["runtime"], "version": edgepress.__version__}
    write_text(out / "README.md", _template(
        "README.md", **texts, title=f"{spec.name}: {row['variant']}", classes=str(len(spec.labels)), labels=labels, golden=str(golden), input=input_text, others=others, slug=slug, more=more, reject=reject,
        runtimes=", ".join(about["runtimes"]), install=about["install"], offline="--no-index --find-links wheels " if offline else "",
        wheels="| `wheels/` | what the requirements name, so that nothing is downloaded |\n" if offline else "",
        web="| `web/` | a page that classifies in any browser, also offline: put the folder on any web server (https, for the camera) |\n" if web else "", facts="\n".join(f"- {fact}" for fact in _facts(row, about["why"]))))
    weights = f"The weights it started from ({spec.backbone or 'unknown backbone'}, {spec.weights or 'unknown weights'}): {spec.weights_license or 'licence not recorded'}."
    packed = "`wheels/` holds them as their makers published them, each under the licence inside it." if offline else "They are not part of this folder; pip installs them under their own licences."
    write_text(out / "LICENSES.md", _template("LICENSES.md", **texts, weights=weights, packed=packed))
    write_text(out / "LICENSE-Apache-2.0.txt", _resource("LICENSE-Apache-2.0.txt"))


def _facts(row: Row, why: str) -> List[str]:
    """Sentences for the README; figures only as measured."""
    facts = [f"Why this file: {why}", f"Right on {percent(row['accuracy'])} of {row['images']} test photos."]
    if row.get("verdict"):
        facts.append(f"Against the float model: {row['verdict']}.")
    facts += [f"{milliseconds(entry['median_ms'])} per photo (median of {entry['runs']} runs, {threads} thread{'s' if threads != '1' else ''}, in {row['runtime']}, on the machine that packed it)."
              for threads, entry in row["latency"].items()]
    return facts + [f"{size(row['size_bytes'])} on disk."]


def _template(name: str, **values: Optional[str]) -> str:
    return Template(_resource(f"{name}.txt")).substitute(values)


def _resource(name: str) -> str:
    return resources.files("edgepress").joinpath("bundle_templates", name).read_text(encoding="utf-8")
