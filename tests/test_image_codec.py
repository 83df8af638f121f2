"""The embedded image codec: same ids whatever the threads and the batch, any codes decode, and only its own
weights load.
"""

import hashlib

import numpy as np
import pytest
import torch
from bench.photographs import photographs
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from skimage.metrics import peak_signal_noise_ratio

from uti.codecs.base import CodecError
from uti.codecs.checkpoints import load_codec
from uti.codecs.embedded.audio import EmbeddedAudio
from uti.codecs.embedded.image import WEIGHTS, EmbeddedImage, EmbeddedImage1
from uti.files import digest

META = {"n_positions": 1024}


@pytest.fixture(scope="module")
def codec() -> EmbeddedImage:
    return EmbeddedImage()


def test_it_says_what_it_promises():
    assert EmbeddedImage.spec_of(64) == EmbeddedImage(64).spec
    assert EmbeddedImage(64).spec.to_dict() == {
        "modality": "image",
        "name": "embedded-image",
        "codebook_sizes": [65_536],
        "version": "2",
        "licence": "Apache-2.0",
        "source": "in the package; trained on procedural pictures",
        "weights_sha256": digest(WEIGHTS),
        "invariant": True,
        "idempotent": False,
        "decode_modes": ["deterministic"],
        "dtype": "float64",
        "notes": [],
        "input_size": [64, 64],
        "output_size": [64, 64],
        "grid": [8, 8],
        "n_positions": 64,
        "resize": "crop",
        "resample": "bicubic",
    }


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    arrays = list(photographs().values())[:3]
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1).float() / 255


def test_ids_do_not_depend_on_threads_or_batch(codec, images):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = codec.encode(images).codes
        torch.set_num_threads(2)
        assert torch.equal(codec.encode(images).codes, together)
        assert torch.equal(torch.cat([codec.encode(p[None]).codes for p in images]), together)
        assert torch.equal(codec.encode(images.flip(0)).codes.flip(0), together)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "version", "ids"),
    [
        ("embedded-image@1", "1", "38e0560063728124c466c529cd9cb84c3c06e4ce93492860d988b990618993cc"),
        ("embedded-image", "2", "048953c0f5647f40a82327e0f38aa1214cf3eb843bc7b081f51935c9bad202d1"),
    ],
)
def test_ids_of_a_version_are_these(name, version, ids):
    """A version gives these ids for this image, on any machine; ids that change their meaning need another
    version.
    """
    codec = load_codec(name)
    assert codec.spec.version == version
    y, x = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    image = torch.stack([x / 255, y / 255, ((x // 16 + y // 16) % 2).float()])[None]
    codes = codec.encode(image).codes
    assert hashlib.sha256(codes.numpy().astype("<i8").tobytes()).hexdigest() == ids


def test_shapes_ranges_and_meta(codec, images):
    codes, meta = codec.encode(images)
    assert codes.shape == (3, 1, 1024) and codes.dtype == torch.int64
    assert (
        codes.min() >= 0
        and codes.max() < codec.spec.codebook_sizes[0] == codec.runtime_codebook_sizes()[0] == 2**16
    )
    assert meta == [META] * 3
    decoded = codec.decode(codes, meta)
    assert decoded.shape == (3, 3, 256, 256) and decoded.dtype == torch.float32
    assert decoded.min() >= 0 and decoded.max() <= 1


def test_decoded_pictures_resemble_the_originals(codec, images):
    for image, decoded in zip(images, codec.decode(*codec.encode(images)), strict=True):
        assert peak_signal_noise_ratio(image.numpy(), decoded.numpy(), data_range=1) > 20


@pytest.mark.parametrize("fill", [0, 2**16 - 1, None])
def test_any_codes_decode(codec, fill):
    codes = torch.randint(2**16, (2, 1, 1024)) if fill is None else torch.full((2, 1, 1024), fill)
    decoded = codec.decode(codes, [META] * 2)
    assert decoded.shape == (2, 3, 256, 256) and decoded.isfinite().all()


@pytest.mark.parametrize(
    "codes",
    [
        torch.full((1, 1, 1024), 2**16),
        torch.full((1, 1, 1024), -1),
        torch.zeros(1, 2, 1024, dtype=torch.int64),
    ],
)
def test_codes_out_of_range_are_refused(codec, codes):
    with pytest.raises(CodecError):
        codec.decode(codes, [META])


@pytest.mark.parametrize("n", [0, 1023, 1025])
def test_another_number_of_positions_is_refused(codec, n):
    with pytest.raises(CodecError, match=f"1024 positions, got {n}"):
        codec.decode(torch.zeros(1, 1, n, dtype=torch.int64), [{"n_positions": n}])
    with pytest.raises(CodecError):
        codec.decode(torch.zeros(1, 1, 1024, dtype=torch.int64), [{"n_positions": n}])


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(1, 3, 255, 256),
        torch.rand(1, 1, 256, 256),
        torch.full((1, 3, 256, 256), 1.5),
        torch.full((1, 3, 256, 256), torch.nan),
    ],
)
def test_what_is_no_picture_is_refused(codec, image):
    with pytest.raises(CodecError, match="embedded-image"):
        codec.encode(image)


@pytest.mark.parametrize("make", [EmbeddedImage, EmbeddedAudio])
def test_loading_leaves_the_random_numbers_alone(make):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    make()
    assert torch.equal(torch.rand(1), expected)


def _missing(weights):
    weights.popitem()


def _unknown(weights):
    weights["another"] = torch.zeros(1)


def _reshaped(weights):
    name = next(iter(weights))
    weights[name] = weights[name].flatten()[:-1]


def _infinite(weights):
    next(iter(weights.values())).view(-1)[0] = torch.inf


@pytest.mark.parametrize("damage", [_missing, _unknown, _reshaped, _infinite])
def test_other_weights_are_refused_in_one_sentence(tmp_path, damage):
    weights = load_file(WEIGHTS)
    damage(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "w.safetensors")
    with pytest.raises(CodecError, match="not the weights of the embedded image codec") as refused:
        EmbeddedImage(weights=tmp_path / "w.safetensors")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04 a pickle", WEIGHTS.read_bytes()[:1000]])
def test_a_file_that_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CodecError, match="not a readable safetensors file"):
        EmbeddedImage(weights=tmp_path / "w.safetensors")


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(CodecError, match="weights must be a file"):
        EmbeddedImage(weights=tmp_path / "w.safetensors")


def test_it_is_registered_and_small(codec):
    assert load_codec("embedded-image").spec == codec.spec
    assert WEIGHTS.stat().st_size <= 1.5 * EmbeddedImage1.shipped.stat().st_size
    with safe_open(WEIGHTS, "pt") as file:
        assert "procedural" in file.metadata()["trained_on"] and int(file.metadata()["steps"]) > 0
