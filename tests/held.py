"""A codec of another form than the embedded ones. Its module is small: a fresh process imports it."""

import torch

from uti.codecs.base import Codec, Encoded
from uti.codecs.spec import AudioSpec, ImageSpec


class Held(Codec):
    "Every `hop`-th sample in 8 bits, at 8 kHz; or, as a picture, its mean grey in a frame of another shape."

    def __init__(self, modality="audio", image_size=(16, 32)):
        form = (
            {"sample_rate": 8000, "channels": 2, "hop_length": 2}
            if modality == "audio"
            else {"input_size": tuple(image_size), "grid": (1, 1)}
        )
        self.spec = (AudioSpec if modality == "audio" else ImageSpec)(
            "held", (256,), version="1", licence="MIT", source="none", **form
        )

    def runtime_codebook_sizes(self):
        return (256,)

    def _encode(self, signals, lengths):
        codes = ((signals.mean(1)[:, ::2] + 1) * 127.5).round().long()[:, None]
        lengths = [signals.shape[-1]] * len(signals) if lengths is None else lengths.tolist()
        return Encoded(codes, [{"n_positions": self.expected_positions(n), "n_samples": n} for n in lengths])

    def _decode(self, codes, meta):
        wave = (codes / 127.5 - 1).repeat_interleave(2, -1).expand(-1, 2, -1)
        n_samples = torch.tensor([m["n_samples"] for m in meta])
        wave = torch.nn.functional.pad(wave, (0, int(n_samples.max()) - wave.shape[-1]))
        return wave * (torch.arange(wave.shape[-1]) < n_samples[:, None, None])
