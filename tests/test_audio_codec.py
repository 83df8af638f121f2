"""The embedded audio codec: the same ids however it is asked, exact lengths, and a prefix of codebooks that
is a codec itself.
"""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from uti.codecs.base import CodecError
from uti.codecs.embedded import audio as embedded_audio
from uti.codecs.embedded.audio import HOP, SAMPLE_RATE, WEIGHTS, EmbeddedAudio
from uti.codecs.embedded.audio_network import MDCT
from uti.files import digest

LENGTHS = (1, 319, 320, 321, 7777, SAMPLE_RATE)


@pytest.fixture(scope="module")
def codec():
    return EmbeddedAudio()


def test_it_says_what_it_promises_and_what_it_computes_with():
    codec = EmbeddedAudio(2)
    assert EmbeddedAudio.spec_of(2) == codec.spec and codec.spec.to_dict() == {
        "modality": "audio",
        "name": "embedded-audio",
        "codebook_sizes": [1024, 1024],
        "version": "1",
        "licence": "Apache-2.0",
        "source": "in the package; trained on synthesised speech, music and noise",
        "weights_sha256": digest(WEIGHTS),
        "invariant": True,
        "idempotent": False,
        "decode_modes": ["deterministic"],
        "dtype": "float64",
        "notes": [],
        "sample_rate": 24_000,
        "output_rate": 24_000,
        "channels": 1,
        "hop_length": 320,
        "chunk_length": 0,
        "chunk_stride": 0,
        "silent_tail": True,
    }
    tensors, files = codec.loaded_weights()
    assert {name.split(".")[0] for name in tensors} == {"encoder", "decoder"} and files == [WEIGHTS]


@pytest.fixture(scope="module")
def sounds():
    """Chirps over noise, float32 [len(LENGTHS), 1, SAMPLE_RATE]: every item differs, and is loud to its very
    end.
    """
    t = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    noise = torch.rand(len(LENGTHS), 1, SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) - 0.5
    chirps = torch.stack(
        [torch.sin(2 * math.pi * (110 * (i + 1) * t + 300 * t**2)) for i in range(len(LENGTHS))]
    )[:, None]
    return 0.5 * chirps + 0.3 * noise


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def snr(reference, estimate):
    return (10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum())).item()


@pytest.mark.parametrize("n_frames", [1, 2, 3, 75])
def test_the_transform_is_orthonormal_and_inverts_at_the_ends_too(n_frames):
    mdct = MDCT().double()
    wave = torch.randn(
        1, n_frames * HOP, dtype=torch.float64, generator=torch.Generator().manual_seed(n_frames)
    )
    coefficients = mdct(wave)
    assert coefficients.shape == (1, n_frames, HOP)
    assert (mdct.inverse(coefficients) - wave).abs().max() < 1e-11
    assert math.isclose(coefficients.square().sum(), wave.square().sum(), rel_tol=1e-12)


def test_ids_do_not_depend_on_threads(codec, sounds, threads):
    threads(1)
    one = codec.encode(sounds).codes
    threads(2)
    assert torch.equal(codec.encode(sounds).codes, one)


def test_ids_do_not_depend_on_the_batch(codec, sounds):
    "Neither the neighbours nor what stands in the padding reaches an item, its last partial frame included."
    codes, meta = codec.encode(
        sounds, torch.tensor(LENGTHS)
    )  # beyond its length each item goes on as loud as before
    for i, n in enumerate(LENGTHS):
        alone = codec.encode(sounds[i : i + 1, :, :n].contiguous()).codes[0]
        assert alone.shape[1] == meta[i]["n_positions"] == math.ceil(n / HOP)
        assert torch.equal(codes[i, :, : alone.shape[1]], alone)
        assert not codes[i, :, alone.shape[1] :].any()


def test_ids_do_not_depend_on_neighbours_of_the_same_length(codec, sounds):
    together = codec.encode(sounds).codes
    assert all(torch.equal(codec.encode(sounds[i : i + 1]).codes[0], together[i]) for i in range(len(sounds)))


def test_a_long_sound_is_encoded_and_decoded_piece_by_piece_as_it_would_be_whole(codec, sounds, monkeypatch):
    "Ids to the last one; samples to float32's, because a matrix product may sum in another order."
    lengths = torch.tensor([SAMPLE_RATE, 7777])
    whole = codec.encode(sounds[:2], lengths)
    decoded = codec.decode(*whole)
    for chunk in (2, 7, 64):
        monkeypatch.setattr(embedded_audio, "CHUNK", chunk)
        assert torch.equal(codec.encode(sounds[:2], lengths).codes, whole.codes)
        assert (codec.decode(*whole) - decoded).abs().max() < 1e-5


