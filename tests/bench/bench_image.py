"""The embedded image codec beside JPEG and WebP at no more bits than it spends: `python
tests/bench/bench_image.py`. Exits 1 when a floor is missed.
"""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

sys.path.insert(0, str(Path(__file__).parent))
from photographs import photographs

from uti.codecs.embedded.image import EmbeddedImage

PSNR_FLOOR, SSIM_FLOOR, SPEED_FLOOR = 26.0, 0.70, 5.0  # dB, -, images/s on one core
JPEG = {
    "format": "JPEG",
    "optimize": True,
}  # baseline with Huffman tables of its own: at this rate it beats progressive and the standard tables
WEBP = {"format": "WEBP", "method": 6}


def whole_file(file: bytes) -> int:
    return len(file)


def jpeg_payload(file: bytes) -> int:
    """Bytes of a JPEG's Huffman tables and entropy-coded scan; not of its markers, frame header and
    quantisation tables, which a decoder that knows the size and quality could make.
    """
    total, at = 0, 2
    while file[at + 1] != 0xDA:  # start of scan
        length = 2 + int.from_bytes(file[at + 2 : at + 4], "big")
        total += length if file[at + 1] == 0xC4 else 0  # define Huffman table
        at += length
    return total + len(file) - 2 - (at + 2 + int.from_bytes(file[at + 2 : at + 4], "big"))


def saved(picture: np.ndarray, quality: int, options: dict) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, quality=quality, **options)
    return buffer.getvalue()


def compressed(picture: np.ndarray, budget: int, size: Callable[[bytes], int], options: dict) -> bytes:
    """The file of the highest quality whose `size` is at most `budget` bytes.

    Raises ValueError where there is none.
    """
    fitting = [file for quality in range(101) if size(file := saved(picture, quality, options)) <= budget]
    if not fitting:
        raise ValueError(f"{options['format']} has no quality that fits {budget} bytes")
    return fitting[-1]


def opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def quality(references: list[np.ndarray], estimates: list[np.ndarray]) -> tuple[float, float]:
    "Mean PSNR in dB and mean SSIM of uint8 RGB images."
    pairs = list(zip(references, estimates, strict=True))
    psnr = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs]
    ssim = [structural_similarity(a, b, data_range=255, channel_axis=-1) for a, b in pairs]
    return float(np.mean(psnr)), float(np.mean(ssim))


def through(codec: EmbeddedImage, pictures: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The images after encode and decode, one at a time, and images per second of processor time on one
    core.
    """
    batches = [torch.from_numpy(p.copy()).movedim(-1, 0)[None].float() / 255 for p in pictures]
    codec.decode(*codec.encode(batches[0]))  # warm up
    start = time.process_time()
    decoded = [codec.decode(*codec.encode(batch)) for batch in batches]
    rate = len(pictures) / (time.process_time() - start)
    return [(d[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy() for d in decoded], rate


def main() -> int:
    torch.set_num_threads(1)
    names, pictures = zip(*photographs().items(), strict=True)
    codec = EmbeddedImage()
    bits = int(np.log2(codec.spec.codebook_sizes[0])) * codec.expected_positions()
    budget = bits // 8
    estimates, rate = through(codec, pictures)
    rows = {"embedded-image": (estimates, [budget] * len(pictures))}
    for title, size, options in (
        ("JPEG, whole file", whole_file, JPEG),
        ("JPEG, without header", jpeg_payload, JPEG),
        ("WebP, whole file", whole_file, WEBP),
    ):
        files = [compressed(p, budget, size, options) for p in pictures]
        rows[title] = [opened(f) for f in files], [size(f) for f in files]
    means = {title: quality(pictures, estimate) for title, (estimate, _) in rows.items()}

    print(
        f"{len(pictures)} images of 256x256 at no more than {budget} bytes ({bits / 256**2} bit/pixel): "
        f"{', '.join(names)}\n"
    )
    print(f"{'':22}{'PSNR (dB)':>10}{'SSIM':>8}{'bytes':>8}{'lowest PSNR':>13}")
    for title, (estimate, sizes) in rows.items():
        lowest = min(quality([a], [b])[0] for a, b in zip(pictures, estimate, strict=True))
        print(f"{title:22}{means[title][0]:10.2f}{means[title][1]:8.3f}{np.mean(sizes):8.0f}{lowest:13.2f}")

    (psnr, ssim), (jpeg_psnr, jpeg_ssim) = means["embedded-image"], means["JPEG, whole file"]
    floors = [
        ("PSNR (dB)", psnr, PSNR_FLOOR),
        ("SSIM", ssim, SSIM_FLOOR),
        ("PSNR, at least JPEG's (whole file)", psnr, jpeg_psnr),
        ("SSIM, at least JPEG's (whole file)", ssim, jpeg_ssim),
        ("encode + decode, images/s on one core", rate, SPEED_FLOOR),
    ]
    print(f"\n{'floor':42}{'found':>9}{'wanted':>9}")
    for title, found, wanted in floors:
        print(f"{title:42}{found:9.3f}{wanted:9.3f}  {'pass' if found >= wanted else 'FAIL'}")
    return int(any(found < wanted for _, found, wanted in floors))


if __name__ == "__main__":
    sys.exit(main())
