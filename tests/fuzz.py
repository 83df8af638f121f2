"""Damaged inputs of every kind, thousands of them: each is read, or refused with the error that is promised.
`python tests/fuzz.py [N] [SEED]`. Prints what became of them; exits 1 where anything else escapes.
"""

import io
import itertools
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
import yaml
from checkpoints import save
from PIL import Image

from uti.audit.samples import ASSETS
from uti.codecs.checkpoints import load_codec
from uti.config import DEFAULT_CONFIG, load_config
from uti.errors import UTIError
from uti.modalities.audio import read_audio
from uti.modalities.image import load_image
from uti.space import TokenSpace, load_space, to_dict
from uti.tokens.tokenizer import Tokens, UnifiedTokenizer

ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**70,
    1.5,
    -0.0,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "x",
    "1",
    "\ud800",
]
ODD += [[], {}, [[]], [1, 2], {"a": 1}, "cuda", "../x", "\x00", "2026-02-30", [None] * 3]
MEMORY = 6 * 2**30  # that an input may take
CARD = b"---\nlicense: mit\ndate: 2024-01-01\ntags: &x [a, b]\ndatasets: *x\n---\n# A model\n"
IMAGES = {"png": {}, "jpg": {}, "webp": {}, "gif": {}, "bmp": {}, "tif": {}}
SOUNDS = {
    "wav": ("WAV", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", None),
}  # fmt: skip


def damaged(whole: bytes, rng: random.Random) -> bytes:
    "Bytes changed, cut, doubled or moved; most of them near the beginning, where headers are."
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        where = rng.randrange(min(len(data), rng.choice((64, 256, len(data)))))
        how = rng.randrange(5)
        if how == 0:
            data[where] = rng.randrange(256)
        elif how == 1:
            data[where : where + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
        elif how == 2:
            del data[where : where + rng.randrange(1, 32)]
        elif how == 3:
            data[where:where] = data[where : where + rng.randrange(1, 64)]
        else:
            del data[max(8, rng.randrange(len(data))) :]
        if len(data) < 16:
            break
    return bytes(data)


def changed(value: object, rng: random.Random) -> object:
    "The same structure with one of its parts odd, missing or new."
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def renumbered(value: object, rng: random.Random) -> object:
    "The same structure with one of its whole numbers another, of the right type and far off."
    if isinstance(value, dict | list) and value:
        inside = list(value) if isinstance(value, dict) else range(len(value))
        numbers = [k for k in inside if type(value[k]) in (int, dict, list)]
        if numbers:
            key = rng.choice(numbers)
            copy = value.copy()
            copy[key] = renumbered(value[key], rng)
            return copy
    return rng.choice((-1, 0, 1, 2, 3, 7, 64, 1000, 10**6, 10**9, 2**31)) if type(value) is int else value


def files(n: int, rng: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    image = Image.open(ASSETS / "coffee.png").resize((48, 40)).convert("RGB")
    exif = Image.Exif()
    exif[0x112], exif[0x10E] = 6, "a cup"
    wave = (0.3 * np.sin(np.arange(9_600) * 0.05)).astype(np.float32)
    whole = {}
    for suffix in IMAGES:
        kept = io.BytesIO()
        image.save(kept, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), exif=exif)
        whole[suffix] = kept.getvalue()
    for suffix, (container, subtype) in SOUNDS.items():
        sf.write(folder / "whole", wave, 24_000, format=container, subtype=subtype)
        whole[suffix] = (folder / "whole").read_bytes()
    for i in range(n):
        suffix = list(whole)[i % len(whole)]
        path = folder / f"damaged.{suffix}"
        path.write_bytes(damaged(whole[suffix], rng))
        yield (
            f"file .{suffix}",
            lambda path=path: (read_audio if path.suffix[1:] in SOUNDS else load_image)(path),
        )


def metas(n: int, rng: random.Random) -> Iterator[tuple[str, Callable[[], object]]]:
    tokenizer = UnifiedTokenizer.from_config()
    made = {
        "text": tokenizer.encode_text("a cup of coffee"),
        "image": tokenizer.encode_image(ASSETS / "coffee.png"),
        "audio": tokenizer.encode_audio(torch.zeros(1, 4_800), 24_000),
    }
    for i in range(n):
        modality = list(made)[i % 3]
        ids, meta = made[modality].ids, made[modality].meta
        if rng.random() < 0.3:
            ids = rng.choice(
                [ids[:-1], ids[:0], ids + 1, ids.float(), ids[None], -ids, ids.tolist(), None, "ids"]
            )
        else:
            meta = changed(meta, rng)
        yield f"meta of {modality}", lambda m=modality, t=(ids, meta): tokenizer.decode(m, Tokens(*t))


def configs(n: int, rng: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    text = DEFAULT_CONFIG.read_text()
    whole = load_config(DEFAULT_CONFIG).model_dump(mode="json", exclude_none=True)
    for i in range(n):
        path = folder / "uti.yaml"
        if i % 2:
            path.write_bytes(damaged(text.encode(), rng))
        else:
            path.write_text(yaml.safe_dump(changed(whole, rng), allow_unicode=True), errors="replace")
        yield "config", lambda path=path: load_config(path)


def spaces(n: int, rng: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    whole = to_dict(TokenSpace(text=100, image=(50,), audio=(10, 10)))
    text = json.dumps(whole).encode()
    for i in range(n):
        path = folder / "token_space.json"
        path.write_bytes(damaged(text, rng) if i % 2 else json.dumps(changed(whole, rng)).encode())
        yield "token space", lambda path=path: load_space(path)


def checkpoints(n: int, rng: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    "A field of a config, the card, a part of a tokenizer, or bytes of the weights are odd."
    families = {
        "audio": ["encodec_24khz", "encodec_48khz", "dac", "mimi", "xcodec2"],
        "image": ["chameleon_vqgan", "janus_vqgan", "emu3_vqgan", "VQModel", "chameleon"],
        "text": ["byte_level_bpe", "unigram", "word_piece", "llama"],
    }
    wholes = {modality: [save(f, folder) for f in names] for modality, names in families.items()}
    for i in range(n):
        modality = list(wholes)[i % 3]
        path = folder / "checkpoint"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(rng.choice(wholes[modality]), path)
        (path / "README.md").write_bytes(damaged(CARD, rng))
        chosen = rng.choice(sorted(path.glob("*.json"))) if rng.random() < 0.9 else None
        if chosen is None:
            weights = next(iter(sorted(path.glob("*.safetensors"))), path / "README.md")
            weights.write_bytes(damaged(weights.read_bytes(), rng))
        elif rng.random() < 0.8:
            found = json.loads(chosen.read_text())
            how = rng.choice((changed, renumbered, renumbered))
            for _ in range(rng.choice((1, 1, 1, 2, 5))):
                found = how(found, rng)
            chosen.write_text(json.dumps(found))
        else:
            chosen.write_bytes(damaged(chosen.read_bytes(), rng))
        yield f"checkpoint, {modality}", lambda m=modality, path=path: load_codec(path, m)


class TooLong(BaseException):
    "An input took longer than any that is right."


def within_limits(read: Callable[[], object], seconds: int = 30) -> None:
    "Read an input. Raises `TooLong` where it takes too long, whatever became of it."
    late = []

    def stop(*_: object) -> None:
        late.append(True)
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        read()
    finally:
        signal.alarm(0)
        if late:
            raise TooLong


def run(n: int, seed: int) -> int:
    "`n` files, a quarter as many of each other kind, a tenth as many checkpoints; how many escaped."
    rng, became, escaped = random.Random(seed), Counter(), []
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(home)
        for kind, read in itertools.chain(
            files(n, rng, folder),
            metas(n // 4, rng),
            configs(n // 4, rng, folder),
            spaces(n // 4, rng, folder),
            checkpoints(n // 10, rng, folder),
        ):
            try:
                within_limits(read)
                became[kind, "read"] += 1
            except UTIError:
                became[kind, "refused"] += 1
            except (Exception, TooLong):
                became[kind, "ESCAPED"] += 1
                escaped.append(traceback.format_exc(limit=-3))
    for (kind, what), count in sorted(became.items()):
        print(f"{kind:16} {what:8} {count:6}")
    last = Counter(told.strip().splitlines()[-1][:160] for told in escaped)
    for line, count in last.most_common(40):
        print(f"\n{count} × {line}\n{next(told for told in escaped if line in told)}")
    print(f"{sum(became.values())} inputs, {len(escaped)} escaped")
    return len(escaped)


def main() -> int:
    n, seed = (int(given) for given in (*sys.argv[1:], *("20000", "0")[len(sys.argv) - 1 :]))
    return int(run(n, seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
