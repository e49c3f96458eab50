"""The command line: parse, call one function, print. Commands are made from the stage table."""
from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import click

from edgepress import __version__, cli_benchmark
from edgepress.cli_bundle import bundle, keygen, verify
from edgepress.cli_device import device
from edgepress.cli_limits import limits
from edgepress.errors import DeviceError, EdgepressError, GateError, UnsupportedError
from edgepress.modelspec import NORMALIZATIONS
from edgepress.options import CommaList, config_from, config_options
from edgepress.progress import TerminalLine, drawn_progress
from edgepress.recipe import BenchmarkConfig, CertifyConfig, ConvertConfig, FinetuneConfig, QuantizeConfig
from edgepress.stages import STAGES, Stage

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
FILE = click.Path(path_type=Path)
RESULTS = {"evaluate": "evaluation.json", "certify": "certificate.json", "benchmark": "measurements.json", "report": "report.json", "dataset": "dataset.json",
           "finetune": "training.json", "prune": "training.json", "convert": "conversion.json", "quantize": "quantization.json"}
BESIDE = ("evaluate", "certify", "benchmark")  # stages whose result goes beside the model where no -o is given


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, "--version", prog_name="edgepress")
def cli() -> None:
    """Give it a folder of photos and a budget; it gives back a file proven on the device, or says why there is none.

    \b
    Start with your own photos, one folder per class:
      edgepress run photos/ -o runs/photos
    or look at one stage at a time:
      edgepress dataset photos/ -o work/dataset
    """


def _stage_command(stage: Stage) -> click.Command:
    def body(out: Optional[Path], as_json: bool, again: bool, **values: Any) -> None:
        inputs = {i.role: list(values[i.role]) if i.many else values[i.role] for i in stage.inputs}
        config = config_from(stage.config, values, command=stage.name)
        paths, failure = _run_command(stage, inputs, config, out, again)
        try:
            _print_results(stage, paths, as_json, many=stage.name != "benchmark" and "," in str(getattr(config, "target", "")))
        except GateError as error:
            error.message += f" (and {failure.message})" if failure is not None else ""
            raise
        if failure is not None:
            raise failure

    body.__doc__ = stage.help
    body = config_options(stage.config)(body)
    body = click.option("--again", is_flag=True, help="do it again even if the result is there")(body)
    body = click.option("--json", "as_json", is_flag=True, help="print one JSON document")(body)
    text = "folder (or model file) to make" + ("; default: beside the model" if stage.name in BESIDE else "")
    body = click.option("-o", "--out", type=FILE, required=stage.name not in BESIDE + ("report",), help=text)(body)
    for declared in reversed(stage.inputs):
        if declared.flag:
            body = click.option(declared.flag, declared.role, type=FILE, required=not declared.optional, help=declared.help)(body)
        else:
            body = click.argument(declared.role, type=FILE, nargs=-1 if declared.many else 1, required=True)(body)
    return click.command(stage.name)(body)


def _run_command(stage: Stage, inputs: Dict[str, Any], config: Any, out: Optional[Path], again: bool) -> Tuple[List[Path], Optional[EdgepressError]]:
    from edgepress.single import run_on_targets

    with drawn_progress():
        return run_on_targets(stage, inputs, config, out=out, again=again)


def _print_results(stage: Stage, paths: List[Path], as_json: bool, *, many: bool) -> None:
    from edgepress.summaries import summarize

    documents = [_document(stage, path) for path in paths]
    if as_json and documents:
        click.echo(json.dumps(documents if many else documents[0], indent=2, ensure_ascii=False))
    for path, document in zip(paths, documents):
        if not as_json:
            click.echo(summarize(stage.name, document, path))
    for document in documents:
        _judge(stage, document)


def _document(stage: Stage, path: Path) -> Any:
    folder = path if path.is_dir() else path.with_name(path.name + ".json")
    return json.loads((folder / RESULTS[stage.name] if folder.is_dir() else folder).read_text(encoding="utf-8"))


def _judge(stage: Stage, document: Any) -> None:
    """Raise where the result of a command is a refusal."""
    if stage.name == "benchmark" and all(record["status"] != "ok" for record in document):
        raise UnsupportedError("nothing was measured", "the reasons stand in the table; `edgepress runtimes` says what works here")
    if stage.name == "benchmark":
        _require_reached(document)
    if stage.name == "certify" and document["certified"] is not True:
        raise GateError(f"{document['file']} is not certified", "the reason stands above; allow more with --max-drop, use more test images, or try another scheme")


def _require_reached(records: Any) -> None:
    """Nothing, where no target was lost as a whole: a row that says so is no success for who waits for the exit code."""
    from edgepress.device_use import lost_target

    lost = lost_target(records)
    if lost is not None:
        raise DeviceError(f"nothing was measured on {lost[0]}: {lost[1][0]['reason']}", "what was measured elsewhere is kept")


for _stage in STAGES.values():
    if _stage.name != bundle.name:  # its result is no artifact but a folder or a file for others
        cli.add_command(_stage_command(_stage))
