"""Ids ↔ codes beside a plain Python loop, and UnifiedTokenizer beside the bare codec: `python
tests/bench/bench_ids.py`. Exits 1 when a floor is missed.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from photographs import photographs
from sounds import RATE, sounds
from timing import ratio, report

from uti.space import TokenSpace, to_codes, to_ids
from uti.tokens.tokenizer import UnifiedTokenizer

LOOP_FLOOR, OVERHEAD_FLOOR = 100.0, 1.05  # times faster than the loop; times the bare codec's time


def loop(space: TokenSpace, values: np.ndarray, forward: bool) -> np.ndarray:
    "What a newcomer would write: array in, array out, the same checks, an element at a time."
    ranges, result = space.modality_ranges("audio"), np.empty_like(values)
    for k in range(values.shape[0]):
        start, size = ranges[k].start, len(ranges[k])
        for t in range(values.shape[1]):
            code = values[k, t] if forward else values[k, t] - start
            if not 0 <= code < size:
                raise ValueError(code)
            result[k, t] = start + code if forward else code
    return result


def loop_over_lists(space: TokenSpace, codes: np.ndarray) -> np.ndarray:
    "The same with the elements taken out of the array and put back all at once: as fast as a loop gets."
    result = []
    for r, row in zip(space.modality_ranges("audio"), codes.tolist(), strict=True):
        line = []
        for code in row:
            if not 0 <= code < len(r):
                raise ValueError(code)
            line.append(r.start + code)
        result.append(line)
    return np.array(result)


def id_rows() -> list[tuple[str, float, float]]:
    "(what, times faster, floor) for ten minutes of audio codes."
    space = TokenSpace(4096, (65536,), (1024,) * 8)
    codes = np.random.default_rng(0).integers(0, 1024, (8, 75 * 600))
    ids = to_ids(space, "audio", codes)
    assert (
        (loop(space, codes, True) == ids).all()
        and (loop(space, ids, False) == codes).all()
        and (loop_over_lists(space, codes) == ids).all()
    )
    return [
        (
            "codes → ids, times a plain loop",
            ratio(lambda: loop(space, codes, True), lambda: to_ids(space, "audio", codes), 7),
            LOOP_FLOOR,
        ),
        (
            "ids → codes, times a plain loop",
            ratio(lambda: loop(space, ids, False), lambda: to_codes(space, "audio", ids), 7),
            LOOP_FLOOR,
        ),
        (
            "codes → ids, times a loop over lists",
            ratio(lambda: loop_over_lists(space, codes), lambda: to_ids(space, "audio", codes), 7),
            0,
        ),
    ]


def overhead_rows() -> list[tuple[str, float]]:
    "UnifiedTokenizer's time over the bare codec's, for input that is in the normal form already."
    tokenizer = UnifiedTokenizer.from_config()
    picture = torch.from_numpy(photographs()["coffee"].copy()).movedim(-1, 0)
    batch = (picture.float() / 255)[None]
    waves = [w for kind in sounds().values() for w in kind.values()]
    wave = torch.from_numpy(np.concatenate(waves))[None]
    image, audio = tokenizer.codecs["image"], tokenizer.codecs["audio"]
    tokens_i, tokens_a = tokenizer.encode_image(picture), tokenizer.encode_audio(wave, RATE)
    bare_i, bare_a = image.encode(batch), audio.encode(wave[None])
    return [
        (
            "encode an image, over the bare codec",
            ratio(lambda: tokenizer.encode_image(picture), lambda: image.encode(batch), 31),
        ),
        (
            "decode an image, over the bare codec",
            ratio(lambda: tokenizer.decode_image(*tokens_i), lambda: image.decode(*bare_i), 25),
        ),
        (
            "encode a minute of audio, over the bare codec",
            ratio(lambda: tokenizer.encode_audio(wave, RATE), lambda: audio.encode(wave[None]), 25),
        ),
        (
            "decode a minute of audio, over the bare codec",
            ratio(lambda: tokenizer.decode_audio(*tokens_a), lambda: audio.decode(*bare_a), 15),
        ),
    ]


def main() -> int:
    torch.set_num_threads(1)
    rows = [(title, found, ">=", floor) for title, found, floor in id_rows()]
    return report(rows + [(title, found, "<=", OVERHEAD_FLOOR) for title, found in overhead_rows()])


if __name__ == "__main__":
    sys.exit(main())
