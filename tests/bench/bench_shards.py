"""What a data set costs beside its codecs: `python tests/bench/bench_shards.py`.

Making shards against a bare loop that encodes the same items, one worker's seconds of CPU against more, a
plan of a million lines, and reading a folder: opened and planned as packed rows, audited at level 1, rows as
a trainer takes them. Exits 1 where a limit is missed.
"""

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import numpy as np  # noqa: E402
import PIL.Image  # noqa: E402
import torch  # noqa: E402
from timing import report  # noqa: E402

from uti.config import load_config, parse_config  # noqa: E402
from uti.files import packaged, write_json  # noqa: E402
from uti.lm.data import StoredDataset, StoredExamples  # noqa: E402
from uti.lm.model import row_inputs  # noqa: E402
from uti.modalities.audio import write_wav  # noqa: E402
from uti.modalities.probes import noise  # noqa: E402
from uti.shards.audit import audit_shards  # noqa: E402
from uti.shards.folder import open_shards  # noqa: E402
from uti.shards.manifest import plan  # noqa: E402
from uti.shards.rows import Plan, Split, plan_rows  # noqa: E402
from uti.shards.run import tokenize  # noqa: E402
from uti.shards.shard import Settings, tokenizer_of, write_shard  # noqa: E402
from uti.space import canonical_json  # noqa: E402
from uti.tokens.grammar import Grammar  # noqa: E402
from uti.tokens.sequences import build, pack  # noqa: E402

PAIRS = 100  # of images and of audio
MILLIONS = 100  # ids of the folder that is read
ROW_LENGTH, ROWS = 4096, 400


def cpu(function: Callable[[], object]) -> float:
    "Seconds of CPU of this process and of those that it began and waited for."

    def used() -> float:
        return sum(
            own.ru_utime + own.ru_stime
            for own in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    began = used()
    function()
    return used() - began


def write_media(folder: Path) -> list[dict[str, str]]:
    "Write crops of a photograph and noises of 1 to 3 s, and return the lines of their manifest."
    photo, lines = PIL.Image.open(packaged("assets") / "coffee.png").convert("RGB"), []
    for i in range(PAIRS):
        photo.crop((2 * i, i, 2 * i + 300, i + 250)).save(folder / f"{i}.png")
        wave = noise(24_000 + 800 * i, i, held=7).float()[None] * 0.5
        write_wav(folder / f"{i}.wav", wave, 24_000)
        lines.append({"id": f"i{i}", "task": "t2i", "image": f"{i}.png", "text": f"a photograph, crop {i}"})
        lines.append(
            {"id": f"a{i}", "task": "a2t", "audio": f"{i}.wav", "text": f"a noise, its number is {i}"}
        )
    return lines


def bare(folder: Path, lines: list[dict[str, str]]) -> None:
    "Encode every item and build its sequence, and keep nothing."
    tokenizer = tokenizer_of(load_config())
    torch.set_num_threads(1)
    for line in lines:
        text = tokenizer.encode_text(line["text"]).ids
        if "image" in line:
            build(tokenizer.space, line["task"], tokenizer.encode_image(folder / line["image"]).ids, text)
        else:
            build(tokenizer.space, line["task"], text, tokenizer.encode_audio(folder / line["audio"]).ids)


def tile(data: Path, out: Path, n: int) -> int:
    "Write the rows of a folder of shards until it has `n` ids; returns how many it has."
    shards = open_shards(data)
    rows = [vars(row) | {"input_ids": row.ids} for name in shards.names for row in shards.rows(name)]
    footer = {"uti.format": shards.recipe["format"], "uti.recipe": canonical_json(shards.recipe)}
    sides, first, tokens = [], 0, 0
    shutil.copytree(data, out, ignore=shutil.ignore_patterns("shard-*"))
    while tokens < n:
        tiled = [
            {
                **row,
                "id": f"{row['id']}-{len(sides)}-{j}",
                "index": first + j * len(rows) + i,
                "split": "train",
            }
            for j in range(20)
            for i, row in enumerate(rows)
        ]
        written = write_shard(out / f"shard-{len(sides):05d}.parquet", tiled, footer)
        sides.append({"shard": len(sides), "first": first, "items": len(tiled), **written})
        first, tokens = first + len(tiled), tokens + written["tokens"]
    write_json(out / "dataset.json", {**shards.data, "rows": first, "tokens": tokens, "shards": sides})
    return tokens


def read_packed(split: Split, packing: Plan) -> None:
    "Make rows at random places what a trainer takes."
    config = parse_config({"text": "embedded-text", "smoke": {"targets": 0}})
    grammar = Grammar(split.shards.space, "interleaved", {})
    dataset = StoredDataset(StoredExamples(split), grammar, config)
    for row in np.random.default_rng(0).permutation(len(packing.rows))[:ROWS]:
        row_inputs(pack(grammar.space, dataset.read(packing.rows[row]), ROW_LENGTH), 0)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        lines = write_media(home)
        manifest = home / "manifest.jsonl"
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings = Settings(batch=1, eval_per_mille=0)
        bare(home, lines[:4])  # loads the codecs
        loop = cpu(lambda: bare(home, lines))
        shards = cpu(lambda: tokenize(manifest, home / "one", settings=settings, per_shard=15))
        times = {
            n: cpu(lambda n=n: tokenize(manifest, home / str(n), settings=settings, per_shard=15, workers=n))
            for n in (2, 3)
        }
        (home / "million.jsonl").write_text(
            '{"id": "a", "task": "text", "text": "a line of a manifest"}\n' * 10**6
        )
        planned = cpu(lambda: plan(home / "million.jsonl", 1000))
        tokens = tile(home / "one", home / "tiled", MILLIONS * 10**6)
        began = time.perf_counter()
        split = Split(open_shards(home / "tiled"), "train")
        packing = plan_rows(split.lengths, split.groups, ROW_LENGTH, seed=0)
        opened = time.perf_counter() - began
        packed = cpu(lambda: read_packed(split, packing))
        audited = cpu(lambda: audit_shards(home / "tiled", 1))
        start = times[3] - times[2]
        print(f"{len(lines)} items: {loop:.1f} s of CPU bare, {shards:.1f} as shards; {tokens:,} ids tiled\n")
        rows = [
            ("CPU: shards over the bare encode loop", shards / loop, "<=", 1.1),
            ("CPU: two workers without their start, over one", (times[2] - 2 * start) / shards, "<=", 1.1),
            ("s of CPU: a worker's start", start, "<=", 0.0),
            ("s of CPU: a plan of a million lines", planned, "<=", 2.0),
            (f"s: opening {tokens / 1e6:.0f} M ids, rows planned", opened, "<=", 2.0),
            (f"rows of {ROW_LENGTH:,} tokens a s of CPU", min(ROWS, len(packing.rows)) / packed, ">=", 200.0),
            ("million ids a s of CPU, audited at level 1", tokens / audited / 1e6, ">=", 1.0),
        ]
        return report(rows, "seconds of CPU, one thread")


if __name__ == "__main__":
    sys.exit(main())