cli_benchmark.extend_benchmark(cli.commands["benchmark"])
cli_benchmark.extend_report(cli.commands["report"])
cli.add_command(cli_benchmark.compare)
cli.add_command(limits)
for _command in (bundle, verify, keygen):
    cli.add_command(_command)


@cli.command()
@click.argument("source", metavar="PHOTOS_OR_RECIPE", type=FILE)
@click.option("-o", "--out", type=FILE, help="folder of the run  [default: runs/<name of the source>]")
@click.option("--dry-run", is_flag=True, help="print the commands that would do the same, and stop")
@click.option("--json", "as_json", is_flag=True, help="print the report as one JSON document")
@click.option("--schemes", type=CommaList(str), help="quantization schemes to try in every format")
@click.option("--runtimes", type=CommaList(str), help="runtimes that evaluate and benchmark  [default: every installed one]")
@click.option("--sparsity", type=float, help="prune too: share of zero weights in each pruned layer, 0-1")
@config_options(FinetuneConfig)
@config_options(ConvertConfig, only=("formats", "opset"))
@config_options(QuantizeConfig, only=("samples", "profile"))
@config_options(CertifyConfig, only=("max_drop",))
@config_options(BenchmarkConfig, only=("threads", "min_runs", "min_seconds"))
def run(source: Path, out: Optional[Path], dry_run: bool, as_json: bool, **values: Any) -> None:
    """From photos (or a recipe) to compared, certified files: every stage, in order.

    PHOTOS_OR_RECIPE is a folder with one folder of photos per class, a CSV of path,label, the word digits, or a recipe .toml.
    """
    from edgepress.pipeline import Runner, commands, plan
    from edgepress.single import build_recipe, runtimes_by_format

    recipe = build_recipe(source, values)
    steps = plan(recipe, runtimes=runtimes_by_format(recipe))
    out = out or Path("runs") / (source.resolve().name if source.suffix == ".toml" else source.name)
    if dry_run:
        click.echo("\n".join(commands(steps, out)))
        return
    with drawn_progress() as line:
        runner = Runner(recipe, out, on_step=_Steps(line, len(steps) + 2))
        try:
            runner.run(steps)
        finally:
            line.close()
            if "report" in runner.artifacts:
                _print_report(out / "report", as_json)
    if not as_json:
        click.echo(f"bundle: {out / 'bundle'}")


class _Steps:
    """Shows each step's progress while it runs and its outcome when it ends."""

    def __init__(self, line: TerminalLine, total: int) -> None:
        self.line, self.total, self.done = line, total, 0

    def __call__(self, name: str, status: str, seconds: float) -> None:
        if status == "start":
            self.line.prefix = f"{name}: "
            return
        self.done += 1
        self.line.close()
        click.echo(f"[{self.done:2}/{self.total}] {name:44} {status.splitlines()[0][:160]}  {seconds:6.1f} s", err=True)


def _print_report(folder: Path, as_json: bool) -> None:
    if as_json:
        click.echo((folder / "report.json").read_text(encoding="utf-8"))
        return
    from edgepress.summaries import summarize

    click.echo(summarize("report", json.loads((folder / "report.json").read_text(encoding="utf-8")), folder / "report.html"))


@cli.command()
@click.argument("photos", nargs=-1, required=True, type=FILE)
@click.option("--model", type=FILE, help="model file, bundle, or folder that holds one; on a --target: the app that is deployed there, unless given")
@click.option("--runtime", default=None, help="runtime that executes the file")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="classes to show")
@click.option("--target", default="local", help="where it runs: local, or a device by name or address  [default: local]")
@click.option("--app", default=None, help="which of the apps that are deployed on the --target")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def predict(photos: Tuple[Path, ...], model: Optional[Path], runtime: Optional[str], top: int, target: str, app: Optional[str], as_json: bool) -> None:
    """Say what is on a photo: here, or on a device."""
    from edgepress.device_use import hold
    from edgepress.prediction import format_predictions, predict_photos

    if model is None and target == "local" and app is None:
        raise click.UsageError("Missing option '--model' (or '--target' with a device on which a bundle is deployed).")
    with hold(target) as connection:
        if model is not None:
            answers = predict_photos(model, photos, runtime=runtime, top=top, connection=connection)
        else:
            from edgepress.deploy import predict_there

            answers = predict_there(photos, connection, name=app, target=target, top=top, runtime=runtime)
    click.echo(json.dumps(answers, indent=2, ensure_ascii=False) if as_json else format_predictions(answers))


@cli.command()
@click.argument("path", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def show(path: Path, as_json: bool) -> None:
    """Look inside a model file or an artifact: operators, types, sizes, ModelSpec, provenance."""
    from edgepress.inspection import describe, format_description

    facts = describe(path)
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else format_description(facts))


