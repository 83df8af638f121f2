"""The first thing that a user does: open a codec by whatever name it has, and try it on a file."""

import re

import numpy as np
import pytest
import torch
from checkpoints import save
from PIL import Image
from safetensors.torch import save_file
from small_codecs import Blocks

import uti
from uti.codecs.base import CodecError
from uti.codecs.checkpoints import load_codec
from uti.modalities.base import Audio, MediaError
from uti.roundtrip import roundtrip
from uti.tokens.tokenizer import TokenizerError, Tokens, UnifiedTokenizer

SINE = Audio(0.3 * torch.sin(torch.arange(24_000) * 0.05)[None], 24_000)


def test_one_door_opens_what_has_a_name_and_what_lies_in_a_folder(tmp_path):
    assert uti.load_codec is load_codec
    small = load_codec("embedded-image", size=64)
    assert small.spec.input_size == (64, 64)
    assert repr(small) == "<embedded-image, image: 64×64 → 8×8, ids of 1 × 65,536>"
    for family, modality in {"dac": "audio", "VQModel": "image", "word_piece": "text"}.items():
        save(family, tmp_path)
        codec = load_codec(tmp_path / family)
        assert codec.spec.modality == modality
        assert type(load_codec(str(tmp_path / family), modality)) is type(codec)
    with pytest.raises(
        CodecError, match=r"no codec is named 'encodec'; the nearest names are embedded-audio, .*owner"
    ):
        load_codec("encodec")


def test_a_tokenizer_of_names_has_a_config_and_one_of_objects_has_none(tmp_path):
    named = UnifiedTokenizer(text="embedded-text", audio="embedded-audio")
    assert {m: c.codec for m, c in named.config.codecs().items()} == {
        "text": "embedded-text", "audio": "embedded-audio"
    }  # fmt: skip
    named.save_pretrained(tmp_path)
    assert UnifiedTokenizer.from_pretrained(tmp_path).space == named.space
    mixed = UnifiedTokenizer(text="embedded-text", audio=Blocks())
    assert mixed.config is None and list(mixed.codecs) == ["text", "audio"]
    for wrong in (
        lambda: UnifiedTokenizer(),
        lambda: UnifiedTokenizer({"audio": Blocks()}, text="embedded-text"),
    ):
        with pytest.raises(TokenizerError, match="is made of codecs by modality"):
            wrong()
    with pytest.raises(CodecError, match="is for audio, but the config has it under image"):
        UnifiedTokenizer(image="embedded-audio")


def test_every_form_of_an_image_is_the_same_image(assets):
    codec, image = load_codec("embedded-image", size=64), Image.open(assets / "coffee.png")
    forms = [assets / "coffee.png", str(assets / "coffee.png"), image, np.asarray(image)]
    trips = [codec(form) for form in forms]
    assert len({tuple(trip.tokens.ids.tolist()) for trip in trips}) == 1
    trip = trips[0]
    assert trip.bits == 16 * 64 and trip.rate == "0.25 bits a pixel" and trip.metrics["image_psnr"].value > 15
    page = trip._repr_html_()
    assert page.count("<img") == 1 and "PSNR (dB)" in page and "before, after, error" in page


def test_a_sound_is_heard_before_and_after():
    trip = roundtrip("embedded-audio", SINE)
    assert trip.rate == "6 kbit/s" and trip.decoded.wave.shape == SINE.wave.shape
    page = trip._repr_html_()
    assert page.count('<audio controls preload="none" src="data:audio/ogg;base64,T2dnUw') == 2  # OggS
    assert page.count("<img") == 1 and "SNR" in page


def test_a_file_goes_to_the_codec_of_its_kind_and_a_text_that_names_none_is_a_text(assets, tmp_path):
    tokenizer = UnifiedTokenizer(text="embedded-text", image="embedded-image", audio="embedded-audio")
    (tmp_path / "words.txt").write_text("from a file")
    assert roundtrip(tokenizer, assets / "coffee.png").modality == "image"
    assert roundtrip(tokenizer, assets / "speech.wav").modality == "audio"
    assert roundtrip(tokenizer, tmp_path / "words.txt").decoded == "from a file"
    text = roundtrip(tokenizer, "<b>words</b>" * 400)  # longer than a file's name may be
    assert text.modality == "text" and text.metrics == {}
    assert "<b>words</b>" not in text._repr_html_() and "&lt;b&gt;words" in text._repr_html_()


