"""Files of every format, as they come from cameras, scanners, editors and recorders."""

import io
import json
import math
import os
import struct
import warnings
import zlib
from pathlib import Path

import fuzz
import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from uti.audit.samples import load_samples
from uti.compat import torchaudio
from uti.modalities.audio import load_audio, normalise_audio, read_audio, write_wav
from uti.modalities.audio_files import decode_whole, missing_bytes
from uti.modalities.base import Audio, MediaError, MediaWarning
from uti.modalities.base import Image as ImageValue
from uti.modalities.image import load_image, normalise_image, read_image, write_png
from uti.modalities.registry import MODALITIES, find_media

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(
    np.kron(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
)  # 64×48 in blocks


LONG = (0.3 * RNG.standard_normal(96_000)).clip(-1, 1).astype(np.float32)  # 2 s at 48 kHz


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tif", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("webp", {"quality": 95}, 10),
        ("jpg", {"quality": 95}, 10),
        ("gif", {}, 10),
    ],
)
def test_formats(tmp_path, suffix, options, tolerance):
    loaded = load_image(saved(tmp_path / f"a.{suffix}", PICTURE, **options))
    assert loaded.mode == "RGB" and loaded.size == (64, 48)
    assert np.abs(np.asarray(loaded, dtype=int) - np.asarray(PICTURE)).mean() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    turned = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        orientation
    ]  # the transpose that a camera held so has applied
    image = PICTURE if turned is None else PICTURE.transpose(Image.Transpose(turned))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(load_image(saved(tmp_path / "a.png", image, exif=exif)), PICTURE)


def test_alpha_lies_on_white(tmp_path):
    rgba = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    assert load_image(saved(tmp_path / "a.png", rgba)).getpixel((0, 0)) == pytest.approx(
        (227, 127, 127), abs=1
    )
    assert load_image(Image.new("LA", (4, 4), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_transparency(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    loaded = load_image(saved(tmp_path / "a.png", palette, transparency=0))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 1, 2, 257, 32896, 65535]], dtype=np.uint16)
    loaded = load_image(saved(tmp_path / "a.png", Image.fromarray(values)))
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 0, 0, 1, 128, 255]


def test_a_dark_sixteen_bit_scan_stays_dark(tmp_path):
    loaded = load_image(saved(tmp_path / "a.png", Image.fromarray(np.full((4, 4), 200, dtype=np.uint16))))
    assert np.asarray(loaded).max() <= 1


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBA", "RGBX", "LA", "I;16", "I;16B", "F"]
)
def test_every_mode_ends_as_rgb(mode):
    grey = np.asarray(PICTURE.convert("L"))
    if mode.startswith("I;16"):
        image = Image.frombytes(
            mode,
            PICTURE.size,
            (grey * np.uint16(257)).astype(">u2" if mode.endswith("B") else "<u2").tobytes(),
        )
    elif mode == "F":
        image = Image.fromarray((grey / 255).astype(np.float32))
    else:
        image = PICTURE.convert("RGBA" if mode == "LA" else "RGB").convert(mode)
    pixels, record = normalise_image(image, (32, 32))
    assert (
        pixels.shape == (3, 32, 32)
        and pixels.dtype == torch.float32
        and pixels.min() >= 0
        and pixels.max() <= 1
    )
    assert pixels.std() > 0.1 and record["source_size"] == [48, 64]


def test_values_without_a_known_white_are_refused_and_the_file_is_named(tmp_path):
    for name, values in (
        ("whole.tif", np.full((8, 8), 200, np.int32)),
        ("bright.tif", np.full((8, 8), 1.5, np.float32)),
        ("nan.tif", np.full((8, 8), np.nan, np.float32)),
    ):
        with pytest.raises(MediaError, match=f"{name}: "):
            load_image(saved(tmp_path / name, Image.fromarray(values)))


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    image = Image.fromarray(np.array([[40_000, 20_000]], dtype=np.uint16))
    image.info["transparency"] = 40_000
    assert np.asarray(load_image(image))[0, :, 0].tolist() == [255, 78]


