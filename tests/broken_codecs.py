"""Codecs that each break one thing that a user relies on, and the question that finds it.

They stand on three that keep every promise: blocks of audio, tiles of images, bytes of text.
"""

import os
import time

import numpy as np
import torch
from small_codecs import Blocks

from uti.codecs.base import Codec, Encoded, pack_rows
from uti.codecs.spec import ImageSpec, TextSpec


class Tiles(Codec):
    "Images of 64×64 as the mean colours of 8×8 tiles, in 16 levels a channel."

    spec = ImageSpec(
        "tiles", (4096,), version="1", licence="MIT", source="none", input_size=(64, 64), grid=(8, 8),
        invariant=True,
    )  # fmt: skip

    def _encode(self, signals, lengths):
        levels = (torch.nn.functional.avg_pool2d(signals.double(), 8) * 15).round().long()
        codes = (levels[:, 0] * 256 + levels[:, 1] * 16 + levels[:, 2]).flatten(1)[:, None]
        return Encoded(codes, [{"n_positions": 64} for _ in signals])

    def _decode(self, codes, meta):
        c = codes[:, 0].view(-1, 8, 8)
        levels = torch.stack([c // 256, c // 16 % 16, c % 16], 1)
        return (levels / 15).repeat_interleave(8, 2).repeat_interleave(8, 3).float()

    def runtime_codebook_sizes(self):
        return (4096,)


class Bytes(Codec):
    "The bytes of UTF-8."

    spec = TextSpec(
        "bytes", (256,), version="1", licence="MIT", source="none", invariant=True, lossless=True,
        idempotent=True, dtype="int64",
    )  # fmt: skip

    def change(self, text):
        return text

    def _encode(self, signals, lengths):
        return pack_rows([list(self.change(text).encode()) for text in signals])

    def _decode(self, codes, meta):
        rows = [row[0, : item["n_positions"]].tolist() for row, item in zip(codes, meta, strict=True)]
        return [bytes(row).decode(errors="replace") for row in rows]

    def runtime_codebook_sizes(self):
        return (256,)


class LaterCalls(Blocks):
    "The last id is another one from the ninth call on."

    calls = 0

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        self.calls += 1
        if self.calls > 8:
            codes[:, 1, -1] = (codes[:, 1, -1] + 1) % 16
        return Encoded(codes, meta)


class Echo(Blocks):
    "Decodes with an offset from what was encoded last."

    last = 0.0

    def _encode(self, signals, lengths):
        self.last = signals.abs().mean().item()
        return super()._encode(signals, lengths)

    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * (1 - self.last / 4)


class LastOfBatch(Blocks):
    "The last item of a batch loses its first id."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        if len(codes) > 1:
            codes[-1, 1, 0] = 0
        return Encoded(codes, meta)


class QuieterInBatch(Blocks):
    "Two per cent quieter for each other item of the batch."

    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * (1 - 0.02 * (len(meta) - 1))


class WritesMeta(Blocks):
    "Notes in the meta that it was decoded."

    def _decode(self, codes, meta):
        for item in meta:
            item["decoded"] = True
        return super()._decode(codes, meta)


class ReadsMemory(Blocks):
    "Reads what lies in memory from the first sample on, whatever the strides say."

    def _encode(self, signals, lengths):
        shape = (signals.shape[-1] * signals.shape[1], signals.shape[-1], 1)
        there = torch.as_strided(signals, signals.shape, shape) if len(signals) == 1 else signals
        return super()._encode(there, lengths)


class StridedCodes(Blocks):
    "Decodes what lies in memory from the first code on."

    def _decode(self, codes, meta):
        if len(meta) == 1:
            codes = torch.as_strided(codes, codes.shape, (codes.shape[2] * 2, codes.shape[2], 1))
        return super()._decode(codes, meta)


class SeedsNumpy(Blocks):
    "Seeds the generator of numpy at each decode."

    def _decode(self, codes, meta):
        np.random.seed(0)
        return super()._decode(codes, meta)


class KeepsDropout(Blocks):
    "Was never told that training is over."

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Dropout(0.5)


class SecondRepeats(Blocks):
    "The second codebook repeats the first."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes[:, :1].repeat(1, 2, 1), meta)


class FirstTenOnly(Blocks):
    "The second codebook is heard in the first ten positions only."

    def _decode(self, codes, meta):
        codes = codes.clone()
        codes[:, 1, 10:] = 8
        return super()._decode(codes, meta)


class LongMeta(Blocks):
    "A meta of 600 bytes, whatever the signal."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        return Encoded(codes, [{**item, "made by": "blocks " * 80} for item in meta])


class Envelope(Blocks):
    "Sixteen numbers in the meta say most of the signal."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        pool = torch.nn.functional.adaptive_avg_pool1d
        for wave, item in zip(signals, meta, strict=True):
            item["loud"] = (pool(wave[:1, : item["n_samples"]], 16)[0] * 99).int().tolist()
        return Encoded(codes, meta)

    def _decode(self, codes, meta):
        waves = 0.2 * super()._decode(codes, meta)
        for wave, item in zip(waves, meta, strict=True):
            loud = torch.tensor([[item.get("loud", [0] * 16)]]) / 99
            wave[:, : item["n_samples"]] += 0.8 * torch.nn.functional.interpolate(loud, item["n_samples"])[0]
        return waves.clamp(-1, 1)


class UpsideDown(Tiles):
    def _decode(self, codes, meta):
        return super()._decode(codes, meta).flip(2)


class Inverted(Blocks):
    def _decode(self, codes, meta):
        return -super()._decode(codes, meta)


class Compressed(Blocks):
    "Everything beyond a third of full scale comes back as a third."

    def _decode(self, codes, meta):
        return super()._decode(codes, meta).clamp(-0.33, 0.33)


class PowersOfTwo(Blocks):
    "Loses the last sample of 1024."

    def _decode(self, codes, meta):
        waves = super()._decode(codes, meta)
        return waves[:, :, :-1] if waves.shape[-1] == 1024 else waves


class NoMiddle(Tiles):
    "Does not look at four tiles."

    def _encode(self, signals, lengths):
        signals = signals.clone()
        signals[:, :, 16:32, 32:48] = 0.5
        return super()._encode(signals, lengths)


class ConstantEnd(Blocks):
    "The last ids are always the same, and those before them tell of what was there."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        for row, item in zip(codes, meta, strict=True):
            n = item["n_positions"]
            if n > 2:
                row[:, n - 2] = (row[:, n - 2] + row[:, n - 1]) % 16
                row[:, n - 1] = 7
        return Encoded(codes, meta)


class OneEntry(Blocks):
    "An entry that no signal of ours makes decodes to nothing finite."

    def __init__(self):
        super().__init__(codebook_sizes=(16, 64))

    def _decode(self, codes, meta):
        waves = super()._decode(codes, meta)
        wrong = (codes[:, 1] == 43).repeat_interleave(10, 1)[:, None, : waves.shape[-1]]
        waves[:, :, : wrong.shape[-1]][wrong] = torch.nan
        return waves

    def runtime_codebook_sizes(self):
        return (16, 64)


class FadesOut(Blocks):
    "What comes after eleven seconds comes back quiet."

    def _decode(self, codes, meta):
        waves = super()._decode(codes, meta)
        waves[:, :, 11_000:] *= 0.1
        return waves


class ThreeThreads(Blocks):
    "The first id is another one with three threads."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        codes[:, 1, 0] = (codes[:, 1, 0] + (torch.get_num_threads() == 3)) % 16
        return Encoded(codes, meta)


class LouderWithThreads(Blocks):
    "A hundredth less loud for each thread."

    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * (1 - 0.01 * torch.get_num_threads())


class OtherKernels(Blocks):
    "The first id, and how loud it decodes, are others without oneDNN."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        codes[:, 1, 0] = (codes[:, 1, 0] + (not torch.backends.mkldnn.enabled)) % 16
        return Encoded(codes, meta)

    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * (1 if torch.backends.mkldnn.enabled else 0.9)


class OneLetter(Bytes):
    def change(self, text):
        return text.replace("\u0f42", "\u0f43")


class Umlauts(Bytes):
    def change(self, text):
        return text.replace("u\u0308", "\u00fc")


class LongWords(Bytes):
    def change(self, text):
        return " ".join(word[:5000] for word in text.split(" "))


class NeverEmpty(Bytes):
    def change(self, text):
        return text or "\x00"


class Elsewhere(Blocks):
    "Adds something of the process to the first id."

    def __init__(self, what):
        super().__init__()
        self.what = what

    def there(self):
        return {
            "the working folder": lambda: sum(os.getcwd().encode()),
            "the hour": lambda: time.localtime().tm_hour,
            "the user's name": lambda: sum(os.environ.get("USER", "").encode()),
            "the home": lambda: len(os.path.expanduser("~")) + 1,
            "the hash of a word": lambda: hash("word"),
        }[self.what]()

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        codes[:, 1, 0] = (codes[:, 1, 0] + self.there()) % 16
        return Encoded(codes, meta)


class ElsewhereLouder(Elsewhere):
    "Decodes louder or less loud by something of the process."

    def _encode(self, signals, lengths):
        return super(Elsewhere, self)._encode(signals, lengths)

    def _decode(self, codes, meta):
        return super()._decode(codes, meta) * (0.5 + self.there() % 50 / 100)


class Drifts(Blocks):
    "Says that it encodes half a second at a time, and counts positions from the beginning of all."

    def __init__(self):
        super().__init__(chunk_length=500, chunk_stride=500)

    def _late(self, codes):
        return (torch.arange(codes.shape[-1]) >= 60).long()

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        codes[:, 1] = (codes[:, 1] + self._late(codes)) % 16
        for row, item in zip(codes, meta, strict=True):
            row[:, item["n_positions"] :] = 0
        return Encoded(codes, meta)

    def _decode(self, codes, meta):
        codes = codes.clone()
        codes[:, 1] = (codes[:, 1] - self._late(codes)) % 16
        return super()._decode(codes, meta)


class ClicksAtEnd(Blocks):
    "Fills a last position that is half full with a click."

    def __init__(self):
        super().__init__(silent_tail=True)

    def _decode(self, codes, meta):
        waves = super()._decode(codes, meta)
        for wave, item in zip(waves, meta, strict=True):
            if item["n_samples"] % 10 == 5:
                wave[:, item["n_samples"] - 5 : item["n_samples"]] = 0.9
        return waves


class LastBits(Blocks):
    "Has its ids from the last bits of its samples."

    def _encode(self, signals, lengths):
        codes, meta = super()._encode(signals, lengths)
        bits = (signals[:, 0, : codes.shape[-1] * 10 : 10] * 32768).round().long()
        codes[:, 1, : bits.shape[-1]] = bits % 16
        for row, item in zip(codes, meta, strict=True):
            row[:, item["n_positions"] :] = 0
        return Encoded(codes, meta)


# codec → (the question that finds it, whether it alone does)
BROKEN = {
    LaterCalls: ("repeatability", False),
    Echo: ("repeatability_decode", False),
    LastOfBatch: ("batch_encode", False),
    QuieterInBatch: ("batch_decode", True),
    WritesMeta: ("purity_values", False),
    ReadsMemory: ("purity_memory", True),
    StridedCodes: ("purity_memory_decode", True),
    SeedsNumpy: ("purity_process", True),
    KeepsDropout: ("purity_training", True),
    SecondRepeats: ("signal_ids", True),
    FirstTenOnly: ("signal_decoder", True),
    LongMeta: ("signal_meta_size", True),
    Envelope: ("signal_meta", True),
    UpsideDown: ("orientation_image", True),
    Inverted: ("orientation_audio", True),
    Compressed: ("orientation_level", True),
    PowersOfTwo: ("place_lengths", True),
    NoMiddle: ("place_sensitivity", True),
    ConstantEnd: ("place_ends", True),
    FadesOut: ("place_distortion", True),
    Drifts: ("pieces_against_whole", True),
    ClicksAtEnd: ("silent_tail", True),
    OneEntry: ("place_entries", True),
    ThreeThreads: ("version_encode", True),
    LouderWithThreads: ("version_decode", True),
    OneLetter: ("text_characters", True),
    Umlauts: ("text_kinds", True),
    LongWords: ("text_long", True),
    NeverEmpty: ("text_empty", True),
}
