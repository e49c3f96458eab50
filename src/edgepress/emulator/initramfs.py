"""Write a file system image that a Linux kernel unpacks into memory when it starts (cpio, "newc": Documentation/driver-api/early-userspace/buffer-format.rst)."""
from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Callable, Iterator

_CONSOLE = (5, 1)  # device numbers of /dev/console, without which the first process has no streams


class Initramfs:
    """An image that is being written. Owner, times and inode numbers are always the same: same files, same bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._inodes = file, 0
        for folder in ("dev", "proc", "sys", "tmp"):
            self.add_folder(folder)
        self._add("dev/console", mode=stat.S_IFCHR | 0o600, device=_CONSOLE)

    def add_folder(self, name: str) -> None:
        """An empty folder."""
        self._add(name, mode=stat.S_IFDIR | 0o755)

    def add_file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """A file; its folder must have been added."""
        self._add(name, mode=stat.S_IFREG | (0o755 if executable else 0o644), data=data)

    def add_tree(self, root: Path, wanted: Callable[[str], bool]) -> None:
        """Everything below `root` whose relative name is wanted; folders that are not wanted are not entered."""
        for path in _walk(root, "", wanted):
            source = root / path
            if source.is_symlink():
                self._add(path, mode=stat.S_IFLNK | 0o777, data=os.fsencode(os.readlink(source)))
            elif source.is_dir():
                self.add_folder(path)
            else:
                self.add_file(path, source.read_bytes(), executable=os.access(source, os.X_OK))

    def finish(self) -> None:
        """The end mark."""
        self._add("TRAILER!!!", mode=0)

    def _add(self, name: str, *, mode: int, data: bytes = b"", device: tuple = (0, 0)) -> None:
        self._inodes += 1
        encoded = os.fsencode(name) + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inodes, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(encoded), 0)
        self._write(b"070701" + b"".join(b"%08X" % number for number in fields) + encoded)
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._file.write(data + bytes(-len(data) % 4))


def _walk(root: Path, folder: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    for entry in sorted(os.scandir(root / folder), key=lambda e: e.name):
        name = f"{folder}/{entry.name}" if folder else entry.name
        if wanted(name):
            yield name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, name, wanted)
