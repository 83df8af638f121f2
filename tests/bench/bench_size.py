"""Time and memory by size, of what is long or large: `python tests/bench/bench_size.py`.

Each in a process of its own, from the file to ids and back. Exits 1 when a ceiling is missed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from timing import report  # noqa: E402

GIB_CEILING = 2.0  # of an hour of audio
GROWTH_CEILING = 1.3  # its seconds over six times those of ten minutes
RATE = 24_000
COST = """import re, sys, time
from uti.tokens.tokenizer import UnifiedTokenizer


def peak():  # of this program alone, in GiB; what getrusage tells is also that of the process before it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20


what, path = sys.argv[1:]
tokenizer = UnifiedTokenizer.from_config()
encode, decode = (getattr(tokenizer, f"{do}_{what}") for do in ("encode", "decode"))
peaks, times, busy = [peak()], [time.perf_counter()], [time.process_time()]
tokens = encode(open(path, encoding="utf-8").read() if what == "text" else path)
peaks, times, busy = [*peaks, peak()], [*times, time.perf_counter()], [*busy, time.process_time()]
decode(tokens.ids) if what == "text" else decode(*tokens)
peaks, times, busy = [*peaks, peak()], [*times, time.perf_counter()], [*busy, time.process_time()]
print(len(tokens.ids), times[1] - times[0], times[2] - times[1], *peaks, busy[1] - busy[0], busy[2] - busy[1])
"""


def write_sound(path: Path, minutes: int) -> None:
    "Notes that come and go, 16-bit, written a minute at a time."
    import numpy as np
    import soundfile as sf

    at = np.arange(60 * RATE) / RATE
    with sf.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        for minute in range(minutes):
            hz = 110 * 2 ** ((minute * 7 % 24) / 12)
            file.write(0.4 * np.sin(2 * np.pi * hz * at) * np.exp(-(at % 0.5) * 6))


def write_picture(path: Path, side: int) -> None:
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 255, side).astype(np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], ramp[::-1]), -1)).save(path)


def write_text(path: Path, megabytes: int) -> None:
    import sysconfig

    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    path.write_text((text * (megabytes * 10**6 // len(text) + 1))[: megabytes * 10**6], encoding="utf-8")


SIZES = {
    "1 minute of audio": ("audio", "1.wav", lambda path: write_sound(path, 1)),
    "10 minutes of audio": ("audio", "10.wav", lambda path: write_sound(path, 10)),
    "60 minutes of audio": ("audio", "60.wav", lambda path: write_sound(path, 60)),
    "an image of 1 megapixel": ("image", "1.png", lambda path: write_picture(path, 1000)),
    "an image of 100 megapixels": ("image", "100.png", lambda path: write_picture(path, 10_000)),
    "1 MB of text": ("text", "1.txt", lambda path: write_text(path, 1)),
    "50 MB of text": ("text", "50.txt", lambda path: write_text(path, 50)),
}


def cost(what: str, path: Path) -> list[float]:
    "ids, seconds to encode and to decode, the peak in GiB before, encoding, decoding; seconds of CPU, twice."
    command = [sys.executable, "-c", COST, what, str(path)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    return [float(number) for number in run.stdout.split()]


def main() -> int:
    print(f"{'':28}{'ids':>12}{'encode':>10}{'decode':>10}{'GiB before':>12}{'encoding':>10}{'decoding':>10}")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for title, (what, name, write) in SIZES.items():
            write(Path(scratch) / name)
            ids, encode, decode, *peaks = found[title] = cost(what, Path(scratch) / name)
            print(
                f"{title:28}{ids:12,.0f}{encode:9.2f}s{decode:9.2f}s{peaks[0]:12.2f}{peaks[1]:10.2f}{peaks[2]:10.2f}",
                flush=True,
            )
    ten, sixty = found["10 minutes of audio"], found["60 minutes of audio"]
    print()
    rows = [
        ("GiB in all, an hour of audio encoded and decoded", sixty[5], "<=", GIB_CEILING),
        ("CPU: an hour encoded, over six times ten minutes", sixty[6] / ten[6] / 6, "<=", GROWTH_CEILING),
        ("CPU: an hour decoded, over six times ten minutes", sixty[7] / ten[7] / 6, "<=", GROWTH_CEILING),
    ]
    return report(rows, "in a process each")


if __name__ == "__main__":
    sys.exit(main())
