"""Codec 2 (D. Rowe, https://github.com/drowe67/codec2), a vocoder of 1.2 to 3.2 kbps, as a codec of UTI."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import pycodec2
import torch
from torch import Tensor

from uti.codecs.base import Codec, CodecError, Encoded, Meta
from uti.codecs.spec import AudioSpec

# bits of each parameter of a frame, in the order in which the library packs them, most significant bit first:
# voicing, pitch and energy, line spectral pairs (codec2.c, codec2_encode_3200 and the others)
FIELDS = {
    3200: (1, 1, 7, 5, *[5] * 10),
    2400: (1, 1, 8, 4, 4, 4, 4, 4, 4, 4, 3, 3, 2),
    1200: (1, 1, 1, 1, 8, 8, 9, 9, 9),
}


def decode_frames(bitrate: int, frames: list[bytes]) -> np.ndarray:
    "int16 samples of the frames of one audio item, by a decoder that has decoded nothing before."
    decoder = pycodec2.Codec2(bitrate)
    return np.concatenate([decoder.decode(frame) for frame in frames])


class Codec2(Codec):
    "8 kHz mono; each parameter of a frame is a codebook, and has as many entries as its bits allow."

    def __init__(self, bitrate: int = 3200):
        "`bitrate`: bits a second, 3200, 2400 or 1200."
        if bitrate not in FIELDS:
            raise CodecError(f"bitrate must be one of {', '.join(map(str, FIELDS))}, got {bitrate!r}")
        self.bitrate, self.fields = bitrate, FIELDS[bitrate]
        library = pycodec2.Codec2(bitrate)
        self.n_bytes = library.bytes_per_frame()
        self.spec = AudioSpec(
            f"codec2-{bitrate}",
            tuple(2**bits for bits in self.fields),
            version=f"pycodec2 {version('pycodec2')}",
            licence="LGPL-2.1-only",
            source="its tables are part of the library",
            sample_rate=8000,
            channels=1,
            hop_length=library.samples_per_frame(),
            invariant=True,  # one thread, and an encoder of its own for each audio item
        )

    def runtime_codebook_sizes(self) -> tuple[int, ...]:
        spare = pycodec2.Codec2(self.bitrate).bits_per_frame() - sum(self.fields)
        return tuple(2**bits for bits in self.fields) if 0 <= spare < 3 else ()

    def _encode(self, signals: Tensor, lengths: Tensor | None) -> Encoded:
        taken = [signals.shape[-1]] * len(signals) if lengths is None else lengths.tolist()
        metas = [{"n_positions": self.spec.positions(n), "n_samples": n} for n in taken]
        codes = torch.zeros(len(signals), self.spec.n_codebooks, max(m["n_positions"] for m in metas)).long()
        for wave, meta, item in zip(signals, metas, codes, strict=True):
            encoder, hop = pycodec2.Codec2(self.bitrate), self.spec.hop_length
            samples = np.zeros(meta["n_positions"] * hop, dtype=np.int16)
            samples[: meta["n_samples"]] = (wave[0, : meta["n_samples"]] * 32767).round().short().numpy()
            for t, frame in enumerate(samples.reshape(-1, hop)):
                item[:, t] = torch.tensor(self._codes(encoder.encode(frame)))
        return Encoded(codes, metas)

    def _decode(self, codes: Tensor, meta: Sequence[Meta]) -> Tensor:
        waves = torch.zeros(len(codes), 1, max(m["n_samples"] for m in meta))
        packed = [
            [self._frame(column) for column in item.T[: m["n_positions"]].tolist()]
            for item, m in zip(codes, meta, strict=True)
        ]
        # the library draws the phases of unvoiced sounds from one generator of the process, which nobody
        # can seed: each audio item is decoded in a process that has decoded nothing before
        with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
            decoded = pool.starmap(decode_frames, [(self.bitrate, f) for f in packed if f], chunksize=1)
        sounds = iter(decoded)
        for wave, m in zip(waves, meta, strict=True):
            if m["n_samples"]:
                samples = torch.from_numpy(next(sounds)[: m["n_samples"]]).float() / 32768
                wave[0, : len(samples)] = samples
        return waves

    def _codes(self, frame: bytes) -> list[int]:
        bits, codes = int.from_bytes(frame, "big"), []
        left = 8 * self.n_bytes
        for width in self.fields:
            left -= width
            codes.append((bits >> left) % 2**width)
        return codes

    def _frame(self, codes: Sequence[int]) -> bytes:
        bits, left = 0, 8 * self.n_bytes
        for width, code in zip(self.fields, codes, strict=True):
            left -= width
            bits |= code << left
        return bits.to_bytes(self.n_bytes, "big")