@cli.command()
@click.argument("model", type=FILE)
@click.option("--normalization", required=True, type=click.Choice(list(NORMALIZATIONS)), help="what it was trained on; 0..255 if it normalises bytes itself")
@click.option("--labels", type=FILE, help="text file with one label per line, in the order of the outputs")
@click.option("--resize", type=click.Choice(["stretch", "crop", "pad"]), default="stretch", show_default=True, help="how photos were resized")
@click.option("--channel-order", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True, help="channel order it was trained on")
@click.option("--logits", is_flag=True, help="it ends before its softmax")
def describe(model: Path, normalization: str, labels: Optional[Path], resize: str, channel_order: str, logits: bool) -> None:
    """Say how a .tflite or .onnx file of your own wants its pictures; every other command then knows."""
    from edgepress.own_spec import describe_file

    file, spec = describe_file(model, normalization=normalization, labels=labels, resize=resize, channel_order=channel_order, logits=logits)
    click.echo(f"{file}\n  {spec.input_height}x{spec.input_width}x{spec.channels} {spec.input_type}, {spec.layout}, {normalization}, {spec.channel_order}, {spec.resize}; "
               f"{len(spec.labels) or 'no'} labels; {spec.output}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def backbones(as_json: bool) -> None:
    """List the backbones: sizes, parameters, licence of the weights."""
    from edgepress.summaries import backbone_rows, format_rows

    rows = backbone_rows()
    click.echo(json.dumps(rows, indent=2) if as_json else format_rows(rows))


@cli.command()
@click.option("--install", metavar="NAME", help="make the virtual environment of a runtime that needs its own (tflite_runtime)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def runtimes(install: Optional[str], as_json: bool) -> None:
    """List the runtimes: which are installed, what they open, what is known not to work."""
    from edgepress.runtime_install import install_runtime, runtime_rows
    from edgepress.summaries import format_rows

    if install:
        with drawn_progress():
            install_runtime(install)
    rows = runtime_rows()
    click.echo(json.dumps(rows, indent=2) if as_json else format_rows(rows))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def doctor(as_json: bool) -> None:
    """Say what works on this machine, and the exact command that mends what does not."""
    import dataclasses

    from edgepress.doctor import examine, format_findings

    findings = examine()
    click.echo(json.dumps([dataclasses.asdict(f) for f in findings], indent=2) if as_json else format_findings(findings))


@cli.command()
@click.argument("bundle", type=FILE)
@click.option("--target", required=True, help="device by name or address; several with commas")
@click.option("--name", default=None, help="name of the app there  [default: the bundle's own]")
@click.option("--key", type=FILE, default=None, help="public key: the bundle must be signed with its private half; verified on the device")
@click.option("--keep", type=click.IntRange(2), default=3, show_default=True, help="releases that stay on the device")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def deploy(bundle: Path, target: str, as_json: bool, **options: Any) -> None:
    """Bring a bundle to a device: sent, unpacked and tested there, compared with this machine, then made current in one step, or not at all.

    BUNDLE is the folder or the .zip that `edgepress bundle` writes. `edgepress device rollback` goes back to the release before.
    """
    import dataclasses

    from edgepress.deploy import deploy as deploy_bundle
    from edgepress.deploy import format_deployed
    from edgepress.device_use import hold, on_each, split_targets

    def bring(name: str) -> Any:
        with hold(name) as connection:
            return deploy_bundle(bundle, connection, target=name, **options)

    with drawn_progress():
        done, failure = on_each(split_targets(target), bring)
    documents = [dataclasses.asdict(one) for one in done.values()]
    if documents:
        click.echo(json.dumps(documents if "," in target else documents[0], indent=2, ensure_ascii=False) if as_json else "\n".join(map(format_deployed, done.values())))
    if failure is not None:
        raise failure


cli.add_command(device)


def render_help() -> str:
    """Help of every command, as `help.txt` holds it: chapters that begin with the command's name."""
    return "\x0c".join(_chapters(cli, (), None))


def _chapters(command: click.Command, words: Tuple[str, ...], parent: Optional[click.Context]) -> Iterator[str]:
    context = click.Context(command, info_name=words[-1] if words else "edgepress", parent=parent, terminal_width=100, **CONTEXT)
    yield " ".join(words) + "\n" + command.get_help(context) + "\n"
    for name, inner in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
        yield from _chapters(inner, (*words, name), context)


def start() -> None:
    """Run the command line; every way it can end has its exit code (0, 1, 2, 3, 4, 130)."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except EdgepressError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("interrupted; what was finished is kept, run the same command again to go on", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output is gone: not an error of ours
        code = 0
    except Exception as error:
        click.echo(f"Error: edgepress failed ({type(error).__name__}: {str(error).splitlines()[-1] if str(error) else ''}). This is a bug of edgepress; details: {_write_log()}", err=True)
        code = 3
    sys.exit(code if isinstance(code, int) else 0)


def _write_log() -> str:
    import platform
    import tempfile
    from importlib import metadata

    versions = "\n".join(sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions()))
    with tempfile.NamedTemporaryFile("w", prefix="edgepress-", suffix=".log", delete=False) as file:
        file.write(f"edgepress {__version__}, Python {platform.python_version()}, {platform.platform()}\n{shlex.join(sys.argv)}\n\n{traceback.format_exc()}\n{versions}\n")
    return file.name


if __name__ == "__main__":
    sys.stdout.write(render_help())
