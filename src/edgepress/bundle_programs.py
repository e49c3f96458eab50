"""What a bundle's run.py and selftest.py do. Standard library only, Python 3.9: NumPy, Pillow and the runtime live in child processes."""
from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from edgepress.bundle_files import WORKER, check_files, check_golden, format_answer, install_command, read_manifest, select_model
from edgepress.errors import ArtifactError, EdgepressError, JobError, UnsupportedError

PHOTOS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")  # taken from a folder
# The folder it is started in is not searched: nothing that lies about is imported.
_CHILD = """
import sys
sys.path[:] = [sys.argv[1]] + [p for p in sys.path if p]
import json
try:
    from edgepress.bundle_live import main
except ImportError as error:
    print(json.dumps({"missing": str(error)}))
    sys.exit(1)
sys.exit(main(sys.argv[2], json.loads(sys.argv[3])))
"""


def run_main(folder: Path, arguments: Optional[Sequence[str]] = None) -> int:
    """`python run.py PHOTO_OR_FOLDER… | --camera`: answers on stdout, the rest on stderr; 0 where every photo got an answer."""
    manifest = read_manifest(folder)
    parser = argparse.ArgumentParser(prog="run.py", description="Say what is in photos, in all photos of a folder, or in front of the camera.")
    parser.add_argument("photos", nargs="*", metavar="PHOTO_OR_FOLDER", help="image files, or folders of them")
    parser.add_argument("--camera", action="store_true", help="frames of the Raspberry Pi's camera, until interrupted (needs picamera2)")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="shortest time from one frame to the next (default: 1)")
    parser.add_argument("--count", type=_positive, help="frames, then stop")
    parser.add_argument("--top", type=_positive, default=3, help="classes to show (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON document; of the camera, one each line")
    _add_options(parser, manifest)
    given = parser.parse_args(arguments)
    if given.camera == bool(given.photos):
        parser.error("give photos, folders, or --camera alone")
    if given.runtime and given.runtime not in select_model(manifest, given.model)["runtimes"]:
        parser.error(f"runtime {given.runtime} does not open {given.model or manifest['model']}")
    options = {"photos": _find_photos(given.photos), "camera": given.camera, "interval": given.interval, "count": given.count, "top": given.top,
               "runtime": given.runtime, "threads": given.threads, "model": given.model}
    lines = []
    for line in _answers(folder, options):
        if "problem" in line:
            sys.stderr.write(f"{line['photo']} cannot be used: {line['problem']}\n")
        elif not given.json:
            print(format_answer(line), flush=True)
        if given.json and given.camera:  # it has no end: a line each
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif not given.camera:
            lines.append(line)
    if given.json and not given.camera:
        print(json.dumps(lines, indent=2, ensure_ascii=False))
    return 1 if any("problem" in line for line in lines) else 0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to a day")
    return value


def _find_photos(given: Sequence[str]) -> List[str]:
    """Each file given, and each image file of each folder given, in the order of their names."""
    found: List[str] = []
    for place in given:
        if os.path.isdir(place):
            inside = sorted(name for name in os.listdir(place) if name.lower().endswith(PHOTOS) and os.path.isfile(os.path.join(place, name)))
            if not inside:
                raise EdgepressError(f"{place} has no image files in it; accepted: names that end in {', '.join(PHOTOS)}", "folders inside it are not searched: give them too")
            found += [os.path.join(place, name) for name in inside]
        elif os.path.isfile(place):
            found.append(place)
        else:
            raise EdgepressError(f"{place} does not exist", "give the path of an image file, or of a folder of them")
    return found