def test_numbers_without_a_scale_are_refused(tmp_path):
    with pytest.raises(MediaError, match=r"a.tif: .*which value is white"):
        load_image(saved(tmp_path / "a.tif", PICTURE.convert("L").convert("I")))
    with pytest.raises(MediaError, match=r"b.tif: .*in \[0, 1\]"):
        load_image(saved(tmp_path / "b.tif", PICTURE.convert("L").convert("F")))
    unit = Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32))
    assert load_image(saved(tmp_path / "c.tif", unit)).getpixel((0, 0)) == (128, 128, 128)


def test_cmyk_jpeg(tmp_path):
    white = load_image(saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0))))
    assert np.asarray(white).min() > 250


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("keep", [0, 10, 60, -40])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    whole = saved(tmp_path / f"a.{suffix}", PICTURE).read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(whole[:keep])
    with pytest.raises(MediaError, match=f"b.{suffix}: "):
        load_image(tmp_path / f"b.{suffix}")


@pytest.mark.parametrize("missing", [12, 16, 20])
def test_a_png_without_its_last_bytes_is_refused_though_its_pixels_are_there(tmp_path, missing):
    whole = saved(tmp_path / "a.png", PICTURE).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:-missing])
    with pytest.raises(MediaError, match=r"b.png: cannot be read"):
        load_image(tmp_path / "b.png")


