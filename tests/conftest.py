"""Fixtures: the command line as a user calls it, and a codec of somebody else, installed as a package is."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import ANSWERS, be_brief, forked, fresh_fork, report_in_fork, run_command, training_fork

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# jsonschema, which nbformat imports, would compile a grammar of IRIs for seconds, and does without it
sys.modules["rfc3987_syntax"] = None
# OpenMP reads these when torch is imported. The tests run in as many processes as there are cores, so a
# thread each is fastest, and threads that wait must not keep a core busy.
# What is said of numbers of threads is tested with `torch.set_num_threads`, or in a process with a number of
# its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


# Whole runs, each made once for all the tests that only look at what it left: a file's tests share a process,
# so no other makes it again.
SHARED = ("alone", "audited", "fallen", "hostile", "published", "mixed", "smoked", "typed")
# and what makes and loads models of other libraries, which takes as long
MODELS = ("test_checkpoints.py", "test_export.py", "test_lm.py", "test_seed2.py", "test_smoke.py")
NOTEBOOKS = "test_notebooks.py"


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "slow: takes long, and a fast test covers the same promise; runs with --slow only"
    )
    config.addinivalue_line(
        "markers", "run: is a whole run, looks at one, or loads models; `make check` leaves it out"
    )


@pytest.hookimpl(tryfirst=True)  # before -m reads the marks
def pytest_collection_modifyitems(config, items):
    for item in items:
        if set(SHARED) & set(item.fixturenames) or item.path.name in MODELS:
            item.add_marker(pytest.mark.run)
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow, as in `make test-slow`"))
    whole = Counter(item.path for item in items if item.get_closest_marker("run"))
    # the longest first, so that no process is left alone with them at the end
    items.sort(key=lambda item: -whole[item.path] if item.path.name != NOTEBOOKS else 0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "A file's tests share a process, which makes what they share once; each room of notebooks may go to any."
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if NOTEBOOKS in nodeid else super()._split_scope(nodeid)

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def warm():
    """The fresh process of an audit, and the one that draws a page, are forks of one that has torch, which
    saves the seconds of importing it.
    """
    from uti import publish
    from uti.checks import case

    with pytest.MonkeyPatch.context() as patch:
        as_they_are = case._spawn, publish._run
        patch.setattr(case, "_spawn", fresh_fork)
        patch.setattr(publish, "_run", report_in_fork)
        yield as_they_are


@pytest.fixture(scope="session", autouse=True)
def brief(tmp_path_factory):
    """Questions are asked as `be_brief` says, here and in forks, and codecs that are given as objects are not
    sent to other processes.
    """
    from uti.checks.case import FreshProcesses

    base = tmp_path_factory.getbasetemp()  # of this one of the processes that share the tests
    os.environ[ANSWERS] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "answers")
    with pytest.MonkeyPatch.context() as patch:
        be_brief(patch.setattr)
        sent = vars(FreshProcesses)["_pickled"]
        patch.setattr(FreshProcesses, "_pickled", "they stay in this process")
        yield sent


@pytest.fixture
def sent(brief, monkeypatch):
    "For a test of codecs that are given as objects and asked in other processes."
    monkeypatch.setattr("uti.checks.case.FreshProcesses._pickled", brief)


@pytest.fixture(scope="session")
def warm_training():
    "So are the training runs that a test kills."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uti.lm.smoke._start_training", training_fork)
        yield


@pytest.fixture
def cold(warm, monkeypatch):
    "For a test that looks at these processes themselves: they are started as everywhere else."
    spawn, run = warm
    monkeypatch.setattr("uti.checks.case._spawn", spawn)
    monkeypatch.setattr("uti.publish._run", run)


@pytest.fixture(scope="session")
def uti_in() -> Callable[..., subprocess.CompletedProcess]:
    """`uti_in(folder, *arguments)`: the command in `folder`, in this process, which saves the seconds that a
    new one needs to import torch; what a process would have returned.
    """
    from typer.testing import CliRunner

    from uti.cli.main import app

    def run(folder, *arguments):
        command = ["uti", *map(str, arguments)]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", command)
            result = CliRunner().invoke(app, command[1:])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(command, result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def uti_here(uti_in, tmp_path):
    "`uti_here(*arguments)`: the command, in a folder of its own and in this process."
    return lambda *arguments: uti_in(tmp_path, *arguments)


def process(folder, *arguments, **environment) -> subprocess.CompletedProcess:
    """The command in `folder` and in a process of its own, for what a process alone shows: environment,
    threads, tracebacks.
    """
    environment = {**os.environ, **environment}
    return forked(run_command, *map(str, arguments), folder=folder, environment=environment)


@pytest.fixture
def uti(tmp_path):
    "`uti(*arguments, **environment)`: `process`, in a folder of its own."
    return lambda *arguments, **environment: process(tmp_path, *arguments, **environment)


THIRD_PARTY = """
import torch
from uti.codecs.base import Codec, Encoded
from uti.codecs.spec import ImageSpec

class Stripes(Codec):
    "One id an image: its mean grey."
    spec = ImageSpec("stripes", (256,), version="1", licence="MIT", source="none",
                     input_size=(16, 16), grid=(1, 1), invariant=True)
    def __init__(self, breaks=False):
        self.breaks = breaks
    def _encode(self, signals, lengths):
        codes = (signals.mean((1, 2, 3), keepdim=True)[:, 0] * 255).long()
        return Encoded(codes, [{"n_positions": 1} for _ in signals])
    def _decode(self, codes, meta):
        if self.breaks:
            raise RuntimeError("the decoder fell over")
        return (codes / 255.0)[..., None].expand(-1, 3, 16, 16).contiguous()
    def runtime_codebook_sizes(self):
        return (256,)
"""


@pytest.fixture
def third_party(tmp_path_factory, monkeypatch):
    """A package with an entry point in the group `uti.codecs`, for this process and those it starts; returns
    its folder.
    """
    folder = tmp_path_factory.mktemp("site")
    (folder / "their_codec.py").write_text(THIRD_PARTY)
    info = folder / "their_codec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-codec\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[uti.codecs]\nstripes = their_codec:Stripes\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture(scope="session")
def assets() -> Path:
    import uti

    return Path(uti.__file__).parent / "assets"


@pytest.fixture(scope="session")
def small(tmp_path_factory, assets) -> Path:
    "A folder with an image of 96×96 and a second of audio, for audits of which the size is not the point."
    from uti.modalities.audio import load_audio, write_wav
    from uti.modalities.image import normalise_image, write_png

    folder = tmp_path_factory.mktemp("assets") / "small"
    folder.mkdir()
    write_png(folder / "coffee.png", normalise_image(assets / "coffee.png", (96, 96))[0])
    wave, rate = load_audio(assets / "speech.wav")
    write_wav(folder / "speech.wav", wave[:, :rate], rate)
    return folder


@pytest.fixture
def browsed(tmp_path):
    "`browsed(page)`: the page as a browser has it after its scripts ran; skips without Chromium."
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    quiet = (
        "headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update",
        "disable-sync", "no-first-run", f"user-data-dir={tmp_path / 'profile'}", "virtual-time-budget=3000",
        "dump-dom",
    )  # fmt: skip

    def dom(page):
        command = [program, *(f"--{option}" for option in quiet), f"file://{page}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    return dom
