"""Fixtures: the command line as a user calls it, and a codec of somebody else, installed as a package is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# MKL and OpenMP read this when torch is imported: a test that wants other numbers of threads starts a process.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def uti(tmp_path):
    "`uti(*arguments, **environment)`: the command, in a folder of its own; returns the finished process."

    def run(*arguments, **environment):
        command = [sys.executable, "-c", "from uti.cli import main; main()", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **environment})

    return run


THIRD_PARTY = '''
import torch
from uti.codecs.base import Codec, CodecSpec, Encoded

class Stripes(Codec):
    "One id a picture: its mean grey."
    spec = CodecSpec("stripes", "image", (256,), version="1", licence="MIT", source="none", image_size=(16, 16), grid=(1, 1), invariant=True)
    def __init__(self, breaks=False):
        self.breaks = breaks
    def _encode(self, signals, lengths):
        return Encoded((signals.mean((1, 2, 3), keepdim=True)[:, 0] * 255).long(), [{"n_positions": 1} for _ in signals])
    def _decode(self, codes, meta):
        if self.breaks:
            raise RuntimeError("the decoder fell over")
        return (codes / 255.0)[..., None].expand(-1, 3, 16, 16).contiguous()
    def runtime_codebook_sizes(self):
        return (256,)
'''


@pytest.fixture
def third_party(tmp_path_factory, monkeypatch):
    "A package with an entry point in the group `uti.codecs`, for this process and those it starts; returns its folder."
    folder = tmp_path_factory.mktemp("site")
    (folder / "their_codec.py").write_text(THIRD_PARTY)
    info = folder / "their_codec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-codec\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[uti.codecs]\nstripes = their_codec:Stripes\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture(scope="session")
def assets() -> Path:
    import uti

    return Path(uti.__file__).parent / "assets"
