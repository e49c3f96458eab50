"""TensorFlow starts without a word and with legacy Keras; seeds make training repeatable."""
from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.tensorflow

PROGRAM = """
from edgepress.tf import import_tensorflow, set_deterministic, set_threads
assert set_threads(1)
tensorflow, keras = import_tensorflow()
def numbers():
    set_deterministic(7)
    return keras.layers.Dense(3)(tensorflow.random.normal((2, 4))).numpy().tolist()
assert numbers() == numbers()
assert keras.__name__ == "tf_keras" and not set_threads(2)
"""


def test_quiet_legacy_and_repeatable() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_tensorflow_writes_is_shown_if_its_import_fails(tmp_path: object) -> None:
    (tmp_path / "tensorflow.py").write_text("import os; os.write(2, b'no AVX here\\n'); raise RuntimeError('broken')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from edgepress.tf import import_tensorflow; import_tensorflow()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "no AVX here" in done.stderr and "RuntimeError: broken" in done.stderr
