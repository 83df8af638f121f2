"""A file is whole or not there, a hash is that of its bytes, and a name can be printed anywhere."""

import errno
import hashlib
import json
import math
import os
import stat
from pathlib import Path

import pytest

from uti.errors import UTIError
from uti.files import (
    as_path,
    atomic_path,
    digest,
    disk_full,
    is_special,
    packaged,
    printable,
    reading,
    scratch,
    write_json,
    write_text,
)


def test_text_and_json_are_written_as_utf8_and_indented(tmp_path):
    write_text(tmp_path / "a.txt", "naïve 漢字\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "naïve 漢字\r\n".encode()
    write_json(tmp_path / "a.json", {"b": "é", "a": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n  "b": "é",\n  "a": [\n    1,\n    null\n  ]\n}\n'
    )
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "a.json", {"value": number})
    assert "null" in (tmp_path / "a.json").read_text(encoding="utf-8")  # what was there is still there
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_a_file_gets_the_permissions_that_any_other_would(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "a")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # reading it has left it as it was
    finally:
        os.umask(before)


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half of it"), atomic_path(tmp_path / "a.bin") as path:
        assert path.parent == tmp_path and path.suffix == ".bin"
        path.write_bytes(b"ne")
        raise RuntimeError("half of it")
    assert (tmp_path / "a.bin").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_pipe_is_written_into_and_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert is_special(tmp_path / "pipe") and is_special(Path("/dev/null"))
    assert not any(map(is_special, (tmp_path, tmp_path / "absent", Path(__file__))))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through it")
    assert os.read(reader, 99) == b"through it" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_a_folder_for_a_while_is_gone_afterwards(tmp_path):
    with scratch(beside=tmp_path) as folder:
        assert folder.parent == tmp_path and folder.name.startswith(f".uti-{os.getpid()}-")
        (folder / "a").touch()
    assert not list(tmp_path.iterdir())


def test_a_digest_is_of_all_bytes(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(data)
    assert digest(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    with pytest.raises(OSError, match="absent"):
        digest(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.txt", "plain.txt"),
        ("cafe\u0301.txt", "caf\u00e9.txt"),
        ("caf\udce9.txt", "caf\\xe9.txt"),
        (Path("a") / "b\udcff", "a/b\\xff"),
    ],
)
def test_a_name_as_text_that_can_be_written_anywhere(name, text):
    assert printable(name) == text and printable(text) == text


@pytest.mark.parametrize(
    ("given", "path"), [("", None), (None, None), ("out", Path("out")), (2024, Path("2024")), (0, Path("0"))]
)
def test_what_papermill_makes_of_a_name_is_a_path_again(given, path):
    assert as_path(given) == path


@pytest.mark.parametrize("given", [2024.1, True, math.inf])
def test_what_papermill_has_changed_for_good_is_said(given):
    with pytest.raises(UTIError, match=f"{given!r}: papermill made this of a name; give the name with -r"):
        as_path(given)


def test_what_ships_with_the_package_is_there():
    assert packaged("assets/uti.yaml").is_file() and packaged("assets").is_dir()


NOT = "notes.json: not a notebook of this version ("


class NoNotes(UTIError):
    "Notes cannot be read."


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: None, "notes.json: cannot be read (No such file or directory)"),
        (lambda p: p.mkdir(), "notes.json: cannot be read (Is a directory)"),
        (lambda p: p.write_text('{"a"'), f"{NOT}Expecting ':' delimiter"),
        (lambda p: p.write_text("[" * 100_000), f"{NOT}maximum recursion"),
        (lambda p: p.write_bytes(b'"\xff"'), f"{NOT}'utf-8' codec can't"),
        (lambda p: p.write_text("[]"), f"{NOT}'list' object has no"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(make, told, tmp_path):
    make(tmp_path / "notes.json")
    with pytest.raises(NoNotes) as error, reading("notes.json", "notebook", NoNotes):
        json.loads((tmp_path / "notes.json").read_text(encoding="utf-8")).items()
    assert str(error.value).startswith(told) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "whatever"), os.strerror(errno.ENOSPC)),
        (OSError(errno.EDQUOT, "whatever"), os.strerror(errno.EDQUOT)),
        (OSError(errno.EACCES, "Permission denied"), ""),
        (RuntimeError("[enforce fail] . unexpected pos 64 vs 0"), "is the disk full?"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "is the disk full?"),
        ("SafetensorError: I/O error: No space left on device (os error 28)", os.strerror(errno.ENOSPC)),
        ("ValueError: nothing of that kind", ""),
        (RuntimeError("nothing of that kind"), ""),
    ],
)
def test_a_full_disk_is_known_in_whatever_words(error, said):
    assert disk_full(error).endswith(said) and bool(disk_full(error)) == bool(said)
