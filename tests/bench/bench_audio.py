"""The embedded audio codec beside Opus at the same bitrate: `python tests/bench/bench_audio.py`.

Exits 1 when a floor is missed.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from sounds import RATE, sounds

from uti.codecs.embedded.audio import EmbeddedAudio
from uti.comparison.references import through_opus
from uti.metrics.audio import log_mel_l1, snr_db

SNR_FLOOR, MEL_FLOOR, SPEED_FLOOR = (
    4.0,
    0.55,
    0.05,
)  # dB above Opus, times Opus's, seconds of computing a second of audio
KBPS = 6


def through(codec: EmbeddedAudio, wave: np.ndarray) -> torch.Tensor:
    return codec.decode(*codec.encode(torch.from_numpy(wave)[None, None]))[0]


def scores(waves: dict, estimate) -> np.ndarray:
    "Mean (SNR in dB, log-mel L1) over `waves` of one kind."
    rows = []
    for wave in waves.values():
        reference, back = torch.from_numpy(wave)[None], estimate(wave)
        rows.append((snr_db(reference, back), log_mel_l1(reference, back, RATE)))
    return np.mean(rows, axis=0)


def main() -> int:
    torch.set_num_threads(1)
    kinds = sounds()
    codec = EmbeddedAudio()
    contenders = {"embedded-audio, 8 codebooks": lambda w: through(codec, w)}
    # 20 ms is Opus's default, which the floors are against; 60 ms its strongest setting at this rate, because
    # the headers of frames take the least of it
    contenders |= {
        f"Opus, {KBPS} kbps, {ms} ms frames": lambda w, ms=ms: through_opus(
            torch.from_numpy(w)[None], KBPS, RATE, ms
        )[0]
        for ms in (20, 60)
    }
    for n in (4, 2, 1):
        fewer = EmbeddedAudio(n_codebooks=n)
        contenders[f"embedded-audio, {n} codebook{'s' * (n > 1)}"] = lambda w, fewer=fewer: through(fewer, w)
    table = {
        name: np.array([scores(waves, estimate) for waves in kinds.values()])
        for name, estimate in contenders.items()
    }

    print(
        f"{sum(map(len, kinds.values()))} held-out sounds, 24 kHz mono; SNR in dB / log-mel L1, mean of "
        "each kind\n"
    )
    print(f"{'':30}" + "".join(f"{kind:>20}" for kind in [*kinds, "mean"]))
    for name, rows in table.items():
        print(f"{name:30}" + "".join(f"{f'{snr:.2f} / {mel:.2f}':>20}" for snr, mel in [*rows, rows.mean(0)]))

    long = np.concatenate([w for waves in kinds.values() for w in waves.values()])
    through(codec, long[:RATE])  # warm up
    start = time.perf_counter()
    through(codec, long)
    factor = (time.perf_counter() - start) / (len(long) / RATE)
    ours, theirs = (list(table.values())[i].mean(0) for i in (0, 1))
    by_codebooks = [table[f"embedded-audio, {n} codebook{'s' * (n > 1)}"].mean(0) for n in (1, 2, 4, 8)]
    floors = [
        ("SNR above Opus, dB", ours[0] - theirs[0], ">=", SNR_FLOOR),
        ("log-mel L1 over Opus's", ours[1] / theirs[1], "<=", MEL_FLOOR),
        ("encode + decode, of real time, one core", factor, "<=", SPEED_FLOOR),
        (
            "least gain in SNR of more codebooks, dB",
            min(np.diff([row[0] for row in by_codebooks])),
            ">=",
            0.0,
        ),
    ]
    print(f"\n{'floor':44}{'found':>9}{'wanted':>12}")
    missed = [found < wanted if sign == ">=" else found > wanted for _, found, sign, wanted in floors]
    for (title, found, sign, wanted), bad in zip(floors, missed, strict=True):
        print(f"{title:44}{found:9.3f}{sign:>6}{wanted:6.2f}  {'FAIL' if bad else 'pass'}")
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
