"""Archives that are hostile, damaged or merely large: refused whole, with nothing written anywhere."""
from __future__ import annotations

import io
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

from edgepress.errors import ArtifactError
from edgepress.extract import Limits, extract, name_problem

FILES = {"model.tflite": b"TFL3" * 100, "golden/00 é.png": b"\x89PNG", "empty": b""}


def write_zip(path: Path, entries: List[Tuple[Any, bytes]], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, data in entries:
            file.writestr(entry, data, **options)
    return path


def write_tar(path: Path, members: List[Tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for member, data in members:
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def plain(name: str, **changes: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(member, key, value)
    return member


def unix_entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, mode << 16
    return entry


def snapshot(folder: Path) -> Dict[str, Any]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(archive: Path, folder: Path, words: str, **options: Any) -> None:
    """Refused with these words, and every byte around it is as it was."""
    before = snapshot(folder)
    with pytest.raises(ArtifactError, match=words):
        extract(archive, folder / "out", **options)
    assert snapshot(folder) == before


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_files_come_out_as_they_went_in(tmp_path: Path, mode: str) -> None:
    archive = tmp_path / "a"
    if mode == "zip":
        write_zip(archive, [("golden/", b""), *FILES.items()])
    else:
        write_tar(archive, [(plain(".", type=tarfile.DIRTYPE), b""), (plain("golden", type=tarfile.DIRTYPE), b""), *((plain(f"./{name}", mode=0o7777), data) for name, data in FILES.items())], mode)
    assert extract(archive, tmp_path / "new" / "out") == sorted(FILES)
    assert {name: (tmp_path / "new" / "out" / name).read_bytes() for name in FILES} == FILES
    assert stat.S_IMODE((tmp_path / "new" / "out" / "empty").stat().st_mode) & 0o7111 == 0
    assert os.listdir(tmp_path / "new") == ["out"]


BAD_NAMES = ["../evil", "a/../../evil", "/etc/evil", "a//b", "./a", "a/./b", "..\\evil", "C:evil", "C:\\evil", "file:stream", "a\nb", "a\x1b[2Jb", "a\u202egnp.exe", "NUL", "aux.txt", "x/com1.png",
             "a.", "a ", "a" * 300, "/".join("abcdefghijklmnopqrstu"), "", "..", "lpt¹", "a\x7f"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:30])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    assert name_problem(name)
    if name:
        refused(write_zip(tmp_path / "a.zip", [("good", b"1"), (name, b"evil")]), tmp_path, "name")
    if name and name != "./a":  # tar programs write ./ before every name
        refused(write_tar(tmp_path / "a.tar", [(plain("good"), b"1"), (plain(name), b"evil")]), tmp_path, "name")


@pytest.mark.parametrize("name", ["model.tflite", "golden/00.png", "nul-model", "com", "compass.txt", "console/x", "日本.png", "a b", ".hidden", "a..b", "wheels/numpy-2.4.0-cp311-cp311-manylinux_2_27_aarch64.whl"])
def test_plain_names_are_accepted(name: str) -> None:
    assert name_problem(name) is None


def test_a_name_with_a_zero_byte_is_refused_whole(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", [("goodXevil", b"1")])
    archive.write_bytes(archive.read_bytes().replace(b"goodXevil", b"good\x00evil"))
    refused(archive, tmp_path, "control characters")


@pytest.mark.parametrize("names", [("a", "a"), ("Model", "model"), ("é", "e\u0301"), ("a", "a/b"), ("a/b", "A"), ("ﬁle", "file"), ("x/y", "X/Y")], ids=ascii)
def test_two_names_for_one_file_are_refused(tmp_path: Path, names: Tuple[str, str]) -> None:
    with pytest.warns(UserWarning) if names[0] == names[1] else open(os.devnull):
        write_zip(tmp_path / "a.zip", [(name, b"1") for name in names])
    refused(tmp_path / "a.zip", tmp_path, "on some systems")
    refused(write_tar(tmp_path / "a.tar", [(plain(name), b"1") for name in names]), tmp_path, "on some systems")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_zip_entries_that_are_no_files_are_refused(tmp_path: Path, kind: int) -> None:
    refused(write_zip(tmp_path / "a.zip", [(unix_entry("model.tflite", kind | 0o777), b"/etc/passwd")]), tmp_path, "a link or a device")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_tar_entries_that_are_no_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    refused(write_tar(tmp_path / "a.tar", [(plain("model.tflite", type=kind, linkname="/etc/passwd"), b"")]), tmp_path, "link|sparse|damaged")


def test_writing_through_a_link_is_impossible(tmp_path: Path) -> None:
    """The classic pair: a link to somewhere else, then a file in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = plain("golden", type=tarfile.SYMTYPE, linkname=str(outside))
    refused(write_tar(tmp_path / "a.tar", [(link, b""), (plain("golden/evil"), b"evil")]), tmp_path, "link")
    refused(write_zip(tmp_path / "a.zip", [(unix_entry("golden", stat.S_IFLNK | 0o777), str(outside).encode()), ("golden/evil", b"evil")]), tmp_path, "link")
    assert not list(outside.iterdir())


def test_bombs_are_refused_early(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", [("zeros", bytes(64 << 20))])
    assert archive.stat().st_size < 100_000
    refused(archive, tmp_path, "200 times")
    refused(archive, tmp_path, "more than 1,000,000 bytes", limits=Limits(total_bytes=1_000_000, ratio=10**9))
    refused(write_tar(tmp_path / "a.tgz", [(plain("zeros"), bytes(64 << 20))], "w:gz"), tmp_path, "bomb")
    refused(write_zip(tmp_path / "b.zip", [(str(i), b"") for i in range(30)]), tmp_path, "more than 20 files", limits=Limits(files=20))
    refused(write_tar(tmp_path / "b.tar", [(plain(str(i)), b"") for i in range(30)]), tmp_path, "more than 20 files", limits=Limits(files=20))


def test_a_size_that_lies_is_not_believed(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", [("zeros", bytes(4 << 20))])
    data = archive.read_bytes()
    archive.write_bytes(data.replace(struct.pack("<I", 4 << 20), struct.pack("<I", 10)))
    refused(archive, tmp_path, "damaged|times")


def test_a_tar_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """A pax header whose size field says 3 GB: tarfile would read it all into memory."""
    header = plain("././@PaxHeader", type=tarfile.XHDTYPE)
    header.size = 3 << 30
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    refused(tmp_path / "a.tar", tmp_path, "where there should be a header|damaged")


def test_encrypted_and_foreign_compression_are_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", [("model.tflite", b"x" * 100)])
    data = bytearray(archive.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[6] |= 1
    data[central + 8] |= 1
    archive.write_bytes(bytes(data))
    refused(archive, tmp_path, "encrypted")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("model.tflite", b"x" * 100)
    refused(tmp_path / "b.zip", tmp_path, "stored, deflated")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18), bytes(10_240), b"\x1f\x8b" + bytes(50), b"BZh9" + bytes(50), b"\xfd7zXZ\x00" + bytes(50)], ids=ascii)
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", tmp_path, "no zip or tar file|no files|damaged")


def test_a_missing_archive_and_a_taken_place(tmp_path: Path) -> None:
    refused(tmp_path / "none.zip", tmp_path, "none.zip cannot be unpacked: No such file")
    archive = write_zip(tmp_path / "a.zip", [("a", b"1")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    refused(archive, tmp_path, "exists; accepted")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="exists"):
        extract(archive, tmp_path / "link")


@pytest.mark.parametrize("write", [lambda path: write_zip(path, list(FILES.items())), lambda path: write_tar(path, [(plain(n), d) for n, d in FILES.items()]),
                                   lambda path: write_tar(path, [(plain(n), d) for n, d in FILES.items()], "w:gz"), lambda path: write_tar(path, [(plain(n), d) for n, d in FILES.items()], "w:xz")],
                         ids=["zip", "tar", "gz", "xz"])
def test_damaged_archives_give_one_clear_error_or_their_files(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    whole = write(tmp_path / "a").read_bytes()
    chance = random.Random(0)
    for number in range(150):
        data = bytearray(whole)
        if number % 3:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            del data[chance.randrange(len(data)):]
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a").write_bytes(bytes(data))
        try:
            extract(folder / "a", folder / "out")
        except ArtifactError:
            assert os.listdir(folder) == ["a"]
        assert not (tmp_path / "evil").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="strace")
def test_every_file_opened_for_writing_is_inside(tmp_path: Path) -> None:
    """What the kernel saw, not what we believe: of a hostile archive and of a good one."""
    strace = "/usr/bin/strace"
    if not os.path.exists(strace):
        pytest.skip("strace is not installed")
    work = tmp_path / "work"
    work.mkdir()
    write_tar(work / "evil.tar", [(plain("ok"), b"1"), (plain("../../evil"), b"evil")])
    write_zip(work / "good.zip", list(FILES.items()))
    code = ("import sys; from pathlib import Path; from edgepress.extract import extract\n"
            "for name in ('good.zip', 'evil.tar'):\n    try: extract(Path(name), Path('out-' + name))\n    except Exception as error: print(type(error).__name__)")
    command = [strace, "-f", "-y", "-e", "trace=openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat,link,linkat,unlink,unlinkat,rmdir", "-o", str(tmp_path / "log"),
               sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if "PTRACE" in done.stderr:
        pytest.skip("ptrace is not allowed here")
    assert done.returncode == 0 and done.stdout.split() == ["ArtifactError"], done.stderr
    writes = [line for line in (tmp_path / "log").read_text().splitlines() if ("O_WRONLY" in line or "O_RDWR" in line or "O_CREAT" in line or "open" not in line) and "= -1" not in line
              and "resumed" not in line and "exited" not in line and "/dev/null" not in line and "+++" not in line and "---" not in line]
    assert any("out-good.zip" in line for line in writes)
    assert [line for line in writes if "out-" not in line] == []