def test_what_a_codec_cannot_have_is_said(tmp_path):
    (tmp_path / "notes.pdf").write_text("x")
    tokenizer = UnifiedTokenizer(image="embedded-image", audio="embedded-audio")
    for codec, signal, said in (
        ("embedded-image", "absent.png", "no file named 'absent.png'; this codec is for image"),
        ("embedded-image", SINE, "Audio is no signal for it; this codec is for image"),
        ("embedded-audio", torch.zeros(1, 800), r"give its rate as well, Audio\(wave, rate\)"),
        (tokenizer, tmp_path / "notes.pdf", "none of image, audio is read from .pdf files"),
    ):
        with pytest.raises(MediaError, match=said):
            roundtrip(codec, signal)


def test_codecs_side_by_side_and_one_that_cannot_decode():
    silent = Blocks(decode_modes=())
    trips = roundtrip([Blocks(), silent], SINE)
    page = trips._repr_html_()
    assert [trip.decoded is None for trip in trips] == [False, True] and trips[1].metrics == {}
    assert page.count("<audio") == 2 and page.count(">before<") == 1
    assert "no decoder" in trips[1]._repr_html_()


def test_encode_and_decode_are_the_two_halves(uti_here, tmp_path, assets):
    (tmp_path / "words.txt").write_text("naïve 漢字\r\n", newline="")
    for name, codec in {"words.txt": "--text", "coffee.png": "--image", "speech.wav": "--audio"}.items():
        source = tmp_path / name if name == "words.txt" else assets / name
        own = [codec, f"embedded-{codec.removeprefix('--')}"]
        run = uti_here("encode", source, "--out", "tokens.safetensors", *own)
        assert run.returncode == 0 and re.match(r"[\d,]+ ids of embedded-\w+, \d × \d+ → tokens", run.stdout)
        back = f"back{source.suffix}"
        assert uti_here("decode", "tokens.safetensors", "--out", back, *own).returncode == 0
        codec_ = load_codec(own[1])
        assert torch.equal(codec_(source).tokens.ids, Tokens.load(tmp_path / "tokens.safetensors").ids)
    assert (tmp_path / "back.txt").read_bytes() == "naïve 漢字\r\n".encode()
    assert Image.open(tmp_path / "back.png").size == (256, 256)
    assert uti_here("--version").stdout.strip() == uti.__version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "absent.png", "--out", "new"], "absent.png: cannot be read"),
        (["encode", "odd.xyz", "--out", "new"], "none of text, image, audio is read from .xyz files"),
        (["decode", "absent", "--out", "new.wav"], "absent: holds no tokens"),
        (["decode", "other.safetensors", "--out", "new.wav"], "other.safetensors: holds no tokens"),
        (["decode", "text.safetensors", "--out", "new.wav"], "is written to a file that ends in .txt"),
        (["decode", "text.safetensors", "--out", "a.txt", "--image", "embedded-image"], "tokens are of text"),
        (["decode", "text.safetensors", "--out", "no/new.txt"], "No such file or directory"),
    ],
)  # fmt: skip
def test_one_sentence_and_nothing_written(uti_here, tmp_path, arguments, said):
    tokens = UnifiedTokenizer(text="embedded-text").encode_text("12345")
    tokens.save(tmp_path / "text.safetensors")
    save_file({"ids": tokens.ids}, tmp_path / "other.safetensors", {"meta": "["})
    (tmp_path / "odd.xyz").touch()
    before = sorted(p.name for p in tmp_path.iterdir())
    run = uti_here(*arguments)
    assert run.returncode == 2 and said in run.stderr and run.stderr.startswith("error: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
