"""A codec of somebody else moves in without a line of ours: Codec 2, an installed package."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from uti.audit.report_json import read_record
from uti.codecs import base
from uti.codecs.base import CodecError, codec_targets
from uti.codecs.checkpoints import load_codec
from uti.modalities.audio import load_audio, normalise_audio
from uti.pages import audit as sections
from uti.testing import check_codec
from uti.tokens.tokenizer import UnifiedTokenizer

PACKAGE = Path(__file__).parent / "plugins" / "uti-codec2"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A folder of installed packages with nothing in it but theirs, for this process and those it starts."
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("source") / "package")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--target", folder, source], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        base._installed.cache_clear()
        importlib.invalidate_caches()
        yield folder
    base._installed.cache_clear()


def speech(assets) -> torch.Tensor:
    wave, rate = load_audio(assets / "speech.wav")
    return normalise_audio(wave, rate, target_rate=8000, channels=1)[0]


@pytest.mark.slow  # its ids are compared with the library's below
@pytest.mark.parametrize("bitrate", (3200, 2400, 1200))
def test_it_keeps_the_contract(site, bitrate):
    codec = load_codec("codec2", bitrate=bitrate)
    assert len(set(codec.spec.codebook_sizes)) > 2 and len(check_codec(codec)) > 50


def test_its_ids_are_the_bits_of_the_library(site, assets):
    import pycodec2

    codec, wave = load_codec("codec2"), speech(assets)
    codes, meta = codec.encode(wave[None])
    library, hop = pycodec2.Codec2(3200), codec.spec.hop_length
    samples = torch.nn.functional.pad(wave[0] * 32767, (0, -wave.shape[-1] % hop)).round().short().numpy()
    for t, frame in enumerate(samples.reshape(-1, hop)):
        assert codec._frame(codes[0, :, t].tolist()) == library.encode(frame)
    assert torch.equal(codec.decode(codes, meta), codec.decode(codes, meta))


def test_its_codebooks_have_ranges_of_their_own(site):
    space = UnifiedTokenizer({"audio": load_codec("codec2")}).space
    assert [len(r) for r in space.modality_ranges("audio")] == [2, 2, 128, *[32] * 11]


def test_what_it_does_not_take_is_said(site):
    with pytest.raises(CodecError, match="bitrate must be one of 3200, 2400, 1200, got 700"):
        load_codec("codec2", bitrate=700)
    with pytest.raises(CodecError, match=r"does not take these options: colour"):
        load_codec("codec2", colour="red")


@pytest.mark.slow  # the page is that of any codec
def test_the_audits_page_shows_it(site, assets, uti_in, tmp_path):
    assert "codec2" in codec_targets() and "codec2-3200" not in uti_in(tmp_path, "codecs").stderr
    (tmp_path / "mine").mkdir()
    shutil.copy(assets / "speech.wav", tmp_path / "mine")
    run = uti_in(tmp_path, "audit", "--audio", "codec2", "--smoke-assets", "mine", "--outdir", "out")
    assert run.returncode == 0, run.stderr
    record = read_record(tmp_path / "out" / "report.json")
    assert record.passed and record.codecs["audio"]["sample_rate"] == 8000
    page = sections.summary(record) + sections.token_space(record)
    assert all(text in page for text in ("codec2-3200", "pycodec2", "2, 2, 128, 32"))
