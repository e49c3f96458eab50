"""edgepress: from a folder of photos to a compressed, certified model file that is measured where it runs."""
import os

__version__ = "0.1.0"

# The one thing that happens at import, so that no process of ours can forget it: onnxruntime's official builds since 1.29 report to Microsoft and keep
# a device id in the home folder unless this is set before they are imported (microsoft/onnxruntime#27379). edgepress promises that nothing is sent.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
