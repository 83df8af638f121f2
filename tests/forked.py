"""Runs a function in a fork of a process that has the heavy libraries imported.

A process that starts Python and imports torch and transformers spends seconds on what no test asks about.
The fork server imports them once, before it has any thread, and each call gets a fork of it: a process of its
own, with its own working folder, environment, streams and exit code.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# not uti.cli, whose consoles look at the terminal and at the environment when they are imported
PRELOADED = [
    "torch", "uti.compat", "transformers", "diffusers", "scipy.signal", "skimage.metrics", "pandas",
    "matplotlib.pyplot", "matplotlib_inline.backend_inline", "nbconvert", "nbdev.test", "uti.audit.run",
    "uti.pages.audit", "uti.testing",
]  # fmt: skip
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def _child(
    function: Callable[..., Any],
    arguments: tuple,
    folder: str,
    environment: Mapping[str, str],
    streams: list[str],
) -> None:
    import torch

    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    function(*arguments)


def forked(
    function: Callable[..., Any],
    *arguments: Any,
    folder: str | Path = ".",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Call `function(*arguments)`, both of which can be pickled, in a fork, in the working folder `folder`
    and with `environment` (default: this process's). Returns exit code, standard output and standard error.
    """
    with tempfile.TemporaryDirectory() as scratch:
        streams = [Path(scratch) / name for name in ("out", "err")]
        for path in streams:
            path.touch()
        given = (function, arguments, str(folder), dict(environment or os.environ), [str(p) for p in streams])
        process = CONTEXT.Process(target=_child, args=given)
        process.start()
        try:
            process.join()
        finally:
            process.kill()
        said = [path.read_text(encoding="utf-8", errors="replace") for path in streams]
        return subprocess.CompletedProcess(function.__name__, process.exitcode, *said)


def run_command(*arguments: str) -> None:
    "Run the command `uti` with `arguments`."
    from uti.cli.main import main

    sys.argv = ["uti", *arguments]
    main()


def run_notebook(path: Path, skipped: tuple[str, ...]) -> None:
    "Execute the notebook in `path`, but for cells with a flag in `skipped`; exit code 1 where one fails."
    from nbdev.test import test_nb

    passed, _ = test_nb(path, skip_flags=skipped)
    raise SystemExit(0 if passed else 1)
