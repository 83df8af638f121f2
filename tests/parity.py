"""Each family's codes and audio beside those of the library's own class, counted: `make parity`.

Checkpoints are small, their classes real, their weights random. Exits 1 where anything differs.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from checkpoints import AUDIO, save
from rich.console import Console
from rich.table import Table
from test_checkpoints import library_codes, library_sound, sounds

from uti.zoo.hf.audio import HFAudio

SECONDS = (1.3, 1.3, 0.51, 0.9)  # two group_indices, and others in one batch with them


def row(family: str, folder: Path) -> tuple[int, ...]:
    "(codes, that differ from the library's, from those in a batch; samples over 1e-6 off, wrong lengths)."
    codec = HFAudio(save(family, folder))
    waves, lengths = sounds(codec, *SECONDS)
    hop = codec.loaded.rates.hop * codec.loaded.rates.encode // codec.loaded.rates.decode
    whole = waves[:1, :, : int(lengths[0]) // hop * hop]  # whole frames, which no family pads
    codes, meta = codec.encode(whole)
    theirs = library_codes(codec, whole)
    together, metas = codec.encode(waves, lengths)
    alone = [codec.encode(wave[None, :, :n]) for wave, n in zip(waves, lengths, strict=True)]
    pairs = zip(together, metas, alone, strict=True)
    in_batch = sum(int((t[:, : m["n_positions"]] != a.codes[0]).sum()) for t, m, a in pairs)
    ours, sound = codec.decode(codes, meta), library_sound(codec, whole, codes, meta)
    wrong = sum(codec.decode(*a).shape[-1] != a.meta[0]["n_samples"] for a in alone)
    return (
        codes.numel() + sum(a.codes.numel() for a in alone),
        int((codes != theirs).sum()),
        in_batch,
        int(((ours[..., : sound.shape[-1]] - sound).abs() > 1e-6).sum()),
        wrong,
    )


def main() -> int:
    table = Table("family", "codes", "not theirs", "in a batch", "samples", "lengths", box=None)
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        for family in AUDIO:
            found = row(family, Path(folder))
            differ += sum(found[1:])
            table.add_row(family, *map(str, found))
    Console().print(table)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
