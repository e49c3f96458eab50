"""A module imports only from lower floors, heavy libraries stay behind doors, and nothing happens at import."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "edgepress"
FLOORS = {0: "errors", 1: "artifact recipe modelspec measurement measurement_table caveats ratios gates statistics tf progress host protobuf onnx_bytes power", 2: "preprocess runtimes targets emulator flatbuffer metadata metadata_format profiles profile_tflite profile_onnx feeding fingerprint timing op_profile timing_device worker_pack extract remote remote_scripts keeper channel host_keys",
          4: "stages inspection prediction", 5: "pipeline child context options single collect doctor summaries comparing suites op_profiles bundle_command", 6: "cli cli_benchmark cli_bundle cli_device cli_limits __main__"}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}  # everything else is on floor 3
HEAVY = {"tensorflow", "tf_keras", "tensorflow_model_optimization", "onnx", "onnxruntime", "tf2onnx", "ai_edge_litert", "ai_edge_quantizer", "numpy", "PIL", "scipy", "sklearn"}
LIGHT = [0, 1, 5, 6]
MODULES = sorted(p for p in SOURCE.rglob("*.py") if "bundle_templates" not in p.parts)


def floor(module: str) -> int:
    """Floor of `package.module` below edgepress. The stage table (`stages/__init__`) is data and may be read from anywhere above."""
    return FLOOR_OF.get(module.split(".")[0], 3)


def top_imports(path: Path) -> list:
    """Names imported when the module is imported (functions and TYPE_CHECKING blocks left out)."""
    names = []
    body = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while body:
        node = body.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "edgepress" else [node.module]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            body += node.body
        elif isinstance(node, ast.Try):
            body += node.body
    return [name for name in names if name]


def all_imports(path: Path) -> list:
    return [name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])]


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_come_from_lower_floors(path: Path) -> None:
    own = name_of(path)
    package = own.split(".")[0]
    for imported in top_imports(path):
        if not imported.startswith("edgepress."):
            continue
        other = imported[len("edgepress."):]
        if other == "__version__" or other.split(".")[0] == package:
            continue
        assert floor(other) <= floor(own), f"{own} (floor {floor(own)}) imports {other} (floor {floor(other)})"


@pytest.mark.parametrize("path", [p for p in MODULES if floor(name_of(p)) in LIGHT or p.name == "__init__.py"], ids=name_of)
def test_light_modules_import_nothing_heavy(path: Path) -> None:
    assert not {name.split(".")[0] for name in top_imports(path)} & HEAVY


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "tf.py"], ids=name_of)
def test_only_tf_imports_tensorflow(path: Path) -> None:
    assert not {name.split(".")[0] for name in all_imports(path)} & {"tf_keras", "keras"}
    assert "tensorflow" not in all_imports(path)


def test_cli_starts_without_numpy() -> None:
    code = "import sys, edgepress.cli, edgepress.pipeline, edgepress.stages; sys.exit(bool({'numpy', 'tensorflow', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
