"""The embedded codecs as they are seen and heard, beside references of as many bits: `python
tests/bench/bench_perceptual.py [--write]`. Nothing is floored: what loses is shown as well.

Images are the nine of `photographs.py`. Speech is a person's, of Debian's asterisk-core-sounds-en-g722
(CC-BY-SA-3.0), where that is installed. `--write` keeps the tables in `data/perceptual.json`, which the
README shows. Exits 2 where a package or the speech is missing, after it printed the rest.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "plugins" / "uti-codec2"))
from photographs import photographs
from uti_codec2 import Codec2

from uti.codecs.base import Codec
from uti.codecs.embedded.audio import EmbeddedAudio
from uti.codecs.embedded.image import EmbeddedImage, EmbeddedImage1
from uti.comparison.references import image_coders, through_jpeg_xl, through_opus, undelayed
from uti.metrics.base import Measurement, MetricError, mean_of
from uti.metrics.registry import METRICS, measure, metrics_of
from uti.modalities.audio import normalise_audio

RATE, SECONDS = 24_000, 4
SPEECH = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
CLIPS = ("demo-abouttotry", "demo-nogo", "dir-intro", "priv-callee-options", "vm-opts-full", "vm-review")
BYTES = 2048  # of an image: what embedded-image spends
BITS = 8 * BYTES / 256**2
KEPT = Path(__file__).parent / "data" / "perceptual.json"
SHOWN = {
    "image": ("image_psnr", "image_ssim_gaussian", "image_ms_ssim", "image_ssimulacra2"),
    "audio": (
        "audio_snr_db", "audio_log_mel_l1", "audio_mr_stft", "audio_pesq_wb", "audio_stoi", "audio_estoi",
        "audio_visqol", "audio_dnsmos_ovrl", "audio_dwer",
    ),
}  # fmt: skip
Row = dict[str, list[Measurement]]  # metric → one for each item


def clips() -> dict[str, torch.Tensor]:
    "Name → float32 [1, samples], the first four seconds of each clip that is installed, at 24 kHz."
    found = {}
    for name in CLIPS:
        path = SPEECH / f"{name}.g722"
        if path.exists():
            with av.open(str(path), format="g722") as file:
                wave = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
            wave = torch.from_numpy(wave[: SECONDS * 16_000]).float()[None] / 2**15
            found[name], _ = normalise_audio(wave, 16_000, target_rate=RATE, channels=1)
    return found


def best(through: Callable, settings: Iterable, image: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What `through` (of image and setting) makes at the last of `settings`, by growing rate, that spends no
    more than `BITS`, and its bits per pixel.
    """
    kept = None
    for setting in settings:
        decoded, rate = through(image, setting)
        if rate > BITS:
            break
        kept = decoded, rate
    assert kept is not None, "no setting is that small"
    return kept


def through_codec(codec: Codec, signal: torch.Tensor) -> torch.Tensor:
    return codec.decode(*codec.encode(signal[None]))[0]


def image_rows(images: dict[str, torch.Tensor]) -> dict[str, tuple[float, Row]]:
    "Contender → (mean bytes, metric → measurements)."
    contenders: dict[str, Callable] = {}
    for codec in (EmbeddedImage(), EmbeddedImage1()):
        name = f"embedded-image, version {codec.version}"
        contenders[name] = lambda image, codec=codec: (through_codec(codec, image), BITS)
    for coder in image_coders()[0]:  # at every setting that there is, and not at those of its ladder alone
        # of Pillow's JPEG, 0 is the default quality
        through, finer = coder.through, range(1 if coder.name == "JPEG" else 0, 101)
        if coder.name == "JPEG XL":  # with less effort the largest distance takes more than that on some
            through, finer = partial(through_jpeg_xl, effort=9), [25 * 0.96**i for i in range(80)]
        contenders[coder.name] = partial(best, through, finer)
    rows = {}
    for name, through in contenders.items():
        found = {key: through(image) for key, image in images.items()}
        size = float(np.mean([rate for _, rate in found.values()])) * 256**2 / 8
        rows[name] = size, collected("image", images, {key: one for key, (one, _) in found.items()})
    return rows


def collected(modality: str, signals: dict, decoded: dict) -> Row:
    "Metric → its measurements of each item."
    rate = {"audio": RATE}.get(modality)
    found = [
        measure(modality, signals[key], decoded[key], rate, perceptual=True, speech=True) for key in signals
    ]
    return {name: [one[name] for one in found] for name in SHOWN[modality]}


