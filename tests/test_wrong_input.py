"""Whatever is typed wrong: one sentence that names it, exit code 2, nothing written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image
from safetensors import SafetensorError
from typer.testing import CliRunner

from uti.cli.console import sentences
from uti.cli.main import app
from uti.errors import UTIError
from uti.tokens.tokenizer import UnifiedTokenizer


def folder_with(tmp_path, name, content: bytes):
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / name).write_bytes(content)
    return folder


def png_bytes(tmp_path) -> bytes:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    return (tmp_path / "whole.png").read_bytes()


def wav_bytes(tmp_path, samples, rate=8000) -> bytes:
    sf.write(tmp_path / "whole.wav", np.asarray(samples, dtype=np.float32), rate, subtype="FLOAT")
    return (tmp_path / "whole.wav").read_bytes()


CASES = {
    "no such folder": lambda p: (["--smoke-assets", p / "absent"], "absent: no such folder"),
    "an empty folder": lambda p: (
        ["--smoke-assets", (p / "empty").mkdir() or p / "empty"],
        "empty: holds no text (.txt) and no image",
    ),
    "a folder of nothing that is read": lambda p: (
        ["--smoke-assets", folder_with(p, "notes.docx", b"words")],
        "notes.docx (.docx is not read)",
    ),
    "a file for a folder": lambda p: (
        ["--smoke-assets", folder_with(p, "a.png", b"") / "a.png"],
        "a.png: not a folder",
    ),
    "text named .png": lambda p: (
        ["--smoke-assets", folder_with(p, "notes.png", b"not an image")],
        "notes.png: not an image",
    ),
    "a truncated png": lambda p: (
        ["--smoke-assets", folder_with(p, "cut.png", png_bytes(p)[:3000])],
        "cut.png: cannot be read as an image",
    ),
    "an empty png": lambda p: (
        ["--smoke-assets", folder_with(p, "zero.png", b"")],
        "zero.png: not an image",
    ),
    "a wav without samples": lambda p: (
        ["--smoke-assets", folder_with(p, "mute.wav", wav_bytes(p, []))],
        "mute.wav: holds no samples",
    ),
    "nan samples": lambda p: (
        ["--smoke-assets", folder_with(p, "nan.wav", wav_bytes(p, [0, np.nan]))],
        "nan.wav: holds samples that are not finite",
    ),
    "text named .wav": lambda p: (
        ["--smoke-assets", folder_with(p, "notes.wav", b"not audio")],
        "notes.wav: cannot be read as audio",
    ),
    "a rate that no audio has": lambda p: (
        ["--smoke-assets", folder_with(p, "slow.wav", wav_bytes(p, [0.1] * 100, 1))],
        "slow.wav: wave float32 [1, 100]: audio has 100 to 1,000,000 samples a second, not 1",
    ),
    "text that is not utf-8": lambda p: (["--smoke-assets", both(p)], "odd.txt: not UTF-8"),
    "a misspelt key": lambda p: (
        ["--config", write(p, "uti.yaml", "image: {codec: embedded-image}\nserialization: delay")],
        "did you mean 'serialisation'",
    ),
    "an unknown codec": lambda p: (
        ["--config", write(p, "uti.yaml", "image: {codec: embeded-image}")],
        "the nearest names are embedded-image",
    ),
    "a codec of another modality": lambda p: (
        ["--config", write(p, "uti.yaml", "image: {codec: embedded-audio}")],
        "is for audio",
    ),
    "an impossible option": lambda p: (
        ["--config", write(p, "uti.yaml", "audio: {codec: embedded-audio, options: {n_codebooks: 9}}")],
        "n_codebooks must be 1 to 8",
    ),
    "an unknown option": lambda p: (
        ["--config", write(p, "uti.yaml", "audio: {codec: embedded-audio, options: {bitrate: 6}}")],
        "does not take these options: bitrate",
    ),
    "no config file": lambda p: (["--config", p / "absent.yaml"], "absent.yaml: cannot be read"),
    "a value that holds itself": lambda p: (
        ["--config", write(p, "uti.yaml", "audio: {codec: embedded-audio, options: &x {weights: *x}}")],
        "uti.yaml: a value holds itself",
    ),
    "an option called name": lambda p: (
        ["--config", write(p, "uti.yaml", "audio: {codec: embedded-audio, options: {name: x}}")],
        "codec 'embedded-audio' does not take these options: name",
    ),
    "a tag of what it is not": lambda p: (
        ["--config", write(p, "uti.yaml", "audio: {codec: embedded-audio, options: {a: !!timestamp x}}")],
        "uti.yaml: not YAML",
    ),
    "broken yaml": lambda p: (["--config", write(p, "uti.yaml", "image: [")], "uti.yaml: not YAML"),
    "yaml that would make an object": lambda p: (
        ["--config", write(p, "uti.yaml", "image: !!python/object/apply:os.system ['true']")],
        "uti.yaml: not YAML",
    ),
    "a mode that the codec lacks": lambda p: (["--decode-mode", "diffusion"], "has no diffusion decoder"),
    "an outdir inside a file": lambda p: (["--outdir", write(p, "file", "") / "out"], "cannot be written"),
    "an outdir that cannot be": lambda p: (["--outdir", "/proc/uti/out"], "cannot be written"),
    "a baseline that is no report": lambda p: (
        ["--baseline-report", write(p, "b.json", json.dumps({"pass": True}))],
        "b.json: not a report.json",
    ),
    "a baseline that is not there": lambda p: (["--baseline-report", p / "b.json"], "b.json: cannot be read"),
}


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def both(p):
    folder = folder_with(p, "whole.png", png_bytes(p))
    (folder / "odd.txt").write_bytes(b"\xff\xfe\xfa")
    return folder


# a report is refused by the audit that it begins with
REPORTED = ("no such folder", "an outdir inside a file", "an outdir that cannot be", "no config file")


@pytest.mark.parametrize(
    ("command", "name"), [*(("audit", name) for name in CASES), *(("report", name) for name in REPORTED)]
)
def test_one_sentence_exit_2_and_nothing_written(name, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, told = CASES[name](tmp_path)
    arguments = [command, *map(str, arguments)]
    if command == "report":
        arguments = [a.replace("--outdir", "--reports") for a in arguments]
    before = sorted(p for p in tmp_path.rglob("*"))
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert told in result.stderr
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_token_space_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app,
        ["audit", "--outdir", "out", "--token-space-out", str(write(tmp_path, "file", "") / "space.json")],
    )
    assert result.exit_code == 2 and "file" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_token_space_in_the_place_of_a_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app, ["audit", "--text", "embedded-text", "--outdir", "out", "--token-space-out", "out/report.json"]
    )
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert result.stderr.startswith("error: out/report.json: the run writes report.json there")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1068608 vs 1068496"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:30],
)
def test_a_full_disk_is_a_sentence_in_any_librarys_words(error, capsys):
    with pytest.raises(SystemExit) as stop, sentences():
        raise error
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: what a run writes: ")
    assert said.endswith(("No space left on device\n", "Disk quota exceeded\n", "is the disk full?\n"))
    assert said.count("\n") == 1


def test_an_option_that_does_not_exist():
    assert CliRunner().invoke(app, ["audit", "--smoke-asset", "x"]).exit_code == 2


@pytest.mark.run
def test_the_program_itself_prints_no_traceback(uti):
    result = uti("audit", "--smoke-assets", "absent")
    assert (result.returncode, result.stderr) == (2, "error: absent: no such folder\n")


def laughs(depth):
    "A hundred bytes that are millions of values once they are written out."
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1)] * 9)}]" for i in range(1, depth)]
    return "\n".join([*lines, f"text: {{codec: *a{depth - 1}}}"])


ODD_CONFIGS = {
    "a seed that no generator takes": "text: embedded-text\nseed: 18446744073709551616",
    "true for a number": "text: embedded-text\nseed: true",
    "a number in quotes": "text: embedded-text\nseed: '3'",
    "an endless clip": "audio: embedded-audio\nclip_seconds: .inf",
    "a clip of thirty years": "audio: embedded-audio\nclip_seconds: 1.0e+9",
    "a device that is none": "text: embedded-text\ndevice: foo",
    "no device": "text: embedded-text\ndevice: ''",
    "a device without numbers": "text: embedded-text\ndevice: meta",
    "one and a half codebooks": "audio: {codec: embedded-audio, options: {n_codebooks: 1.5}}",
    "weights that are a number": "image: {codec: embedded-image, options: {weights: 3}}",
    "weights that are a list": "audio: {codec: embedded-audio, options: {weights: [a]}}",
    "weights that are a folder": "text: {codec: embedded-text, options: {weights: .}}",
    "an image of a terapixel": "image: {codec: embedded-image, options: {size: 1000000}}",
    "a value inside itself": "text: &a {codec: *a}",
    "very deep": "text: " + "[" * 1100 + "]" * 1100,
    "a day that is none": "text: embedded-text\nseed: 2026-02-30",
    "a number that is none": "text: embedded-text\nseed: !!int x",
    "a number of 5,000 digits": "text: embedded-text\nseed: " + "9" * 5000,
    "a key twice": "text: embedded-text\nseed: 1\nseed: 2",
    "a billion laughs": laughs(7),
    "a tolerance without end": "text: embedded-text\ntolerances: {image_psnr: .inf}",
    "true for a tolerance": "text: embedded-text\ntolerances: {image_psnr: true}",
    "bytes": "text: !!binary aGVsbG8=",
}


@pytest.mark.parametrize("name", ODD_CONFIGS)
def test_an_odd_config_is_one_short_sentence(name, tmp_path):
    (tmp_path / "uti.yaml").write_text(ODD_CONFIGS[name])
    with pytest.raises(UTIError) as told:
        UnifiedTokenizer.from_config(tmp_path / "uti.yaml")
    assert len(str(told.value)) < 500


@pytest.mark.slow  # the encoding of a terminal
def test_a_narrow_terminal_is_printed_to():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "uti", "codecs"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "\\xd7 1024" in result.stdout.replace(",", ""), result.stdout


def test_a_name_that_is_no_utf8_is_made_printable(tmp_path, uti_here):
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/caf\xe9.txt", "w") as file:
        file.write("a text")
    (tmp_path / "in" / "cafe\u0301.txt").write_text("another")
    result = uti_here("audit", "--text", "embedded-text", "--smoke-assets", "in", "--outdir", "out")
    assert result.returncode == 0, result.stderr
    names = {item["name"] for item in json.loads((tmp_path / "out" / "report.json").read_text())["items"]}
    assert {"caf\\xe9.txt", "caf\u00e9.txt"} <= names


def test_a_link_stays_a_link_and_a_hash_keeps_its_name(tmp_path, uti_here):
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("real.json")
    assert uti_here("space", "--out", "link.json").returncode == 0
    assert (tmp_path / "link.json").is_symlink() and "vocab_size_total" in (
        tmp_path / "real.json"
    ).read_text()
    result = uti_here("space", "--out", "x.sha256")
    assert result.returncode == 2 and "let this one end in .json" in result.stderr
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "folder.json").mkdir()
    before = sorted(tmp_path.iterdir())
    for target, told in (
        ("loop.json", "Too many levels of symbolic links"),
        ("folder.json", "Is a directory"),
        (".", "Is a directory"),
    ):
        result = uti_here("space", "--out", target)
        assert (result.returncode, result.stderr) == (2, f"error: {target}: {told}\n")
    assert sorted(tmp_path.iterdir()) == before
    assert uti_here("space", "--out", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device() and not Path("/dev/null.sha256").exists()
