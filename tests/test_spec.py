"""What a spec promises and the contract of a codec checks: forms, sizes, lengths, and the words of what they
refuse.
"""

import math
import re

import numpy as np
import pytest
import torch
from small_codecs import Plain

from uti.codecs import base
from uti.codecs.base import (
    codec_spec,
    codec_targets,
    group_indices,
    load_registered,
    pack_rows,
    register_codec,
    registered_here,
)
from uti.codecs.spec import SPECS, AudioSpec, CodecError, ImageSpec, TextSpec, shape_of
from uti.modalities.audio import AUDIO, normalise_audio
from uti.modalities.base import Audio, Image
from uti.modalities.image import IMAGE, normalise_image
from uti.modalities.text import TEXT

ABOUT = {"version": "1", "licence": "MIT", "source": "none"}
PICTURE = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
NOISE = 0.1 * torch.randn(2, 4800, generator=torch.Generator().manual_seed(0))


def text(**more):
    return TextSpec("words", (100,), **ABOUT, **more)


def image(**more):
    return ImageSpec("tiles", (16, 8), **ABOUT, **{"input_size": (16, 32), "grid": (2, 4), **more})


def audio(**more):
    form = {"sample_rate": 16_000, "channels": 1, "hop_length": 200, **more}
    return AudioSpec("hops", (16, 16), **ABOUT, **form)


def test_a_spec_as_data_is_its_modality_and_its_fields():
    common = {"version": "1", "licence": "MIT", "source": "none", "weights_sha256": "", "invariant": False}
    common |= {"idempotent": False, "decode_modes": ["deterministic"], "dtype": "float32", "notes": ["a"]}
    assert text(notes=("a",)).to_dict() == {
        **common, "modality": "text", "name": "words", "codebook_sizes": [100], "lossless": False
    }  # fmt: skip
    assert image(notes=("a",)).to_dict() == {
        **common, "modality": "image", "name": "tiles", "codebook_sizes": [16, 8], "input_size": [16, 32],
        "output_size": [16, 32], "grid": [2, 4], "n_positions": 8, "resize": "crop", "resample": "bicubic",
    }  # fmt: skip
    assert audio(notes=("a",)).to_dict() == {
        **common, "modality": "audio", "name": "hops", "codebook_sizes": [16, 16], "sample_rate": 16_000,
        "output_rate": 16_000, "channels": 1, "hop_length": 200, "chunk_length": 0, "chunk_stride": 0,
        "silent_tail": False,
    }  # fmt: skip
    assert {name: spec.modality for name, spec in SPECS.items()} == {m: m for m in ("text", "image", "audio")}
    assert [spec.n_codebooks for spec in (text(), image(), audio())] == [1, 2, 2]


def test_a_spec_says_its_form_in_a_line():
    assert (text().form, text(lossless=True).form) == ("lossy", "lossless")
    assert image().form == "16×32 → 2×4"
    assert image(output_size=(32, 64), grid=None, n_positions=3).form == "16×32 as 32×64 → 3"
    assert audio().form == "16 kHz, 80 positions/s"
    assert audio(output_rate=44_100).form == "16 kHz as 44.1 kHz, 220.5 positions/s"


def test_positions_samples_and_shapes():
    assert [image().positions(), image(grid=None, n_positions=3).positions()] == [8, 3]
    assert [audio().positions(n) for n in (None, 0, 1, 200, 201)] == [0, 0, 1, 1, 2]
    assert text().positions() is None
    assert [spec.samples_of(3) for spec in (text(), image(), audio())] == [None, None, 600]
    assert text().decoded_shape() is None
    assert image(output_size=(4, 6)).decoded_shape() == (3, 4, 6)
    assert (audio(channels=2).decoded_shape(9), audio().decoded_shape()) == ((2, 9), (1, 0))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (lambda: TextSpec("words", (), **ABOUT), "codec 'words': codebook_sizes must be positive, got ()"),
        (lambda: TextSpec("words", (3, 0), **ABOUT), "codebook_sizes must be positive, got (3, 0)"),
        (lambda: image(grid=(3, 3), n_positions=8), "a grid of (3, 3) has not the 8 positions"),
        (lambda: image(grid=None), "codec 'tiles': a codec for image must state n_positions"),
        (lambda: image(input_size=(0, 8)), "a codec for image must state input_size and output_size"),
        (lambda: image(output_size=(8, 8.0)), "a codec for image must state output_size"),
        (lambda: image(resize="pad"), "got 'pad' and 'bicubic'"),
        (lambda: image(resample="nearest"), "got 'crop' and 'nearest'"),
        (lambda: audio(chunk_length=10), "chunks of 10 samples cannot begin every 0 samples"),
        (lambda: audio(hop_length=0), "codec 'hops': a codec for audio must state hop_length"),
        (lambda: audio(channels=True), "a codec for audio must state channels"),
        (lambda: audio(sample_rate=-1), "a codec for audio must state sample_rate and output_rate"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(spec, told):
    with pytest.raises(CodecError, match=re.escape(told)):
        spec()


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), "int64 [2, 3]"),
        (np.zeros((4, 1), np.float32), "float32 [4, 1]"),
        ("words", "str []"),
        (None, "NoneType []"),
    ],
)
def test_a_message_describes_what_it_was_given(tensor, said):
    assert shape_of(tensor) == said


