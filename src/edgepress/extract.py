"""Unpack an archive that may be hostile: regular files only, names checked, everything counted, all or nothing.

Neither `zipfile.extractall` nor `tarfile`'s filters are used: the filters of Python before 3.13.4 can be fooled (CVE-2025-4517 and its siblings), and neither has caps.
Device-safe: standard library, Python 3.9.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional, Set, Tuple

from edgepress.errors import ArtifactError

MOST_BYTES_OF_A_NAME, MOST_FOLDERS = 240, 16
_RESERVED = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$", *(f"{name}{digit}" for name in ("com", "lpt") for digit in "0123456789¹²³")})  # Windows opens devices by these names
_PIECE = 1 << 20
_ONE_READ = 16 << 20  # tarfile reads a header of any size that the archive claims in one piece
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Limits:
    """What an archive may hold. The ratio counts where a file is larger than a megabyte: small ones may well be all zeros."""

    files: int = 5_000
    total_bytes: int = 2 << 30
    ratio: int = 200


def extract(archive: Path, to: Path, *, limits: Limits = Limits()) -> List[str]:
    """Unpack a zip or tar file (plain, gzip, bzip2, xz) into the folder `to`, which must not exist or be empty.

    The files appear there in one rename, after all of them have been read; where one entry is refused nothing appears. They get mode 0644,
    whatever the archive says, and nothing outside `to` and its hidden neighbour is touched.

    Returns:
        The files' names, sorted.

    Raises:
        ArtifactError: not an archive, damaged, encrypted, too large, or with an entry that is no plain file with a plain name.
    """
    if to.is_symlink() or to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ArtifactError(f"{to} exists; accepted: a folder to make, or an empty one", "choose another place")
    to.parent.mkdir(parents=True, exist_ok=True)
    workspace = to.parent / f".{to.name}.part-{os.getpid()}"
    shutil.rmtree(workspace, ignore_errors=True)  # a killed process may have had our number
    workspace.mkdir()
    try:
        names = _unpack(archive, workspace, limits)
        if to.is_dir():
            to.rmdir()
        os.rename(workspace, to)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return sorted(names)


def name_problem(name: str) -> Optional[str]:
    """Why a file of this name is not written, or None. Names that some system reads otherwise than another are refused on all of them."""
    parts = name.split("/")
    if not name or name.startswith("/"):
        return "its name is empty or an absolute path"
    if any(part in ("", ".", "..") for part in parts):
        return "its name leaves the folder or is not in its plain form"
    if "\\" in name or ":" in name:
        return "its name has a backslash or a colon, which are part of a path on some systems"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in name):
        return "its name has control characters"
    if any(part[-1] in ". " or part.partition(".")[0].strip().casefold() in _RESERVED for part in parts):
        return "its name ends in a dot or a space, or is reserved on Windows"
    if any(len(part.encode()) > MOST_BYTES_OF_A_NAME for part in parts) or len(parts) > MOST_FOLDERS:
        return f"its name is longer than {MOST_BYTES_OF_A_NAME} bytes or deeper than {MOST_FOLDERS} folders"
    return None


def fold_name(name: str) -> str:
    """Names that fold to the same are one file on a disk that ignores case or Unicode composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())


def _unpack(archive: Path, folder: Path, limits: Limits) -> List[str]:
    try:
        if zipfile.is_zipfile(archive):
            return _write_all(archive, _zip_entries(archive, limits), folder, limits)
        return _write_all(archive, _tar_entries(archive, limits), folder, limits)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        raise _refusal(archive, None, f"it is no zip or tar file, or it is damaged ({error or type(error).__name__})") from error
    except OSError as error:
        if error.filename is None and error.errno is None:  # bz2 and gzip report damage so
            raise _refusal(archive, None, f"it is damaged ({error})") from error
        raise ArtifactError(f"{archive} cannot be unpacked: {error.strerror} ({error.filename or folder.parent})", "check the path and the free space; nothing was unpacked") from error
    except Exception as error:
        if type(error).__name__ != "LZMAError":  # its module may be missing on a device
            raise
        raise _refusal(archive, None, f"it is damaged ({error})") from error


# One entry: its name, whether it is a folder, the bytes it takes in the archive (None: not known), and its content.
Entry = Tuple[str, bool, Optional[int], Optional[IO[bytes]]]


def _write_all(archive: Path, entries: Iterator[Entry], folder: Path, limits: Limits) -> List[str]:
    """Write every entry below `folder`; counts what is really read, not what the archive says about itself."""
    names: List[str] = []
    taken: Dict[str, str] = {}
    folders: Set[str] = set()
    total = 0
    for name, is_folder, packed, content in entries:
        problem = name_problem(name)
        if problem:
            raise _refusal(archive, name, problem)
        if is_folder:
            continue  # folders are made for the files in them
        _claim(archive, name, taken, folders)
        if len(names) >= limits.files:
            raise _refusal(archive, None, f"it holds more than {limits.files} files")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert content is not None  # entries that are no folders have one
        with content, open(path, "xb") as file:
            total = _copy(archive, name, content, file, packed=packed, total=total, limits=limits)
        names.append(name)
    if not names:
        raise _refusal(archive, None, "it holds no files")
    return names


