"""`python -m tests.bench`: every bench after another.

Exits 1 when any floor is missed, 2 when a peer is not installed.
"""

import subprocess
import sys
from pathlib import Path

worst = 0
for bench in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(
        f"\n=== {bench.stem}: {bench.read_text(encoding='utf-8').splitlines()[0].strip(chr(34))}\n",
        flush=True,
    )
    worst = max(worst, subprocess.run([sys.executable, str(bench)]).returncode)
sys.exit(worst)