NEAR = torch.tensor([0.0, 1.0]).repeat(3 * 16 * 16).view(1, 3, 16, 32)


@pytest.mark.parametrize(
    ("spec", "signals", "told"),
    [
        (text(), "bare", "codec 'words' encodes a list of str, got str"),
        (text(), ["a", 1], "codec 'words' encodes a list of str, got list"),
        (text(), ["a", "\udc80b"], "the text '\\udc80b' holds half a surrogate pair"),
        (text(), ["\ud800"], "holds half a surrogate pair"),
        (text(), ["\udfff"], "holds half a surrogate pair"),
        (image(), NEAR[0], "encodes float32 [batch, 3, 16, 32], got float32 [3, 16, 32]"),
        (image(), NEAR.double(), "encodes float32 [batch, 3, 16, 32], got float64 [1, 3, 16, 32]"),
        (image(), NEAR[..., :31], "got float32 [1, 3, 16, 31]"),
        (image(), NEAR[:0], "codec 'tiles': nothing to encode in float32 [0, 3, 16, 32]"),
        (image(), NEAR * 1.01, "codec 'tiles' encodes finite values in [0, 1], got values outside"),
        (image(), NEAR - 0.01, "finite values in [0, 1], got values outside"),
        (image(), NEAR * math.nan, "finite values in [0, 1], got values outside"),
        (audio(), torch.zeros(1, 2, 9), "encodes float32 [batch, 1, samples], got float32 [1, 2, 9]"),
        (audio(), torch.zeros(1, 1, 0), "nothing to encode in float32 [1, 1, 0]"),
        (audio(), torch.full((1, 1, 9), -1.01), "finite values in [-1, 1], got values outside"),
        (audio(), None, "encodes float32 [batch, 1, samples], got NoneType []"),
    ],
)
def test_signals_that_a_codec_does_not_take(spec, signals, told):
    with pytest.raises(CodecError, match=re.escape(told)):
        spec.check_signals(signals)


def test_signals_at_the_limits_are_taken():
    text().check_signals([])
    text().check_signals(("a", "", "\ud7ff\ue000\U0001f600"))
    image().check_signals(NEAR)
    audio().check_signals(torch.tensor([[[-1.0, 1.0]]]), torch.tensor([1]))
    audio().check_signals(torch.zeros(2, 1, 9), torch.tensor([9, 1]))


@pytest.mark.parametrize("lengths", [[9], [0, 9], [10, 9], [-1, 9], [9, 9, 9]])
def test_lengths_that_the_signals_do_not_have(lengths):
    told = f"lengths must give 1 to 9 samples for each of 2 items, got {lengths}"
    with pytest.raises(CodecError, match=re.escape(told)):
        audio().check_signals(torch.zeros(2, 1, 9), torch.tensor(lengths))


def test_a_picture_becomes_what_its_spec_says_and_is_measured_at_the_size_that_comes_back():
    spec = image(output_size=(8, 12), resize="stretch", resample="bilinear")
    normal, record = IMAGE.normalise(spec, PICTURE)
    wanted, done = normalise_image(PICTURE, (16, 32), "stretch", "bilinear")
    assert torch.equal(normal.pixels, wanted) and record == done
    at_output = normalise_image(PICTURE, (8, 12), "stretch", "bilinear")[0]
    assert torch.equal(IMAGE.reference(spec, PICTURE, normal).pixels, at_output)
    assert IMAGE.reference(image(), PICTURE, normal) is normal
    batch, lengths = IMAGE.batch([normal, Image(wanted.flip(1))])
    assert batch.shape == (2, 3, 16, 32) and lengths is None
    assert torch.equal(batch[1], wanted.flip(1))
    assert [one.pixels.shape for one in IMAGE.items(spec, batch, [{}, {}])] == [(3, 16, 32)] * 2


