"""A page that is safe and tells the truth: hostile names are text, a run that broke says so everywhere."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import psutil
import pytest
from forked import Fork, forked, run_code, run_command
from nbclient.exceptions import DeadKernelError

from uti.audit.plan import AuditPlan
from uti.audit.report_json import read_record
from uti.audit.run import run_audit
from uti.codecs import base
from uti.config import parse_config
from uti.modalities.image import normalise_image, write_png
from uti.publish import publish, write_site

# a handler that runs leaves a mark that can be read: the title PWN
RUN = "document.title=String.fromCharCode(80,87,78)"
HOSTILE = f"<img src=x onerror={RUN}><span onclick={RUN}>$\\frac$`*_[x](javascript:{RUN})"
CODEC = f"""
from uti.codecs.base import Codec, Encoded
from uti.codecs.spec import ImageSpec
import torch

HOSTILE = {HOSTILE!r}

class Hostile(Codec):
    spec = ImageSpec(HOSTILE, (256,), version=HOSTILE, licence=HOSTILE,
                     source="<script>{RUN}</script>" + HOSTILE, input_size=(16, 16), grid=(1, 1),
                     notes=(HOSTILE, "<audio onerror={RUN}>" * 40))
    def runtime_codebook_sizes(self):
        return (256,)
    def own_checks(self, signals, encoded):
        return [(HOSTILE, False, HOSTILE, HOSTILE)]
    def _encode(self, signals, lengths):
        import warnings
        warnings.warn(HOSTILE)
        codes = (signals.mean((1, 2, 3)) * 255).round().long()[:, None, None]
        return Encoded(codes, [{{"n_positions": 1}} for _ in signals])
    def _decode(self, codes, meta):
        return (codes[:, :, :, None] / 255.0).float().expand(-1, 3, 16, 16)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, assets, uti_in):
    """The page of a report in which every string that somebody else can write is markup, and what the command
    returned.
    """
    work = tmp_path_factory.mktemp("hostile")
    info = work / "package" / "hostile_codec-1.dist-info"
    info.mkdir(parents=True)
    (work / "package" / "hostile_codec.py").write_text(CODEC)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-codec\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[uti.codecs]\nhostile = hostile_codec:Hostile\n")
    folder = work / f"```\n<script>{RUN}<|script>\n```"
    folder.mkdir()
    picture = normalise_image(assets / "coffee.png", (32, 32))[0]
    for name in (
        f"<img src=x onerror={RUN}>.png",
        "Ba$$in $\\frac$.png",
        "<span onmouseover=1>.png",
        "`![x](javascript:1)`.png",
    ):
        write_png(folder / name, picture)
    (work / "uti.yaml").write_text("image: {codec: hostile}\n")
    name = f"<img src=x onerror={RUN}>"
    how = ("--name", name, "--config", "uti.yaml", "--smoke-assets", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(work / "package"))
        patch.setenv("PYTHONPATH", str(work / "package"), prepend=os.pathsep)
        base._installed.cache_clear()
        importlib.invalidate_caches()
        result = uti_in(work, "report", *how)
    base._installed.cache_clear()
    return work / "reports" / name / "index.html", result


def test_a_hostile_report_is_whole(hostile):
    page, result = hostile
    assert result.returncode == 1, result.stderr  # the codec's own question has a wrong answer
    text = page.read_text()
    assert "Ba$$in" in text and "&lt;img src=x onerror=" in text
    main = text.split("<main>")[1]
    assert (
        "<script" not in main
        and "<img src=x" not in text
        and "<span onclick" not in text
        and 'href="javascript' not in text
    )
    assert "<img src=x" not in (page.parent.parent / "index.html").read_text()


@pytest.mark.slow  # a browser
@pytest.mark.parametrize("which", ["page", "list"])
def test_nothing_hostile_runs_in_a_browser(which, hostile, tmp_path, browsed):
    page = hostile[0] if which == "page" else hostile[0].parent.parent / "index.html"
    shutil.copy(page, tmp_path / "page.html")
    seen = browsed(tmp_path / "page.html")
    assert "<title>UTI" in seen and "PWN" not in seen.split("<body>")[0]
    # the browser would have told
    (tmp_path / "page.html").write_text(f"<title>before</title><img src=x onerror={RUN}>")
    assert "<title>PWN" in browsed(tmp_path / "page.html")


