"""edgepress: from a folder of photos to a compressed, certified model file that is measured where it runs."""

__version__ = "0.1.0"
