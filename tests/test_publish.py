"""From a run to its page: everything happens once, in whichever process the run is."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import papermill
import pytest

from uti.audit.earlier import read_record
from uti.publish import render_notebook

ROOT = Path(__file__).parent.parent
# as sitecustomize.py, in every process that a command starts: who loads, reads and normalises what
COUNTING = """
import hashlib, os
from dataclasses import replace
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
    def read_and_count(path):
        signal = read(path)
        count("read", modality, signal)
        return signal
    return read_and_count

codecs = {text.EmbeddedText: "text", image.EmbeddedImage: "image", audio.EmbeddedAudio: "audio"}
for codec, modality in codecs.items():
    counted(codec, modality, codec.__init__)
for name, modality in MODALITIES.items():
    MODALITIES[name] = replace(modality, read=reading(name, modality.read))
normalise = UnifiedTokenizer.normalise

def normalise_and_count(self, modality, signal):
    count("normalise", modality, signal)
    return normalise(self, modality, signal)

UnifiedTokenizer.normalise = normalise_and_count
"""


@pytest.mark.run
def test_a_report_loads_reads_and_normalises_once_here_and_once_in_the_fresh_process(tmp_path, small):
    "The command as it is typed, and the processes that it starts: the fresh one, and the kernel that draws."
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COUNTED": str(tmp_path / "counted.txt")}
    program = [Path(sys.executable).parent / "uti", "report", "--name", "r", "--smoke-assets", small]
    run = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "[1/1] drawing the page" in run.stderr, run.stderr
    lines = [line.split(" ") for line in (tmp_path / "counted.txt").read_text().splitlines()]
    here, there = dict.fromkeys(process for process, *_ in lines)  # and nothing in a third
    counts = {
        process: Counter(tuple(what) for who, *what in lines if who == process) for process in (here, there)
    }
    for process in (here, there):
        assert {key: n for key, n in counts[process].items() if key[0] == "load"} == {
            ("load", modality, ""): 1 for modality in ("text", "image", "audio")
        }
    read = {key[1:]: n for key, n in counts[here].items() if key[0] == "read"}
    assert sorted(modality for modality, _ in read) == ["audio", "image"] and set(read.values()) == {1}
    assert not [key for key in counts[there] if key[0] == "read"]  # it got what was read
    normalised = {p: {key[1:]: n for key, n in counts[p].items() if key[0] == "normalise"} for p in counts}
    assert all(normalised[process][which] == 1 for process in (here, there) for which in read)


def without_times(page: str) -> str:
    page = re.sub(r"\d{4}-\d\d-\d\dT[\d:+]+", "", page)
    return re.sub(r'(<tr><td>[a-z ]+</td><td class="num">)[\d.e-]+', r"\1", page)


@pytest.mark.run
def test_papermill_alone_audits_and_its_page_is_that_of_the_report(tmp_path, uti_in):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    command = ["report", "--reports", "reports", "--name", "2024", "--config", "uti.yaml"]
    assert uti_in(tmp_path, *command).returncode == 0
    published = (tmp_path / "reports" / "2024" / "index.html").read_text()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    how = {"progress_bar": False, "kernel_name": "python3", "cwd": str(alone)}
    notebook = str(ROOT / "nbs" / "reports" / "audit.ipynb")
    # papermill's command line makes the number 2024 of -p outdir 2024
    parameters = {"outdir": 2024, "codecs": "uti.yaml", "command": " ".join(["uti", *command])}
    papermill.execute_notebook(notebook, str(alone / "out.ipynb"), parameters=parameters, **how)
    assert read_record(alone / "2024" / "report.json").passed
    assert uti_in(alone, "render", "out.ipynb").returncode == 0
    page = (alone / "index.html").read_text().replace(" 2024/report.json", " reports/2024/report.json")
    assert without_times(page) == without_times(published)
    with pytest.raises(papermill.PapermillExecutionError, match=r"absent.yaml: cannot be read"):
        papermill.execute_notebook(
            notebook, str(alone / "broken.ipynb"), parameters={"codecs": "absent.yaml"}, **how
        )
    assert "absent.yaml: cannot be read" in render_notebook(alone / "broken.ipynb").read_text()
    assert uti_in(alone, "render", "absent.ipynb").returncode == 2