def _claim(archive: Path, name: str, taken: Dict[str, str], folders: Set[str]) -> None:
    """Refuse a second file of one name, in whatever spelling, and a file where there is a folder."""
    folded = fold_name(name)
    parents = [folded.rsplit("/", depth)[0] for depth in range(1, folded.count("/") + 1)]
    if folded in taken or folded in folders or any(parent in taken for parent in parents):
        raise _refusal(archive, name, f"it is the same file as {taken.get(folded, 'a folder or file')!r} on some systems")
    taken[folded] = name
    folders.update(parents)


def _copy(archive: Path, name: str, content: IO[bytes], file: IO[bytes], *, packed: Optional[int], total: int, limits: Limits) -> int:
    """Copy in pieces; the bytes written so far."""
    size = 0
    for piece in iter(lambda: content.read(_PIECE), b""):
        size += len(piece)
        total += len(piece)
        if total > limits.total_bytes:
            raise _refusal(archive, name, f"the files take more than {limits.total_bytes:,} bytes (a decompression bomb?)")
        if packed is not None and size > _PIECE and size > packed * limits.ratio:
            raise _refusal(archive, name, f"it unpacks to more than {limits.ratio} times its size in the archive (a decompression bomb?)")
        file.write(piece)
    return total


def _zip_entries(archive: Path, limits: Limits) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as file:
        if len(file.infolist()) > 2 * limits.files:
            raise _refusal(archive, None, f"it holds more than {limits.files} files")
        for info in file.infolist():
            problem = _zip_problem(info)
            if problem:
                raise _refusal(archive, info.orig_filename, problem)
            is_folder = info.filename.endswith("/")
            yield info.orig_filename.rstrip("/") if is_folder else info.orig_filename, is_folder, info.compress_size, None if is_folder else file.open(info)


def _zip_problem(info: zipfile.ZipInfo) -> Optional[str]:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
    if info.flag_bits & 0x41:
        return "it is encrypted"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link or a device; accepted: files"
    if info.compress_type not in _METHODS:
        return f"its compression method is {info.compress_type}; accepted: stored, deflated"
    return None


def _tar_entries(archive: Path, limits: Limits) -> Iterator[Entry]:
    with _decompressed(archive, limits) as stream, tarfile.open(fileobj=stream, mode="r:") as file:
        for member in file:
            if member.name == "." and member.isdir():
                continue
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _refusal(archive, member.name, "it is a link, a device or a sparse file; accepted: files")
            if member.size > limits.total_bytes:
                raise _refusal(archive, member.name, f"the files take more than {limits.total_bytes:,} bytes (a decompression bomb?)")
            yield member.name[2:] if member.name.startswith("./") else member.name, member.isdir(), None, None if member.isdir() else file.extractfile(member)


@contextlib.contextmanager
def _decompressed(archive: Path, limits: Limits) -> Iterator[Any]:
    """The tar file inside a compressed file, by its first bytes."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(open(archive, "rb"))
        magic = raw.read(6)
        raw.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            import gzip as opener
        elif magic.startswith(b"BZh"):
            import bz2 as opener  # type: ignore[no-redef]
        elif magic == b"\xfd7zXZ\x00":
            import lzma as opener  # type: ignore[no-redef]
        else:
            opener = None  # type: ignore[assignment]
        stream = raw if opener is None else stack.enter_context(opener.open(raw, "rb"))
        size = os.fstat(raw.fileno()).st_size
        yield _Capped(stream, min(2 * limits.total_bytes, max(_ONE_READ, size * limits.ratio)) if opener else 2 * limits.total_bytes)


class _Capped:
    """A stream that ends with an error past so many bytes, and refuses to read very much at once."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _ONE_READ:
            raise ValueError(f"a part of {size} bytes where there should be a header")
        data = self._stream.read(size)
        self._check()
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > self._most:
            self._check(offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, position: Optional[int] = None) -> None:
        if (self._stream.tell() if position is None else position) > self._most:
            raise ValueError(f"it unpacks to more than {self._most:,} bytes (a decompression bomb?)")

    def close(self) -> None:
        self._stream.close()


def _refusal(archive: Path, name: Optional[str], problem: str) -> ArtifactError:
    shown = "" if name is None else f" holds {ascii(name)[:200]}:"
    return ArtifactError(f"{archive}{shown or ':'} {problem}", "nothing was unpacked; get the archive again from where it comes")