def test_a_sound_becomes_what_its_spec_says_and_is_measured_at_the_rate_that_comes_back():
    spec, source = audio(output_rate=8_000), (NOISE, 48_000)
    normal, record = AUDIO.normalise(spec, source, 0.05)
    wanted, done = normalise_audio(NOISE, 48_000, target_rate=16_000, channels=1, clip_seconds=0.05)
    assert isinstance(normal, Audio) and normal.rate == 16_000
    assert torch.equal(normal.wave, wanted) and record == done and wanted.shape == (1, 800)
    reference = AUDIO.reference(spec, source, normal, 0.05)
    at_output = normalise_audio(NOISE, 48_000, target_rate=8_000, channels=1, clip_seconds=0.05)[0]
    assert reference.rate == 8_000 and torch.equal(reference.wave, at_output)
    assert AUDIO.reference(spec, source, normal).wave.shape == (1, 800)  # of the 0.1 s of the whole
    assert AUDIO.reference(audio(), source, normal) is normal
    batch, lengths = AUDIO.batch([normal, Audio(normal.wave[:, :300], 16_000)])
    assert batch.shape == (2, 1, 800) and lengths.tolist() == [800, 300]
    assert torch.equal(batch[1, :, :300], normal.wave[:, :300]) and not batch[1, :, 300:].any()
    items = AUDIO.items(spec, batch, [{"n_samples": 700}, {"n_samples": 300}])
    assert [(one.wave.shape, one.rate) for one in items] == [((1, 700), 8_000), ((1, 300), 8_000)]
    with pytest.raises(ValueError, match=r"zip\(\)"):
        AUDIO.items(spec, batch, [{"n_samples": 1}])


def test_a_text_stays_what_it_is():
    assert TEXT.normalise(text(), "a\r\n") == ("a\r\n", {})
    assert TEXT.batch(("a", "b")) == (["a", "b"], None)
    assert TEXT.items(text(), ("a", "b"), [{}, {}]) == ["a", "b"] and TEXT.reference(text(), "a", "a") is None


# The contract: what `Codec` does for whoever writes a codec.


class Skips(Plain):
    "A codec of audio of which no three hops make three positions."

    def expected_positions(self, n_samples=None):
        n = self.spec.positions(n_samples)
        return n + (n >= 3)


def test_rows_of_any_length_are_packed():
    codes, meta = pack_rows([[3, 1], [], [7, 8, 9]])
    assert codes.dtype == torch.int64 and codes.tolist() == [[[3, 1, 0]], [[0, 0, 0]], [[7, 8, 9]]]
    assert meta == [{"n_positions": 2}, {"n_positions": 0}, {"n_positions": 3}]
    assert pack_rows([]).codes.shape == (0, 1, 0) and pack_rows([]).meta == []
    assert list(group_indices("abac").items()) == [("a", [0, 2]), ("b", [1]), ("c", [3])]


CODES = torch.tensor([[[0, 15], [15, 0]]])
SOUND = {"n_positions": 2, "n_samples": 400}


@pytest.mark.parametrize(
    ("codes", "meta", "told"),
    [
        (CODES.int(), [SOUND], "codec 'hops' decodes int64 [batch, 2, n_positions], got int32 [1, 2, 2]"),
        (CODES[0], [SOUND], "got int64 [2, 2]"),
        (CODES[:, :1], [SOUND], "got int64 [1, 1, 2]"),
        (None, [SOUND], "got NoneType []"),
        (CODES, [], "codec 'hops': 1 items of codes came with 0 of meta"),
        (CODES + torch.tensor([[[0], [1]]]), [SOUND], "code 16 is outside codebook 1, which has 16 entries"),
        (CODES - torch.tensor([[[1], [0]]]), [SOUND], "code -1 is outside codebook 0, which has 16 entries"),
        (CODES, [{"n_samples": 400}], "meta must have n_positions, a count, got None"),
        (CODES, [{**SOUND, "n_samples": "400"}], "meta must have n_samples, a count, got '400'"),
        (CODES, [{**SOUND, "n_positions": -1}], "meta must have n_positions, a count, got -1"),
        (CODES, [{**SOUND, "n_positions": 3}], "meta says 3 positions, the codes have 2"),
        (CODES, [{**SOUND, "n_samples": 401}], "401 samples make 3 positions, got 2"),
        (CODES, [{**SOUND, "n_samples": 200}], "200 samples make 1 positions, got 2"),
    ],
)
def test_codes_and_metas_that_a_codec_does_not_decode(codes, meta, told):
    with pytest.raises(CodecError, match=re.escape(told)):
        Plain(audio()).decode(codes, meta)