def through_codec2(wave: torch.Tensor) -> torch.Tensor:
    "The audio after Codec 2 at 3.2 kbps, at 8 kHz and back."
    codec = Codec2()
    low, _ = normalise_audio(wave, RATE, target_rate=8000, channels=1)
    encoded = codec.encode(low[None])
    back, _ = normalise_audio(codec.decode(*encoded)[0], 8000, target_rate=RATE, channels=1)
    back = torch.nn.functional.pad(back, (0, wave.shape[-1] - back.shape[-1]))
    return undelayed(wave, back, RATE // 20)  # it is late by more than a frame


def audio_rows(waves: dict[str, torch.Tensor]) -> dict[str, tuple[float, Row]]:
    "Contender → (kbps, metric → measurements)."

    contenders: dict[str, tuple[float, Callable]] = {
        f"embedded-audio, {n} codebooks": (0.75 * n, partial(through_codec, EmbeddedAudio(n))) for n in (8, 4)
    }
    for kbps in (6, 8, 12):
        contenders[f"Opus, {kbps} kbps"] = kbps, lambda w, kbps=kbps: through_opus(w, kbps, RATE)[0]
    contenders["Codec 2"] = 3.2, through_codec2
    return {
        name: (kbps, collected("audio", waves, {key: through(wave) for key, wave in waves.items()}))
        for name, (kbps, through) in contenders.items()
    }


def table(rows: dict[str, tuple[float, Row]], rate: str) -> list[list[str]]:
    "The rows of a table, the head first: means, and below each the 95 % interval."
    metrics = list(next(iter(rows.values()))[1])
    arrows = {"higher": "↑", "lower": "↓"}
    titles = [f"{METRICS[m].title} {arrows[METRICS[m].better]}" for m in metrics]
    lines = [["", rate, *titles]]
    for name, (spent, row) in rows.items():
        cells = []
        for metric in metrics:
            mean, decimals = mean_of(row[metric]), METRICS[metric].decimals
            cells.append("–" if mean.value is None else f"{mean.value:.{decimals}f}")
            if mean.low is not None:
                cells[-1] += f" [{mean.low:.{decimals}f}, {mean.high:.{decimals}f}]"
        lines.append([name, f"{spent:.4g}", *cells])
    return lines


def printed(lines: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print(
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
        )
    print()


def peak() -> float:
    "The most memory that this process had, in MiB."
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def cost_of(name: str, signals: list, queue) -> None:
    "Put (processor seconds of the second call, MiB that the process grew by) of a metric into `queue`."
    torch.set_num_threads(1)
    before = peak()
    try:
        METRICS[name].function(*signals)
        start = time.process_time()
        METRICS[name].function(*signals)
        queue.put((time.process_time() - start, peak() - before))
    except MetricError as error:
        queue.put(str(error))


def audit_seconds(*options: str) -> float:
    "Seconds of an audit of the embedded codecs, as a user calls it."
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "uti", "audit", "--outdir", f"{home}/out", *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start


def costs(images: dict[str, torch.Tensor], waves: dict[str, torch.Tensor]) -> list[list[str]]:
    "What each metric costs in a process of its own: for an image of 256×256, or four seconds of audio."
    context, lines = multiprocessing.get_context("spawn"), [["", "of", "seconds", "MiB"]]
    signals = {"image": [images["coffee"]]} | ({"audio": [next(iter(waves.values()))]} if waves else {})
    for modality, (one,) in signals.items():
        other = one + 0.02 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
        given = [one, other.clamp(0, 1) if modality == "image" else other]
        for metric in metrics_of(modality, perceptual=True):
            queue = context.Queue()
            process = context.Process(
                target=cost_of,
                args=(metric.name, [*given, *([RATE] if modality == "audio" else [])], queue),
            )
            process.start()
            found = queue.get(timeout=300)
            process.join()
            cells = [found, ""] if isinstance(found, str) else [f"{found[0]:.3f}", f"{found[1]:.0f}"]
            lines.append([metric.title, "256×256" if modality == "image" else f"{SECONDS} s", *cells])
    return lines


def main() -> int:
    torch.set_num_threads(1)
    images = {n: torch.from_numpy(p.copy()).movedim(-1, 0).float() / 255 for n, p in photographs().items()}
    waves, missing = clips(), []
    kept = {"image": table(image_rows(images), "bytes")}
    print(f"{len(images)} images of 256×256, files of at most 2,048 bytes, headers counted\n")
    printed(kept["image"])
    if len(waves) == len(CLIPS):
        seconds = sum(wave.shape[-1] for wave in waves.values()) / RATE
        print(f"{len(waves)} clips of a person's speech, {seconds:.0f} s, 24 kHz mono\n")
        kept["audio"] = table(audio_rows(waves), "kbps")
        printed(kept["audio"])
    else:
        missing.append("human speech: Debian's asterisk-core-sounds-en-g722 (apt-get install it)")
    print("cost of a metric, one thread, after a first call; growth of the process\n")
    printed(costs(images, waves))
    without, tier = audit_seconds(), audit_seconds("--perceptual")
    print(f"uti audit: {without:.1f} s, with --perceptual {tier:.1f} s, {tier / without:.2f} times\n")
    sources = {m.name: m.facts.source for modality in kept for m in metrics_of(modality, perceptual=True)}
    missing += [f"{name}: {source}" for name, source in sources.items() if "not installed" in source]
    missing += image_coders()[1]
    for one in missing:
        print(f"missing: {one}")
    if "--write" in sys.argv and not missing:
        KEPT.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
