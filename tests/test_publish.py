"""From a run to its page: everything happens once, in whichever process the run is."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import papermill
import pytest

from uti.audit.plan import AuditPlan
from uti.audit.report_json import read_record
from uti.audit.run import run_audit
from uti.publish import render_notebook

ROOT = Path(__file__).parent.parent
# as sitecustomize.py, in every process that a command starts: who loads, reads and normalises what
COUNTING = """
import hashlib, os
from uti.codecs.embedded import audio, image, text
from uti.modalities.registry import MODALITIES
from uti.tokens.tokenizer import UnifiedTokenizer

def count(what, modality, signal=None):
    which = hashlib.sha256(MODALITIES[modality].fingerprint(signal)).hexdigest()[:8] if what != "load" else ""
    with open(os.environ["COUNTED"], "a") as file:
        file.write(f"{os.getpid()} {what} {modality} {which}\\n")

def counted(codec, modality, init):
    def __init__(self, *given, **more):
        count("load", modality)
        init(self, *given, **more)
    codec.__init__ = __init__

def reading(modality, read):
    def read_and_count(self, path):
        signal = read(self, path)
        count("read", modality, signal)
        return signal
    return read_and_count

codecs = {text.EmbeddedText: "text", image.EmbeddedImage: "image", audio.EmbeddedAudio: "audio"}
for codec, modality in codecs.items():
    counted(codec, modality, codec.__init__)
for name, modality in MODALITIES.items():
    type(modality).read = reading(name, type(modality).read)
normalise = UnifiedTokenizer.normalise

def normalise_and_count(self, modality, signal):
    count("normalise", modality, signal)
    return normalise(self, modality, signal)

UnifiedTokenizer.normalise = normalise_and_count
"""


SHADOWS = {"random.py": "seed = 7\n", "token.py": "raise SystemExit(9)\n", "uti.py": "1 / 0\n"}


@pytest.fixture(scope="module")
def typed(tmp_path_factory, small):
    """The folder of the one report here that is made as a user makes it, the lines that its processes
    counted, and its exit code.

    Its processes start cold, with standard input, output and error closed, beside scripts that are called as
    modules are and a kernel of somebody else. A baseline that is better makes it fail.
    """
    work, site = tmp_path_factory.mktemp("typed"), tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(COUNTING)
    kernel = site / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = ["/usr/bin/false", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "old", "language": "python"})
    )
    run_audit(AuditPlan(None, work / "first", small))
    first = json.loads((work / "first" / "report.json").read_text())
    for item in first["items"]:
        if item["modality"] == "image":
            item["metrics"]["image_psnr"]["value"] += 2
    (work / "baseline.json").write_text(json.dumps(first))
    for name, text in SHADOWS.items():
        (work / name).write_text(text)
    environment = {
        "PYTHONPATH": str(site),
        "COUNTED": str(site / "counted.txt"),
        "JUPYTER_PATH": str(site / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "0",
    }
    uti = Path(sys.executable).parent / "uti"
    command = f"{uti} report --name r --smoke-assets {small} --baseline-report baseline.json >&- 2>&- <&-"
    run = subprocess.run(["bash", "-c", command], cwd=work, env={**os.environ, **environment})
    lines = [line.split(" ") for line in (site / "counted.txt").read_text().splitlines()]
    return work / "reports" / "r", lines, run.returncode


def test_a_report_loads_reads_and_normalises_once_here_and_once_in_each_fresh_process(typed):
    "And the kernel that draws does none of it."
    _, lines, _ = typed
    here, *there = processes = list(dict.fromkeys(process for process, *_ in lines))
    counts = {p: Counter(tuple(what) for who, *what in lines if who == p) for p in processes}
    assert len(there) == 2
    for process in processes:
        assert {key: n for key, n in counts[process].items() if key[0] == "load"} == {
            ("load", modality, ""): 1 for modality in ("text", "image", "audio")
        }
    read = {key[1:]: n for key, n in counts[here].items() if key[0] == "read"}
    assert sorted(modality for modality, _ in read) == ["audio", "image"] and set(read.values()) == {1}
    assert not [key for other in there for key in counts[other] if key[0] == "read"]  # they got what was read
    assert all(counts[process]["normalise", *which] == 1 for process in processes for which in read)


def test_a_report_needs_no_terminal_and_no_kernel_of_others_nor_minds_what_lies_around(typed):
    folder, _, code = typed
    report = json.loads((folder / "report.json").read_text())
    fresh = [check["passed"] for check in report["checks"] if check["name"] == "fresh_process"]
    assert (
        code == 1
        and fresh
        and all(fresh)
        and [c["passed"] for c in report["checks"] if c["name"] == "baseline_metric"].count(False) == 1
    )


def test_a_failed_gate_still_renders_in_red(typed):
    folder, _, _ = typed
    page = (folder / "index.html").read_text()
    assert 'class="verdict bad"' in page and "image_psnr fell by 2" in page
    assert "Do not train on these ids yet" in page
    assert page.count("<audio") == 1 + 1 + 2 and page.count("<img") >= 2 + 2 + 2
    # one file, no code
    assert 'src="http' not in page and "<script" not in page.split("<main>")[1] and "run_audit(" not in page
    assert str(folder.parent) not in page
    assert '<a href="r/index.html">' in (folder.parent / "index.html").read_text()


def without_times(page: str) -> str:
    page = re.sub(r"\d{4}-\d\d-\d\dT[\d:+]+", "", page)
    return re.sub(r'(<tr><td>[a-z ]+</td><td class="num">)[\d.e-]+', r"\1", page)


HOW = {"progress_bar": False, "kernel_name": "python3"}
NOTEBOOK = str(ROOT / "nbs" / "reports" / "audit.ipynb")
COMMAND = ["report", "--reports", "reports", "--name", "2024", "--config", "uti.yaml"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The folder in which papermill executed the notebook of the audit, on texts, in a kernel."
    folder = tmp_path_factory.mktemp("alone")
    (folder / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    # papermill's command line makes the number 2024 of -p outdir 2024
    parameters = {"outdir": 2024, "codecs": "uti.yaml", "command": " ".join(["uti", *COMMAND])}
    papermill.execute_notebook(
        NOTEBOOK, str(folder / "out.ipynb"), parameters=parameters, cwd=str(folder), **HOW
    )
    return folder


def test_papermill_alone_audits(alone, uti_in):
    assert read_record(alone / "2024" / "report.json").passed
    assert uti_in(alone, "render", "out.ipynb").returncode == 0
    assert 'class="verdict ok"' in (alone / "index.html").read_text()
    assert uti_in(alone, "render", "absent.ipynb").returncode == 2


@pytest.mark.slow  # another kernel, and a report, whose pages have their own tests
def test_the_page_of_papermill_alone_is_that_of_the_report(alone, tmp_path, uti_in):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    assert uti_in(tmp_path, *COMMAND).returncode == 0
    published = (tmp_path / "reports" / "2024" / "index.html").read_text()
    page = render_notebook(alone / "out.ipynb").read_text()
    assert without_times(page.replace(" 2024/report.json", " reports/2024/report.json")) == without_times(
        published
    )
    with pytest.raises(papermill.PapermillExecutionError, match=r"absent.yaml: cannot be read"):
        papermill.execute_notebook(
            NOTEBOOK,
            str(tmp_path / "broken.ipynb"),
            parameters={"codecs": "absent.yaml"},
            cwd=str(alone),
            **HOW,
        )
    assert "absent.yaml: cannot be read" in render_notebook(tmp_path / "broken.ipynb").read_text()
