"""Run a function in a fork of a process that has the heavy libraries imported.

A process that starts Python and imports torch and transformers spends seconds on what no test asks about.
The fork server imports them once, before it has any thread, and each call gets a fork of it: a process of its
own, with its own working folder, environment, streams and exit code.
"""

import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.modules["rfc3987_syntax"] = None  # as in conftest
# not uti.cli, whose consoles look at the terminal and at the environment when they are imported
PRELOADED = [
    "forked", "torch", "uti.compat", "transformers", "diffusers", "scipy.signal", "skimage.metrics", "pandas",
    "matplotlib.pyplot", "matplotlib_inline.backend_inline", "nbconvert", "nbdev.test", "uti.audit.run",
    "uti.pages.audit", "uti.testing", "uti.lm.smoke",
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

    # a shell without job control starts what runs in its background with SIGINT ignored, and so its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    function(*arguments)


class Fork:
    """`function(*arguments)`, both of which can be pickled, running in a fork, in the working folder `folder`
    and with `environment` (default: this process's); what it says goes to two files. `context`: what it is
    a fork of, the server or this process. `daemon`: whether it ends with this one. Used as a
    `subprocess.Popen` is.
    """

    def __init__(
        self, function, *arguments, streams, folder=".", environment=None, context=CONTEXT, daemon=False
    ):
        for path in streams:
            path.touch()
        folder, environment = str(Path(folder).resolve()), dict(environment or os.environ)
        given = (function, arguments, folder, environment, [str(path) for path in streams])
        self.process = context.Process(target=_child, args=given, daemon=daemon)
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join(900)  # far longer than any takes: what hangs is ended
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wait()


def forked(function: Callable[..., Any], *arguments: Any, **how: Any) -> subprocess.CompletedProcess[str]:
    "Run a `Fork` to its end: its exit code, standard output and standard error."
    with tempfile.TemporaryDirectory() as scratch:
        streams = [Path(scratch) / name for name in ("out", "err")]
        fork = Fork(function, *arguments, streams=streams, **how)
        try:
            code = fork.wait()
        finally:
            fork.kill()
        said = [path.read_text(encoding="utf-8", errors="replace") for path in streams]
        return subprocess.CompletedProcess(function.__name__, code, *said)


def fresh_fork(folder: Path, circumstances: Any, context=CONTEXT) -> Fork:
    "As `uti.checks.case._spawn`: a fresh process of an audit, with this one's hash seed."
    environment = {**os.environ, **circumstances.environment}
    streams = [folder / "out", folder / "err"]
    return Fork(
        run_fresh, str(folder), environment=environment, streams=streams, context=context, daemon=True
    )


def training_fork(arguments: list[str], log: Path) -> Fork:
    "As `uti.lm.smoke._start_training`: a training run that will be killed."
    return Fork(run_command, "train", *arguments, streams=[log, log])


ANSWERS = "UTI_TESTS_ANSWERS"  # names the folder of what was answered about embedded codecs


def be_brief(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Ask less often what is asked as often as the time allows, and ask once for all processes what is asked
    of an embedded codec by itself, whatever the files. `replace`: as `setattr`.
    """
    from uti.audit import run
    from uti.checks import places, repeatability
    from uti.checks.base import CHECKS

    ask, folder = run.ask, Path(os.environ[ANSWERS])
    folder.mkdir(exist_ok=True)

    def ask_once(of, case, *form):
        ours = of in ("codec", "decoder") and type(case.codec).__module__.startswith("uti.codecs.embedded")
        if not ours:
            return ask(of, case, *form)
        questions = [(name, question.function.__qualname__) for name, question in CHECKS.items()]
        key = repr((of, case.spec, case.mode, case.thorough, case.seed, questions))
        known = folder / hashlib.sha256(key.encode()).hexdigest()
        if not known.exists():
            part = folder / f"{known.name}.{os.getpid()}"
            part.write_bytes(pickle.dumps(ask(of, case, *form)))
            part.rename(known)
        return pickle.loads(known.read_bytes())

    replace(repeatability, "SECONDS", 0.05)
    replace(places, "SECONDS", 0.1)
    replace(run, "ask", ask_once)


def run_fresh(folder: str) -> None:
    from uti.checks.case import work

    sys.path[:] = json.loads((Path(folder) / "job.json").read_text())["path"]
    work(folder)


def run_command(*arguments: str) -> None:
    """Run the command `uti` with `arguments`; the fresh processes of its audit are forks of it, and questions
    are asked as in the tests' own process.
    """
    import torch

    from uti.checks import case

    be_brief()
    if torch.get_num_threads() == 1:  # a fork does not inherit the threads that OpenMP waits for
        case._spawn = partial(fresh_fork, context=multiprocessing.get_context("fork"))
    run_cold_command(*arguments)


def run_cold_command(*arguments: str) -> None:
    "Run the command `uti` with `arguments`, which starts its processes as everywhere else."
    from uti.cli.main import main

    sys.argv = ["uti", *arguments]
    main()


def run_notebooks(paths: Sequence[Path], skipped: tuple[str, ...]) -> None:
    """Execute notebooks in their folders, but for cells with a flag in `skipped`; exit code 1 if one fails.

    Figures are made and not drawn: that takes longer than all else, and they lie in the notebook as drawn.
    """
    from IPython.core import pylabtools
    from nbdev.test import test_nb

    be_brief()
    pylabtools.print_figure = lambda *_, **__: None
    raise SystemExit(0 if all(test_nb(path, skip_flags=skipped)[0] for path in paths) else 1)


def report_in_fork(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    "As `uti.publish._run`, without the seconds that a kernel needs to start and to import torch."
    result = forked(run_report, source, target.absolute(), parameters, folder=Path.cwd())
    if result.returncode:
        raise RuntimeError(result.stderr)


def run_report(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    from execnb.nbio import dict2nb, write_nb
    from execnb.shell import CaptureShell
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = dict2nb(parameterize_notebook(load_notebook_node(str(source)), parameters))
    CaptureShell(source).run_all(notebook, exc_stop=True)
    write_nb(notebook, target)


def run_code(code: str, *arguments: str) -> None:
    "Run `code` with `arguments` behind its name."
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