@pytest.fixture
def reports(tmp_path, monkeypatch):
    "A folder of reports with one, `r`, of a text codec, that passed."
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reports" / "r"
    run_audit(AuditPlan(parse_config({"text": "embedded-text"}), folder))
    write_site(tmp_path / "reports")
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    return tmp_path / "reports"


@pytest.mark.run
def test_a_killed_kernel_leaves_the_record_and_no_half_page(reports, cold):
    "Such as one that takes all memory while it draws."

    def kill():
        while not (kernels := [p for p in psutil.Process().children() if "ipykernel" in str(p.cmdline())]):
            time.sleep(0.01)
        kernels[0].kill()

    record, killer = read_record(reports / "r" / "report.json"), threading.Thread(target=kill)
    before = {p: p.read_bytes() for p in reports.rglob("*") if p.is_file()}
    killer.start()
    with pytest.raises((DeadKernelError, RuntimeError), match=r"[Kk]ernel"):
        publish(record, reports / "r")
    killer.join()
    assert {p: p.read_bytes() for p in reports.rglob("*") if p.is_file()} == before


@pytest.mark.run
@pytest.mark.parametrize("absent", ["template", "kernel"])
def test_where_no_report_can_be_made_the_earlier_one_stays(absent, reports, uti_in, tmp_path, monkeypatch):
    if absent == "template":
        monkeypatch.setattr("uti.publish.REPORTS", tmp_path / "nowhere")
    else:
        monkeypatch.setattr("uti.publish.find_spec", lambda name: None if name == "ipykernel" else object())
    before = {p: p.read_bytes() for p in reports.rglob("*") if p.is_file()}
    result = uti_in(tmp_path, "report", "--name", "r", "--config", "uti.yaml")
    assert (
        result.returncode == 2 and "no report can be made" in result.stderr and result.stderr.count("\n") == 1
    )
    assert {p: p.read_bytes() for p in reports.rglob("*") if p.is_file()} == before


@pytest.mark.run
def test_a_fault_of_ours_is_exit_3_with_a_traceback_and_where_to_report_it(tmp_path):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    code = "import uti.space; uti.space.save_space = lambda *_: 1 / 0; from uti.cli.main import main; main()"
    result = forked(run_code, code, "space", "--config", "uti.yaml", "--out", "x.json", folder=tmp_path)
    assert (
        result.returncode == 3
        and "ZeroDivisionError" in result.stderr
        and "https://github.com/uti-project/uti/issues" in result.stderr
    )


@pytest.mark.run
def test_a_reader_who_leaves_changes_no_exit_code(tmp_path):
    "The token space is also asked for where the run itself writes it, which is no other file."
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    streams = [tmp_path / "stdout", tmp_path / "stderr"]
    os.mkfifo(streams[0])
    command = [
        "audit",
        "--config",
        "uti.yaml",
        "--outdir",
        "out",
        "--token-space-out",
        "out/token_space.json",
    ]
    with Fork(run_command, *command, folder=tmp_path, streams=streams) as run:
        os.close(os.open(streams[0], os.O_RDONLY))
        assert run.wait() == 0, streams[1].read_text()
    said = streams[1].read_text()
    assert "Traceback" not in said and "BrokenPipe" not in said
    assert json.loads((tmp_path / "out" / "report.json").read_text())["pass"] is True


@pytest.mark.run
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_behind_standard_output_is_a_sentence(tmp_path):
    program = f"{sys.executable} -c 'from uti.cli.main import main; main()'"
    said = subprocess.run(f"{program} --help > /dev/full", shell=True, capture_output=True, text=True)
    assert said.returncode == 2 and said.stderr == "error: what is printed: No space left on device\n"
    unsaid = subprocess.run(f"{program} codecs no-such-codec 2> /dev/full", shell=True)
    assert unsaid.returncode == 2


@pytest.mark.slow  # a file system is mounted
def test_a_full_disk_is_a_sentence(tmp_path):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    (tmp_path / "vol").mkdir()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    program = (
        f"{sys.executable} -c 'from uti.cli.main import main; main()' audit --config uti.yaml --outdir vol"
    )
    result = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f"mount -t tmpfs -o size=8k none vol && {program}; r=$?; ls -A vol; exit $r",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (
        result.returncode == 2
        and "No space left on device" in result.stderr
        and "Traceback" not in result.stderr
        and result.stdout == ""
    ), (result.stdout, result.stderr)