def test_codes_at_the_limits_are_decoded_without_gradients():
    codec = Plain(audio())
    assert codec.decode(CODES, [SOUND])[1] is True
    assert codec.decode(CODES, [{"n_positions": 1, "n_samples": 1}])[0] is CODES
    assert codec.decode(CODES[:, :, :0], [{"n_positions": 0, "n_samples": 0}])[0].shape == (1, 2, 0)
    tiles = Plain(image())
    whole = torch.zeros(1, 2, 8, dtype=torch.int64)
    assert tiles.decode(whole, [{"n_positions": 8}])[1] is True
    for codes, n in ((whole, 7), (whole[..., :7], 7), (torch.zeros(1, 2, 9, dtype=torch.int64), 8)):
        with pytest.raises(CodecError, match=r"codec 'tiles': an image has 8 positions, got [79]"):
            tiles.decode(codes, [{"n_positions": n}])
    with pytest.raises(CodecError, match="codec 'hops' can encode but not decode"):
        Plain(audio(decode_modes=())).decode(CODES, [SOUND])


def test_the_meta_of_what_no_signal_gave():
    sound, picture, words = Plain(audio()), Plain(image()), Plain(text())
    assert sound.default_meta(401) == {"n_positions": 3, "n_samples": 401}
    assert picture.default_meta() == {"n_positions": 8} and words.default_meta() == {"n_positions": 1}
    assert sound.meta_for(3) == {"n_positions": 3, "n_samples": 600} and sound.meta_for(0) is None
    assert picture.meta_for(8) == {"n_positions": 8} and picture.meta_for(7) is None
    assert words.meta_for(7) == {"n_positions": 7}
    assert sound.audio_lengths(3) == {1: 200, 2: 400, 3: 600} and sound.audio_lengths(0) == {}
    assert Skips(audio()).audio_lengths(4) == {1: 200, 2: 400, 4: 600}
    assert Skips(audio()).meta_for(3) is None and picture.audio_lengths(9) == {}
    assert sound.own_checks(None, None) == [] and sound.to("cpu") is sound
    assert sound.loaded_weights() is None and sound.first_codebooks(1) is None


def test_a_codec_is_known_by_its_name_and_made_with_its_options(monkeypatch):
    monkeypatch.setattr(base, "_registered", {})
    register_codec("plain", Plain)
    register_codec("made", lambda size=16: Plain(image(input_size=(size, size))))
    register_codec("elsewhere", "small_codecs:Plain")
    assert {"plain", "made", "elsewhere", "embedded-text"} <= set(codec_targets())
    assert list(codec_targets()) == sorted(codec_targets())
    with monkeypatch.context() as patch:
        patch.setattr(Plain, "spec_of", classmethod(lambda cls, spec: "said without being made"))
        assert codec_spec("plain", spec=None) == "said without being made"
    spec = audio()
    assert load_registered("plain", spec=spec).spec is codec_spec("elsewhere", spec=spec) is spec
    assert codec_spec("made", size=8).input_size == load_registered("made", size=8).spec.input_size == (8, 8)
    assert registered_here() == {
        "plain": "small_codecs:Plain",
        "made": None,
        "elsewhere": "small_codecs:Plain",
    }
    with pytest.raises(CodecError, match="a codec named 'plain' is registered already"):
        register_codec("plain", Plain)
    with pytest.raises(CodecError, match="no codec is named 'embedded-imag'; the nearest names are em"):
        load_registered("embedded-imag")
    with pytest.raises(CodecError, match=r"no codec is named '§'; the nearest names are .*embedded-audio, "):
        load_registered("§")
    with pytest.raises(CodecError, match="codec 'made' does not take these options: side, size"):
        load_registered("made", side=1, size=2)
    with pytest.raises(CodecError, match="codec 'plain' does not take these options: none given"):
        load_registered("plain")
