"""Codecs that keep what they promise, small enough to be read at once, for tests that need one of their form.

A codec that breaks a promise stands in the test that finds it. (`codecs` alone is a module of Python.)
"""

import math

import torch

from uti.codecs.base import Codec, Encoded
from uti.codecs.spec import AudioSpec, ImageSpec, TextSpec


class Held(Codec):
    "Every `hop`-th sample in 8 bits, at 8 kHz; or, as an image, its mean grey in a frame of another shape."

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
        meta = [{"n_positions": self.expected_positions(n), "n_samples": n} for n in lengths]
        for row, item in zip(codes, meta, strict=True):
            row[:, item["n_positions"] :] = 0
        return Encoded(codes, meta)

    def _decode(self, codes, meta):
        wave = (codes / 127.5 - 1).repeat_interleave(2, -1).expand(-1, 2, -1)
        n_samples = torch.tensor([m["n_samples"] for m in meta])
        wave = torch.nn.functional.pad(wave, (0, int(n_samples.max()) - wave.shape[-1]))
        return wave * (torch.arange(wave.shape[-1]) < n_samples[:, None, None])


class TwoWays(Codec):
    "A codec of grey images with two decoders, which say which of them ran."

    spec = ImageSpec(
        "two-ways",
        (256,),
        version="1",
        licence="MIT",
        source="none",
        input_size=(16, 16),
        grid=(1, 1),
        invariant=True,
        decode_modes=("deterministic", "diffusion"),
    )

    def runtime_codebook_sizes(self):
        return (256,)

    def _encode(self, signals, lengths):
        return Encoded(
            (signals.mean((1, 2, 3)) * 255).round().long()[:, None, None],
            [{"n_positions": 1} for _ in signals],
        )

    def _decode(self, codes, meta, mode):
        grey = {"deterministic": 0.25, "diffusion": 0.75}[mode] + codes / 1e6  # each id is heard
        return grey[..., None].expand(-1, 3, 16, 16).contiguous()


class Blocks(Codec):
    "Two codebooks of 16 levels: the mean of every ten samples, coarse and fine. Keeps every promise."

    def __init__(self, **promises):
        self.spec = AudioSpec(
            **{
                **dict(name="blocks", codebook_sizes=(16, 16), version="1", licence="MIT", source="none"),
                **dict(sample_rate=1000, channels=1, hop_length=10, invariant=True),
                **promises,
            }
        )

    def _encode(self, signals, lengths):
        n = lengths.tolist() if lengths is not None else [signals.shape[2]] * len(signals)
        frames = [math.ceil(k / 10) for k in n]
        codes = torch.zeros(len(n), 2, max(frames), dtype=torch.int64)
        for i, (k, f) in enumerate(zip(n, frames, strict=True)):
            padded = torch.nn.functional.pad(signals[i, 0, :k].double(), (0, f * 10 - k)).view(f, 10)
            level = ((padded.mean(1) + 1) / 2 * 255).round().long()
            codes[i, :, :f] = torch.stack([level // 16, level % 16])
        return Encoded(codes, [{"n_positions": f, "n_samples": k} for f, k in zip(frames, n, strict=True)])

    def _decode(self, codes, meta):
        level = codes[:, 0] * 16 + codes[:, 1]
        wave = (level / 255 * 2 - 1).repeat_interleave(10, 1)[:, None].float()
        wave = torch.nn.functional.pad(wave, (0, max(0, max(m["n_samples"] for m in meta) - wave.shape[2])))
        return wave[:, :, : max(m["n_samples"] for m in meta)]

    def runtime_codebook_sizes(self):
        return (16, 16)


class Rising(Codec):
    "Takes sounds at 8 kHz and gives them at 12: every ten samples in are fifteen out, all of one height."

    spec = AudioSpec(
        "rising",
        (256,),
        "1",
        "MIT",
        "none",
        sample_rate=8000,
        output_rate=12_000,
        channels=1,
        hop_length=15,
        invariant=True,
    )

    def _encode(self, signals, lengths):
        lengths = torch.full((len(signals),), signals.shape[-1]) if lengths is None else lengths
        given = [n * 3 // 2 for n in lengths.tolist()]
        codes = torch.zeros(len(given), 1, max(self.expected_positions(n) for n in given), dtype=torch.int64)
        for row, wave, n, out in zip(codes, signals, lengths.tolist(), given, strict=True):
            frames = torch.nn.functional.pad(wave[0, :n].double(), (0, -n % 10)).view(-1, 10).mean(1)
            row[0, : self.expected_positions(out)] = (
                ((frames[: self.expected_positions(out)] + 1) * 127.5).round().long()
            )
        return Encoded(codes, [{"n_positions": self.expected_positions(n), "n_samples": n} for n in given])

    def _decode(self, codes, meta):
        return (
            (codes / 127.5 - 1).repeat_interleave(15, -1).float()[:, :, : max(m["n_samples"] for m in meta)]
        )

    def runtime_codebook_sizes(self):
        return (256,)


class Sized(Codec):
    "Promises codebooks, and no more: an export asks for nothing else."

    def __init__(self, modality, *sizes):
        kind, form = {
            "text": (TextSpec, {}),
            "image": (ImageSpec, {"input_size": (8, 8), "grid": (1, 1)}),
            "audio": (AudioSpec, {"sample_rate": 8000, "channels": 1, "hop_length": 80}),
        }[modality]
        self.spec = kind(f"sized-{modality}", sizes, version="1", licence="MIT", source="none", **form)

    def _encode(self, signals, lengths):
        return Encoded(
            torch.zeros(len(signals), self.spec.n_codebooks, 1, dtype=torch.int64),
            [{"n_positions": 1} for _ in signals],
        )

    def _decode(self, codes, meta):
        raise NotImplementedError

    def runtime_codebook_sizes(self):
        return self.spec.codebook_sizes


class Plain(Codec):
    "A codec of what its spec says, which is never asked to encode."

    def __init__(self, spec):
        self.spec = spec

    def runtime_codebook_sizes(self):
        return self.spec.codebook_sizes

    def _encode(self, signals, lengths):
        raise NotImplementedError

    def _decode(self, codes, meta):
        return codes, torch.is_inference_mode_enabled()