def test_lengths_are_exact_and_the_rest_is_silent(codec, sounds):
    encoded = codec.encode(sounds, torch.tensor(LENGTHS))
    assert json.loads(json.dumps(encoded.meta)) == encoded.meta
    decoded = codec.decode(*encoded)
    assert decoded.shape == (len(LENGTHS), 1, max(LENGTHS)) and decoded.dtype == torch.float32
    for i, n in enumerate(LENGTHS):
        n_frames = math.ceil(n / HOP)
        alone = codec.decode(encoded.codes[i : i + 1, :, :n_frames], encoded.meta[i : i + 1])
        assert alone.shape == (1, 1, n)
        assert torch.allclose(decoded[i, :, :n], alone[0], atol=1e-6) and not decoded[i, :, n:].any()


@pytest.mark.parametrize("n_codebooks", range(1, 9))
def test_fewer_codebooks_are_the_first_of_all(n_codebooks, codec, sounds):
    fewer = EmbeddedAudio(n_codebooks=n_codebooks)
    codes = fewer.encode(sounds[:2]).codes
    assert fewer.spec.codebook_sizes == fewer.runtime_codebook_sizes() == (1024,) * n_codebooks
    assert torch.equal(codes, codec.encode(sounds[:2]).codes[:, :n_codebooks])


def test_more_codebooks_are_better():
    t = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    note = sum(0.2 * torch.exp(-3 * t) * torch.sin(2 * math.pi * 220 * h * t) / h for h in range(1, 9))[
        None, None
    ]
    quality = [snr(note, codec.decode(*codec.encode(note))) for codec in map(EmbeddedAudio, (1, 2, 4, 8))]
    assert quality == sorted(quality) and quality[-1] > quality[0] + 3


@pytest.mark.parametrize("n_codebooks", [1, 8])
def test_any_codes_decode(n_codebooks):
    codec = EmbeddedAudio(n_codebooks=n_codebooks)
    meta = [{"n_positions": 5, "n_samples": 5 * HOP - 7}] * 3
    random = torch.randint(1024, (1, n_codebooks, 5), generator=torch.Generator().manual_seed(0))
    wave = codec.decode(torch.cat([torch.zeros_like(random), torch.full_like(random, 1023), random]), meta)
    assert wave.shape == (3, 1, 5 * HOP - 7)
    assert wave.isfinite().all() and wave.abs().max() <= 1


@pytest.mark.parametrize("code", [-1, 1024])
def test_codes_out_of_range_are_refused(code, codec):
    codes = torch.zeros(1, 8, 3, dtype=torch.int64)
    codes[0, 5, 1] = code
    with pytest.raises(CodecError, match=f"code {code} is outside codebook 5"):
        codec.decode(codes, [{"n_positions": 3, "n_samples": 900}])


def test_silence_stays_silent(codec, sounds):
    silence = torch.zeros(1, 1, SAMPLE_RATE)
    assert codec.decode(*codec.encode(silence)).abs().max() < 1e-4
    pause = sounds[:1].clone()
    pause[..., SAMPLE_RATE // 3 : 2 * SAMPLE_RATE // 3] = 0
    decoded = codec.decode(*codec.encode(pause))
    assert decoded[..., SAMPLE_RATE // 3 + 4 * HOP : 2 * SAMPLE_RATE // 3 - 4 * HOP].abs().max() < 1e-3


@pytest.mark.parametrize("n_codebooks", [0, 9, -1, None, "8", 2.0, True])
def test_impossible_numbers_of_codebooks_are_refused(n_codebooks):
    with pytest.raises(CodecError, match="n_codebooks must be 1 to 8"):
        EmbeddedAudio(n_codebooks=n_codebooks)


@pytest.mark.parametrize(
    "spoil", [lambda w: w * float("nan"), lambda w: w.to(torch.int32)], ids=["nan", "integers"]
)
def test_weights_that_are_no_finite_floats_are_refused(spoil, tmp_path):
    state = load_file(WEIGHTS)
    name = sorted(state)[0]
    save_file({**state, name: spoil(state[name])}, tmp_path / "audio.safetensors")
    with pytest.raises(CodecError, match=f"not the weights of the embedded audio codec.*{name}"):
        EmbeddedAudio(weights=tmp_path / "audio.safetensors")


@pytest.mark.parametrize("n_samples", [0, 5, 320 * 3 + 1])
def test_a_length_that_does_not_make_the_positions_is_refused(n_samples, codec):
    with pytest.raises(CodecError, match=f"{n_samples} samples make . positions, got 3"):
        codec.decode(torch.zeros(1, 8, 3, dtype=torch.int64), [{"n_positions": 3, "n_samples": n_samples}])


def test_what_overshoots_is_clipped(codec):
    square = torch.sign(torch.sin(2 * math.pi * 100 * torch.arange(SAMPLE_RATE) / SAMPLE_RATE))[None, None]
    assert codec.decode(*codec.encode(square)).abs().max() == 1