def test_a_png_with_a_flipped_bit_is_refused(tmp_path):
    data = bytearray(saved(tmp_path / "a.png", PICTURE).read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(MediaError, match=r"a.png: cannot be read"):
        load_image(tmp_path / "a.png")


def test_damaged_inputs_are_read_or_refused_and_nothing_else(capsys):
    "`make fuzz` tries 37,000 of them."
    assert fuzz.run(100, seed=7) == 0, capsys.readouterr().out


def test_a_broken_exif_does_not_keep_a_picture_from_being_read_and_turned(tmp_path):
    turned = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    resolution = struct.pack("<HHII", 0x11A, 10, 1, 8 + 2 + 24 + 4)
    tail = struct.pack("<Iii", 0, -1, 0)
    payload = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + resolution + tail
    data = saved(tmp_path / "a.jpg", PICTURE).read_bytes()
    path = tmp_path / "b.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:])
    assert load_image(path).size == PICTURE.size[::-1]


def test_an_exif_that_cannot_be_read_is_said_and_the_picture_is_not_turned(monkeypatch):
    def broken(self):
        raise struct.error("unpack requires a buffer of 8 bytes")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    with pytest.warns(MediaWarning, match="its EXIF cannot be read .*: it is not turned"):
        assert load_image(PICTURE).size == PICTURE.size


def test_postscript_behind_the_name_of_a_jpeg_never_reaches_ghostscript(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(MediaError, match="not an image"):
        load_image(tmp_path / "a.jpg")


def png(path, width, bits, colour, row, *more):
    "One row of pixels, as the bytes that a PNG has for them; Pillow does not write all that it reads."
    head = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize(("bits", "value"), [(2, 1), (2, 3), (4, 7), (4, 15)])
def test_grey_of_few_bits_with_a_transparent_value(bits, value, tmp_path):
    levels = [value, (value + 1) % 2**bits]
    row = sum(v << (8 - bits * (i + 1)) for i, v in enumerate(levels))
    path = png(tmp_path / "a.png", 2, bits, 0, bytes([row]), (b"tRNS", struct.pack(">H", value)))
    grey = levels[1] * 255 // (2**bits - 1)
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [255, grey]


def test_grey_and_coloured_sixteen_bits_are_the_same(tmp_path):
    value = struct.pack(">H", 40_100)
    grey = load_image(png(tmp_path / "grey.png", 1, 16, 0, value))
    colour = load_image(png(tmp_path / "colour.png", 1, 16, 2, 3 * value))
    assert grey.getpixel((0, 0)) == colour.getpixel((0, 0))


HALF = {"wav": {"subtype": "PCM_16"}, "aiff": {"subtype": "PCM_16"}, "flac": {}, "mp3": {}}


@pytest.mark.parametrize("suffix", HALF)
def test_a_sound_that_is_cut_off_is_refused(suffix, tmp_path):
    sf.write(tmp_path / f"a.{suffix}", LONG, 48_000, **HALF[suffix])
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(MediaError, match=f"a.{suffix}: (is cut off|cannot be read)"):
        read_audio(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["ogg", "flac", "mp3"])
def test_of_files_that_were_joined_all_is_read_and_it_is_said(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    sf.write(path, LONG, 48_000, format=suffix.upper())
    path.write_bytes(path.read_bytes() * 2)
    with pytest.warns(MediaWarning, match="goes on after 2.00 s"):
        assert read_audio(path).wave.shape[1] == pytest.approx(2 * len(LONG), rel=0.05)


def test_an_ogg_without_its_last_page_is_said(tmp_path):
    sf.write(tmp_path / "a.ogg", LONG, 48_000)
    data = (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(data[: data.rindex(b"OggS")])
    with pytest.warns(MediaWarning, match=r"a.ogg: has no end: it was recorded live, or it is cut off"):
        read_audio(tmp_path / "a.ogg")


@pytest.mark.parametrize("rate", [24_000, 48_000])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])  # which counts at 48 kHz, whatever its rate
def test_an_ogg_that_lost_its_first_page_of_sound_is_said(subtype, rate, tmp_path):
    "libsndfile takes it for one that was recorded live, whose count of samples does not begin at 0."
    path = tmp_path / "a.ogg"
    sf.write(path, np.tile(LONG, 2)[: 4 * rate], rate, format="OGG", subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wave, found = load_audio(path)
        assert wave.shape[1] == 4 * found  # a whole one is nothing to be said of
    data = bytearray(path.read_bytes())
    pages = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    sound = next(at for at in pages if int.from_bytes(data[at + 6 : at + 14], "little") > 0)
    data[sound + 200] ^= 1  # the page does not fit its checksum any more
    path.write_bytes(data)
    with pytest.warns(MediaWarning, match=r"a.ogg: its last page ends at 4.0\d s, and \d\.\d+ s are"):
        read_audio(path)


def test_what_is_lost_in_the_middle_is_counted_and_what_follows_is_read(tmp_path):
    path = tmp_path / "a.mp3"
    sf.write(path, np.tile(LONG, 2), 48_000, format="MP3")
    whole, data = decode_whole(path), bytearray(path.read_bytes())
    assert (whole.rate, whole.n_lost, whole.seconds) == (48_000, 0, pytest.approx(4, abs=0.1))
    for at in (len(data) // 3, len(data) // 2):
        data[at : at + 3000] = bytes(3000)
    path.write_bytes(data)
    damaged = decode_whole(path)
    assert damaged.n_lost > 1 and 0.6 < damaged.wave.shape[1] / whole.wave.shape[1] < 1
    with pytest.raises(MediaError, match=r"a.mp3: is cut off or damaged"):
        read_audio(path)


def test_parts_of_different_rates_are_no_sound(tmp_path):
    for rate in (24_000, 48_000):
        sf.write(tmp_path / f"{rate}.mp3", LONG, rate, format="MP3")
    joined = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    (tmp_path / "a.mp3").write_bytes(joined)
    with pytest.raises(MediaError, match=r"a.mp3: its parts have different rates or numbers of channels"):
        read_audio(tmp_path / "a.mp3")


def test_sounds_whose_length_nobody_wrote_down_are_read_whole(tmp_path):
    "As encoders write them into pipes."
    sf.write(tmp_path / "a.wav", LONG, 48_000, subtype="PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = b"\xff" * 4
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(data)
    sf.write(tmp_path / "b.flac", LONG, 48_000)
    data = bytearray((tmp_path / "b.flac").read_bytes())
    data[21] &= 0xF0  # the number of samples in its STREAMINFO: 36 bits
    data[22:26] = bytes(4)
    (tmp_path / "b.flac").write_bytes(data)
    for name in ("a.wav", "b.flac"):
        assert read_audio(tmp_path / name).wave.shape[1] == len(LONG)


def test_a_list_of_files_behind_the_name_of_a_sound_is_no_sound(tmp_path):
    sf.write(tmp_path / "b.wav", LONG, 48_000)
    for name, text in {
        "concat.m4a": "ffconcat version 1.0\nfile b.wav\n",
        "hls.m4a": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nb.wav\n#EXT-X-ENDLIST\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match=f"{name}: cannot be read as audio"):
            read_audio(tmp_path / name)


def test_samples_on_another_scale_are_said():
    with pytest.warns(MediaWarning, match=r"\d+% of the samples lie outside \[-1, 1\] and were clipped"):
        normalise_audio(WAVE.T * 32768, 48_000, target_rate=24_000, channels=1)
    loud = np.full((1, 100), 0.5, np.float32)
    loud[0, :25] = -3
    with pytest.warns(MediaWarning, match=r"^25% of the samples .* up to 3"):
        normalise_audio(loud, 24_000, target_rate=24_000, channels=1)


def test_frames_before_channels_are_refused():
    with pytest.raises(MediaError, match=r"more channels than samples; audio is \[channels, samples\]"):
        normalise_audio(np.zeros((24_000, 2), np.float32), 24_000, target_rate=24_000, channels=1)


def test_what_a_folder_holds_and_is_not_audited_is_said(tmp_path):
    for name in ("A.TXT", ".hidden.txt", "._note.txt", "b.xyz", "noise.WAV", "README"):
        (tmp_path / name).write_text("text")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "inside.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.warns(MediaWarning) as told:
        samples = load_samples(tmp_path, ["text"])
    assert "A.TXT" in [s.name for s in samples]
    for reason in (
        ".hidden.txt (hidden)", "._note.txt (hidden)", "b.xyz (.xyz is not read)", "inside.txt (a folder)",
        "noise.WAV (there is no audio codec)",
        "README (a name without a suffix)", "gone.png (a link to nothing)", "pipe.txt (not a file)",
    ):  # fmt: skip
        assert reason in str(told[0].message)


def test_names_that_become_the_same_are_refused(tmp_path):
    for name in ("cafe\u0301.txt", "caf\u00e9.txt"):
        (tmp_path / name).write_text("text")
    with pytest.raises(MediaError, match="two files are called caf"):
        load_samples(tmp_path, ["text"])


def test_a_jpeg_of_several_pictures_is_read(tmp_path):
    PICTURE.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[PICTURE])
    assert load_image(tmp_path / "a.jpg").size == PICTURE.size


def test_no_file_stays_open(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    paths = [tmp_path / f"a.{suffix}" for suffix in ("gif", "tif", "webp", "png")]
    for path in paths:
        frames[0].save(path, save_all=True, append_images=frames[1:])
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else None
    kept = [read_image(path) for path in paths]
    assert before is None or len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(kept) == 4


def test_missing_files_and_folders_are_named(tmp_path):
    for read in (load_image, read_audio):
        for path in (tmp_path / "absent.any", tmp_path):
            with pytest.raises(MediaError, match=path.name):
                read(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_array_of_one_channel_is_grey(dtype):
    grey = (RNG.integers(0, 256, (5, 7)) / (1 if dtype == np.uint8 else 255)).astype(dtype)
    pictures = [np.asarray(load_image(array)) for array in (grey, grey[..., None])]
    assert pictures[0].shape == (5, 7, 3) and (pictures[0] == pictures[1]).all()
    assert np.allclose(pictures[0][..., 0], grey * (1 if dtype == np.uint8 else 255), atol=0.51)


def test_a_picture_one_pixel_wide_and_a_tensor_without_channels():
    column = RNG.integers(0, 256, (5, 1), dtype=np.uint8)
    assert np.array_equal(np.asarray(load_image(column)), column[..., None].repeat(3, 2))
    grey = torch.from_numpy(RNG.integers(0, 256, (5, 7), dtype=np.uint8))
    assert np.array_equal(np.asarray(load_image(grey)), grey[..., None].expand(5, 7, 3).numpy())
    half = (grey / 255).half()
    assert np.abs(np.asarray(load_image(half))[..., 0].astype(int) - grey.numpy()).max() <= 1
    with pytest.raises(MediaError, match=r"array int32 \[4, 5\]"):
        load_image(np.zeros((4, 5), np.int32))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(MediaError, match=r"too many pixels"):
        load_image(saved(tmp_path / "a.png", PICTURE))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.full((4, 4), 1.5),
        np.full((4, 4), np.nan),
        np.zeros((4, 4), np.int32),
        torch.zeros(5, 4, 4),
        torch.zeros(1, 3, 4, 4),
        Image.new("RGB", (0, 4)),
        None,
        [[1, 2]],
        b"png",
    ],
)
def test_arrays_that_are_no_pictures(array):
    with pytest.raises(MediaError):
        normalise_image(array, (8, 8))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_size_becomes_the_size_asked_for_the_same_way_from_any_container(
    height, width, new_height, new_width, seed
):
    pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    out, record = normalise_image(pixels, (new_height, new_width))
    assert (
        out.shape == (3, new_height, new_width)
        and out.dtype == torch.float32
        and out.min() >= 0
        and out.max() <= 1
    )
    assert (
        json.loads(json.dumps(record))
        == record
        == {
            "source_size": [height, width],
            "size": [new_height, new_width],
            "crop": "centre",
            "resize": "bicubic",
        }
    )
    for same in (
        pixels.movedim(0, -1).numpy(),
        pixels.double(),
        pixels.requires_grad_(),
        pixels.movedim(0, -1).detach().numpy().astype(np.float64),
    ):
        assert torch.equal(normalise_image(same, (new_height, new_width))[0], out)


def test_the_crop_is_in_the_middle():
    pixels = torch.zeros(3, 8, 24)
    pixels[:, :, 8:16] = 1
    assert normalise_image(pixels, (8, 8))[0].eq(1).all()
    assert normalise_image(pixels.movedim(1, 2), (8, 8))[0].eq(1).all()


def test_stretched_the_whole_picture_is_kept():
    pixels, record = normalise_image(PICTURE, (16, 8), "stretch", "bilinear")
    assert record == {"source_size": [48, 64], "size": [16, 8], "crop": "none", "resize": "bilinear"}
    wanted = np.asarray(PICTURE.resize((8, 16), Image.Resampling.BILINEAR))
    assert np.array_equal((pixels * 255).round().movedim(0, -1).numpy(), wanted)
    cropped = normalise_image(PICTURE, (12, 16), "crop", "bilinear")[0]  # of the same proportions
    wanted = np.asarray(PICTURE.resize((16, 12), Image.Resampling.BILINEAR))
    assert np.array_equal((cropped * 255).round().movedim(0, -1).numpy(), wanted)
    for resize, resample in (("crop", "nearest"), ("pad", "bicubic")):
        with pytest.raises(MediaError, match=f"got '{resize}' and '{resample}'"):
            normalise_image(PICTURE, (8, 8), resize, resample)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(MediaError, match=r"0×8"):
        normalise_image(PICTURE, (0, 8))


WAVE = (0.5 * np.sin(np.arange(4800) * 0.1)).astype(np.float32)


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"]
)
def test_wav_of_every_sample_format(tmp_path, subtype):
    sf.write(tmp_path / "a.wav", WAVE, 48_000, subtype=subtype)
    wave, rate = load_audio(tmp_path / "a.wav")
    assert rate == 48_000 and wave.dtype == torch.float32
    error = (wave[0, 1000:4800] - torch.from_numpy(WAVE)[1000:]).abs().max()  # ADPCM adapts for a while
    assert error < {"PCM_U8": 0.01, "ULAW": 0.03, "ALAW": 0.03, "IMA_ADPCM": 0.03}.get(subtype, 1e-4)


@pytest.mark.parametrize(("suffix", "options"), [("flac", {}), ("ogg", {}), ("mp3", {}), ("WAV", {})])
def test_other_containers(tmp_path, suffix, options):
    sf.write(tmp_path / f"a.{suffix}", np.stack([WAVE, -WAVE], 1), 48_000, format=suffix.upper(), **options)
    wave, rate = load_audio(tmp_path / f"a.{suffix}")
    assert wave.shape[0] == 2 and rate == 48_000
    assert find_media(tmp_path) == {"text": [], "image": [], "audio": [tmp_path / f"a.{suffix}"]}


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (11_025, 2), (44_100, 6), (96_000, 1)])
def test_any_rate_and_channel_count(rate, channels):
    wave = torch.randn(channels, rate, generator=torch.Generator().manual_seed(0)) * 0.3
    out, record = normalise_audio(wave, rate, target_rate=24_000, channels=1)
    assert out.shape == (1, 24_000) and out.abs().max() <= 1
    assert record["source_rate"] == rate and record["source_channels"] == channels
    again, _ = normalise_audio(wave.clone(), rate, target_rate=24_000, channels=1)
    assert torch.equal(out, again)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_is_torchaudios(rate):
    wave = torch.randn(2, 2 * rate, generator=torch.Generator().manual_seed(1)) * 0.2
    out, _ = normalise_audio(wave, rate, target_rate=24_000, channels=2)
    theirs = torchaudio.functional.resample(wave.double().clamp(-1, 1), rate, 24_000).clamp(-1, 1)
    assert torch.equal(out, theirs.float())


@pytest.mark.parametrize("rate", [44_101, 24_001, 96_001])
def test_at_an_odd_rate_a_tone_is_the_same_tone(rate):
    "At rates whose every phase, as torchaudio tabulates them, would fill the memory."
    given, wanted = (
        torch.sin(2 * math.pi * 1000 * torch.arange(r) / r)[None].float() for r in (rate, 24_000)
    )
    out, _ = normalise_audio(given, rate, target_rate=24_000, channels=1)
    assert out.shape == wanted.shape and (out - wanted)[:, 100:-100].abs().max() < 1e-3


@pytest.mark.parametrize("rate", [-1, 0, 1, 99, 1_000_001, 2**31 - 1])
def test_a_rate_that_no_sound_has_is_refused(rate):
    with pytest.raises(MediaError, match=f"audio has 100 to 1,000,000 samples a second, not {rate}"):
        normalise_audio(torch.zeros(1, 100), rate, target_rate=24_000, channels=1)


def test_a_header_that_claims_terabytes_is_refused(tmp_path):
    sf.write(tmp_path / "a.flac", WAVE, 48_000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] |= 0x0F  # the number of samples: 36 bits of the first metadata block
    data[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(MediaError, match=r"a.flac: (cannot be read as audio|is cut off)"):
        read_audio(tmp_path / "a.flac")


@pytest.mark.parametrize(
    "layout",
    [
        lambda w: w,
        lambda w: w[:, ::-1].copy()[:, ::-1],
        lambda w: w.astype(">f4"),
        lambda w: w.astype(np.float64),
        lambda w: torch.from_numpy(w.copy()).requires_grad_(),
    ],
)
def test_how_a_wave_lies_in_memory_does_not_matter(layout):
    wave = np.stack([WAVE, -0.5 * WAVE])
    expected, _ = normalise_audio(torch.from_numpy(wave), 48_000, target_rate=24_000, channels=1)
    assert torch.equal(normalise_audio(layout(wave), 48_000, target_rate=24_000, channels=1)[0], expected)


def test_what_was_done_to_a_sound_is_recorded_and_a_few_samples_too_loud_are_cut():
    wave = torch.full((2, 300), 0.25)
    wave[0, :3], wave[1, 9] = torch.tensor([3.0, -3.0, 1.0]), -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 2 of 600 are a click
        out, record = normalise_audio(wave, 8000, target_rate=8000, channels=2)
    assert out[0, :4].tolist() == [1, -1, 1, 0.25] and out.shape == (2, 300)
    assert record == {
        "source_rate": 8000,
        "source_channels": 2,
        "source_samples": 300,
        "rate": 8000,
        "channels": 2,
        "samples": 300,
        "clipped_samples": 2,
    }
    quiet, record = normalise_audio(wave.clamp(-1, 1), 8000, target_rate=8000, channels=2)
    assert torch.equal(quiet, wave.clamp(-1, 1)) and record["clipped_samples"] == 0


@pytest.mark.parametrize(
    ("wave", "told"),
    [
        (torch.zeros(2, 3, 4), r"wave float32 \[2, 3, 4\]: audio must be \[channels, samples\]"),
        (torch.zeros(1, 0), r"wave float32 \[1, 0\]: audio must be"),
        (torch.zeros(9, 8), r"wave float32 \[9, 8\]: has more channels than samples"),
        (np.zeros((1, 4), np.int32), r"wave int32 \[1, 4\]: samples must be floating point"),
        (torch.tensor([[0.1, math.inf]]), "not finite"),
        (torch.tensor([[0.1, -math.inf]]), "not finite"),
        (torch.tensor([[0.1, math.nan]]), "not finite"),
    ],
)
def test_a_wave_that_is_no_sound_is_refused_by_what_it_is(wave, told):
    with pytest.raises(MediaError, match=told):
        normalise_audio(wave, 8000, target_rate=8000, channels=1)


def test_as_many_channels_as_samples_may_be_a_sound():
    for shape in ((9, 9), (8, 1)):
        assert normalise_audio(torch.zeros(shape), 8000, target_rate=8000, channels=1)[0].shape[1] == shape[1]


@pytest.mark.parametrize("source", [torch.zeros(1, 8), (torch.zeros(1, 8),), [torch.zeros(1, 8), 8000], 8000])
def test_what_has_no_rate_beside_it_is_refused(source):
    with pytest.raises(MediaError, match="a wave means nothing without its sample rate in Hz"):
        load_audio(source)


def chunk(name: bytes, size: int, body: bytes, order: str) -> bytes:
    return name + size.to_bytes(4, order) + body


@pytest.mark.parametrize(("kind", "order", "name"), [(b"RIFF", "little", b"data"), (b"FORM", "big", b"SSND")])
@pytest.mark.parametrize(
    ("promised", "missing"), [(100, 60), (40, 0), (39, 0), (41, 1), (1, 0), (0, 0), (2**31 - 2**16, 0)]
)
def test_the_bytes_that_a_header_promises_are_counted(kind, order, name, promised, missing, tmp_path):
    path = tmp_path / "a"
    note = chunk(b"note", 3, b"abc\0", order)  # of an odd length, so that it is padded
    path.write_bytes(kind + bytes(4) + b"XXXX" + note + chunk(name, promised, bytes(40), order))
    assert missing_bytes(path) == missing
    path.write_bytes(b"OTHR" + path.read_bytes()[4:])
    assert missing_bytes(path) == 0
    path.write_bytes(kind + bytes(4) + b"XXXX" + note)
    assert missing_bytes(path) == 0


def test_channels_are_mixed_by_mean_and_up_by_repeat():
    wave = torch.tensor([[0.5, 0.25], [0.0, -0.75]])
    one, record = normalise_audio(wave, 8000, target_rate=8000, channels=1)
    assert one.tolist() == [[0.25, -0.25]] and json.loads(json.dumps(record)) == record
    assert normalise_audio(one, 8000, target_rate=8000, channels=2)[0].tolist() == [[0.25, -0.25]] * 2


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_clips_of_no_length_are_refused(seconds):
    with pytest.raises(MediaError, match=r"seconds long"):
        normalise_audio(torch.zeros(1, 100), 8000, target_rate=8000, channels=1, clip_seconds=seconds)


@pytest.mark.parametrize(("seconds", "samples"), [(0.5, 12_000), (2, 48_000), (1e-9, 1)])
def test_clips(seconds, samples):
    out, _ = normalise_audio(
        torch.ones(1, 24_000), 24_000, target_rate=24_000, channels=1, clip_seconds=seconds
    )
    assert out.shape == (1, samples) and out[0, min(samples, 24_000) - 1] == 1 and out[0, 24_000:].eq(0).all()


@pytest.mark.parametrize("rate", [0, -8000, 24_000.0, None, True, "24000"])
def test_a_wave_without_its_rate_is_refused(rate):
    with pytest.raises(MediaError, match=r"sample rate must be an integer|samples a second, not"):
        normalise_audio(torch.zeros(1, 100), rate, target_rate=24_000, channels=1)


def test_int16_means_what_it_means_in_a_wav():
    out, _ = normalise_audio(np.array([-32768, 16384], dtype=np.int16), 8000, target_rate=8000, channels=1)
    assert out.tolist() == [[-1.0, 0.5]]
    with pytest.raises(MediaError, match=r"floating point"):
        normalise_audio(np.array([1, 2]), 8000, target_rate=8000, channels=1)


def test_written_files_are_the_same_every_time_and_clipped(tmp_path):
    loud = torch.tensor([[2.0, -2.0, 0.5]])
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", loud, 8000)
        write_png(
            tmp_path / f"{name}.png", torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
        )
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert read_audio(tmp_path / "a.wav").wave.abs().max() <= 1
    assert len(list(tmp_path.iterdir())) == 4  # no temporary file stays


def test_a_float_is_written_as_the_nearest_of_256(tmp_path):
    levels = torch.tensor([-9, 0, 0.4, 0.6, 127.4, 127.6, 254.4, 254.6, 255, 999]) / 255
    write_png(tmp_path / "named-as-it-may-be", levels.expand(3, 2, 10))
    with Image.open(tmp_path / "named-as-it-may-be") as image:
        assert image.format == "PNG" and image.mode == "RGB" and image.size == (10, 2)
        assert np.asarray(image)[1, :, 2].tolist() == [0, 0, 0, 1, 127, 128, 254, 255, 255, 255]
    read = MODALITIES["image"].read(tmp_path / "named-as-it-may-be")
    written = MODALITIES["image"].as_read(ImageValue(levels.clamp(0, 1).expand(3, 2, 10)))
    assert torch.equal(read.pixels, written.pixels)


def test_a_wave_is_written_as_the_nearest_of_sixteen_bits(tmp_path):
    wave = torch.tensor([[-2, -1, -0.5, 0, 0.4 / 32768, 0.6 / 32768, 0.5, 1, 2], [0.25] * 9])
    write_wav(tmp_path / "named-as-it-may-be", wave, 8000)
    info = sf.info(tmp_path / "named-as-it-may-be")
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_16", 8000, 2)
    left, right = sf.read(tmp_path / "named-as-it-may-be", dtype="int16")[0].T
    assert left.tolist() == [-32768, -32768, -16384, 0, 0, 1, 16384, 32767, 32767]
    assert right.tolist() == [8192] * 9


def test_the_neighbours_of_a_signal_are_a_part_of_it_and_another_of_its_size():
    wave = torch.arange(20.0).view(2, 10)
    sounds = MODALITIES["audio"].neighbours(Audio(wave, 8000))
    assert {name: (s.wave.tolist(), s.rate) for name, s in sounds.items()} == {
        "its beginning": (wave[:, :6].tolist(), 8000),
        "backwards": (wave.flip(1).tolist(), 8000),
    }
    picture = torch.arange(12).view(3, 2, 2)
    pictures = MODALITIES["image"].neighbours(ImageValue(picture))
    assert {name: p.pixels.tolist() for name, p in pictures.items()} == {
        "upside down": picture.flip(1).tolist(),
        "mirrored": picture.flip(2).tolist(),
    }
    assert MODALITIES["text"].neighbours("abcdefghij") == {
        "its beginning": "abcdef",
        "backwards": "jihgfedcba",
    }


def test_sixteen_bits_come_back_as_they_were(tmp_path):
    every = np.arange(-32768, 32768).astype(np.int16)
    sf.write(tmp_path / "a.wav", every, 8000)
    write_wav(tmp_path / "b.wav", *load_audio(tmp_path / "a.wav"))
    assert np.array_equal(sf.read(tmp_path / "b.wav", dtype="int16")[0], every)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    for wave in (torch.zeros(1, 0), torch.zeros(9), torch.full((1, 9), math.nan)):
        with pytest.raises(MediaError, match=r"a.wav: audio to write"):
            write_wav(tmp_path / "a.wav", wave, 8000)
    for image in (torch.zeros(1, 4, 4), torch.zeros(3, 0, 4), torch.full((3, 4, 4), math.inf)):
        with pytest.raises(MediaError, match=r"a.png: an image to write"):
            write_png(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"absent"):
        write_wav(tmp_path / "absent" / "a.wav", torch.zeros(1, 9), 8000)


def test_a_folder_lists_what_it_holds_in_order(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "c.wav", "d.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deeper.png").mkdir()
    _, images, sounds = find_media(tmp_path).values()
    assert [p.name for p in images] == ["a.jpg", "b.PNG"] and [p.name for p in sounds] == ["c.wav"]


def test_an_image_shows_itself_as_the_file_that_would_be_written(tmp_path):
    levels = torch.tensor([-9, 0, 0.4, 0.6, 127.4, 127.6, 254.4, 254.6, 255, 999]) / 255
    image = ImageValue(levels.expand(3, 2, 10))
    write_png(tmp_path / "a.png", image.pixels)
    shown = Image.open(io.BytesIO(image.png()))
    assert np.array_equal(np.asarray(shown), np.asarray(Image.open(tmp_path / "a.png")))
    assert repr(image) == "Image(2×10)" and 'src="data:image/png;base64,' in image._repr_html_()
    assert ImageValue(torch.full((3, 2, 2), torch.nan)).png()  # what is not finite is shown as black
