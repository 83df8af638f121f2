"""The exported tokenizer beside the text tokenizer alone: `python tests/bench/bench_export.py`.

Exits 1 when a floor is missed.
"""

import sys
import sysconfig
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import transformers  # noqa: E402
from timing import ratio, report  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from uti.tokens.export import export_tokenizer  # noqa: E402
from uti.tokens.tokenizer import UnifiedTokenizer  # noqa: E402

ENCODE_FLOOR, LOAD_FLOOR, SIZE_FLOOR = 1.3, 0.5, 3.0  # times; seconds of one CPU; MB


def megabyte_of_text() -> list[str]:
    "Lines of Python's own library, 1 MB of them; none names a token."
    text = "".join(
        p.read_text(encoding="utf-8", errors="ignore")
        for p in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    )
    return text[:1_000_000].splitlines(keepends=True)


def main() -> int:
    tokenizer, lines = UnifiedTokenizer.from_config(), megabyte_of_text()
    plain = tokenizer.codec("text").tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_tokenizer(tokenizer, Path(scratch) / "export")
        size = (folder / "tokenizer.json").stat().st_size / 1e6
        exported = Tokenizer.from_file(str(folder / "tokenizer.json"))
        loads = []
        for _ in range(3):
            start = time.process_time()
            loaded = transformers.AutoTokenizer.from_pretrained(folder)
            loads.append(time.process_time() - start)
    ids = [plain.encode(line, add_special_tokens=False).ids for line in lines]
    assert ids == [exported.encode(line).ids for line in lines] and len(loaded) == 77_888
    times = ratio(
        lambda: [exported.encode(line) for line in lines], lambda: [plain.encode(line) for line in lines], 5
    )
    print(f"{len(loaded):,} ids; {sum(map(len, ids)):,} of them in 1 MB of text, none otherwise\n")
    return report([
        ("encode 1 MB of text, over the text tokenizer alone", times, "<=", ENCODE_FLOOR),
        ("seconds of CPU to load with AutoTokenizer", min(loads), "<=", LOAD_FLOOR),
        ("MB of tokenizer.json", size, "<=", SIZE_FLOOR),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