def _answers(folder: Path, options: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
    """Lines of the child process, as they come.

    Raises:
        EdgepressError: what the child says is wrong, or how it died.
    """
    command = [sys.executable, "-c", _CHILD, str(folder / WORKER), str(folder), json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace") as child:
        assert child.stdout is not None
        try:
            for text in child.stdout:
                line = json.loads(text)
                if "missing" in line:
                    raise UnsupportedError(f"{sys.executable} lacks what the model needs ({line['missing']})", "install it: " + install_command(folder, read_manifest(folder)))
                if "error" in line:
                    raise EdgepressError(line["error"])
                yield line
        except KeyboardInterrupt:
            return  # the terminal interrupted the child as well
        finally:
            child.stdout.close()
        if child.wait() != 0:
            raise JobError("the process that runs the model " + (f"was ended by {signal.Signals(-child.returncode).name}" if child.returncode < 0 else f"ended with exit code {child.returncode}"),
                           hint="its own words stand above; run selftest.py")


def selftest_main(folder: Path, arguments: Optional[Sequence[str]] = None) -> int:
    """`python selftest.py`: 0 where every file is whole and the model answers as it did when it was packed, otherwise 1."""
    parser = argparse.ArgumentParser(prog="selftest.py", description="Check that this bundle is whole and that its model works on this machine.")
    parser.add_argument("--key", help="public key of the signer (PEM): check the signature too. Where the bundle itself may be false, use a copy of verify.py that you trust instead")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_options(parser, read_manifest(folder))
    given = parser.parse_args(arguments)
    report: Dict[str, Any] = {"passed": False, "problems": check_files(folder), "runtime": None, "signed_by": None, "notes": []}
    lines: List[str] = []
    if not report["problems"] and given.key:
        _check_signature(folder, given.key, report)
    if not report["problems"]:
        lines.append(f"files   ok: {len(read_manifest(folder)['files'])} files are byte for byte what was {'signed' if given.key else 'packed'}")
        _check_answers(folder, given, report, lines)
    report["passed"] = not report["problems"]
    lines += [f"FAILED  {problem}" for problem in report["problems"]] + [f"note    {note}" for note in report["notes"]]
    print(json.dumps(report, indent=2) if given.json else "\n".join(lines))
    return 0 if report["passed"] else 1


def _check_signature(folder: Path, key: str, report: Dict[str, Any]) -> None:
    from edgepress.verify import NotVerified, verify

    try:
        report["signed_by"] = verify(str(folder), key)["key"]
    except NotVerified as error:
        report["problems"] = [str(error)]


def _check_answers(folder: Path, given: argparse.Namespace, report: Dict[str, Any], lines: List[str]) -> None:
    """The golden photos through the main model, then through those beside it that run here."""
    manifest = read_manifest(folder)
    models = [given.model] if given.model else [manifest["model"], *(entry["file"] for entry in manifest.get("models", ()) if entry["file"] != manifest["model"])]
    for model in models:
        fits = given.runtime in select_model(manifest, model)["runtimes"] if given.runtime else True
        try:
            problems, result = check_golden(folder, runtime=given.runtime if fits else None, threads=given.threads, model=model)
        except UnsupportedError as error:
            if model == models[0]:
                raise
            report["notes"].append(f"{model} was not checked: {error.message}")
            continue
        if model == models[0]:
            report["runtime"] = result["runtime"]
        report["problems"] += problems if len(models) == 1 else [f"{model}: {problem}" for problem in problems]
        if not problems:
            lines.append(f"answers ok: {result['rows']} photos give the expected answers in {result['runtime']['name']} {result['runtime']['version']}" + (f" ({model})" if len(models) > 1 else ""))


def _add_options(parser: argparse.ArgumentParser, manifest: Mapping[str, Any]) -> None:
    models = [entry["file"] for entry in manifest.get("models", ())] or [manifest["model"]]
    runtimes = sorted({name for entry in manifest.get("models", ()) for name in entry["runtimes"]} | set(manifest["runtimes"]))
    parser.add_argument("--model", choices=models, help=f"default: {manifest['model']}")
    parser.add_argument("--runtime", choices=runtimes, help="default: the first one of the model's that works here")
    parser.add_argument("--threads", type=_positive, default=1, help="threads of the runtime (default: 1)")


def run_command(command: Callable[[Path], int], folder: Path) -> int:
    """Run one of the programs above; errors of the user or the machine become one line on stderr and exit code 1."""
    try:
        return command(folder)
    except EdgepressError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError, OSError) as error:  # golden.json or model.json of somebody else's making, a disk that fails
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        sys.stderr.write(f"Error: {ArtifactError(f'the bundle in {folder} cannot be used ({type(error).__name__}: {error})', 'run selftest.py, or copy the whole folder again')}\n")
        return 1
    except KeyboardInterrupt:
        return 130
