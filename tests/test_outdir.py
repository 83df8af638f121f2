"""The output folder is the user's: whatever happens to a run, their files stay as they are, and the results
are an old run's or a new one's.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from forked import Fork, run_cold_command

from uti import files, outdir
from uti.audit.plan import AuditPlan, prepare
from uti.audit.run import run_audit
from uti.checks.base import CHECKS, Outcome
from uti.checks.case import FreshProcesses
from uti.config import parse_config
from uti.files import digest
from uti.outdir import ENTRY_FILES, MANIFEST, STATE_DIR, OutdirError, output_folder, read_manifest

NOTES = {
    "notes.txt": "my own",
    "recon/precious.png": "pixels of mine",
    "original/deep/down.txt": "kept since May",
    "recon.png.bak": "mine too",
}
TEXT = parse_config({"text": "embedded-text"})


@pytest.fixture
def folder(tmp_path, small):
    "A folder that holds a user's files, and the results of an audit of an image, audio and texts."
    out = tmp_path / "out"
    for name, text in NOTES.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    with output_folder(out) as made:
        for name in (
            "report.json",
            "index.html",
            "recon.png",
            "recon/a.png",
            "original/a.png",
            "text_tokens.sha256",
        ):
            (made.staged / name).parent.mkdir(exist_ok=True)
            (made.staged / name).write_text(f"old {name}")
        made.publish()
    return out


def users_files_are_untouched(folder):
    assert {name: (folder / name).read_text() for name in NOTES} == NOTES


def is_whole(folder) -> bool:
    """Is there a result, and is every file of it what its manifest says?

    Only its page may be missing. Where there is none, nothing may look like one.
    """
    if not (folder / "report.json").exists():
        assert not [name for name in ENTRY_FILES if (folder / name).exists()]
        return False
    files = read_manifest(folder)["files"]
    ours = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and STATE_DIR not in p.parts
    } - {*NOTES, MANIFEST}
    assert set(files) - ours <= {"index.html"} and ours <= set(files)
    assert [name for name in ours if digest(folder / name) != files[name]] == []
    return True


def forked(function, *arguments):
    "A process that goes on from here, which costs no import."
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def audit_texts(folder, killed_before=None):
    "Audit the texts that come along; with `killed_before`, be killed before that step of publishing."
    # a process that is killed every time need not start others, nor ask what takes long
    for name in ("fresh_process", "fresh_process_decode", "text_characters", "text_long", "repeatability"):
        CHECKS.pop(name, None)
    FreshProcesses.start = lambda self: None
    count = 0

    def counted(function):
        def step(*arguments, **more):
            nonlocal count
            count += 1
            if count == killed_before:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return step

    publish = outdir.OutputFolder.publish

    def watched(*arguments, **more):
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        publish(*arguments, **more)

    if killed_before:
        outdir.OutputFolder.publish = watched
    run_audit(AuditPlan(TEXT, folder))


def killed_or_done(process) -> bool:
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def test_a_run_replaces_its_own_and_nothing_else(folder):
    run_audit(AuditPlan(TEXT, folder))
    users_files_are_untouched(folder)
    assert is_whole(folder) and not (folder / "recon.png").exists() and not (folder / "index.html").exists()
    assert not (folder / STATE_DIR).exists() and not [
        p for p in folder.parent.iterdir() if p.name.startswith(".")
    ]


@pytest.mark.run
def test_killed_before_each_step_of_publishing(folder, tmp_path):
    outcomes, done, step = set(), False, 0
    shutil.copytree(folder, tmp_path / "before")
    while not done:
        step += 1
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        done = killed_or_done(forked(audit_texts, folder, step))
        users_files_are_untouched(folder)
        at_once = is_whole(folder)
        with output_folder(folder):
            pass
        assert is_whole(folder) and not (folder / STATE_DIR).exists()
        users_files_are_untouched(folder)
        outcomes.add((at_once, (folder / "report.json").read_text()[:3] == "old"))
    assert step >= 12 and outcomes == {(True, True), (False, False), (True, False)}


@pytest.mark.slow  # twenty kills; the test before kills at each step
def test_killed_at_random_moments(folder):
    rng = random.Random(0)
    for _ in range(20):
        process = forked(audit_texts, folder)
        process.join(rng.uniform(0, 0.4))
        process.kill()
        killed_or_done(process)
        users_files_are_untouched(folder)
        is_whole(folder)
    run_audit(AuditPlan(TEXT, folder))
    users_files_are_untouched(folder)
    assert is_whole(folder) and not (folder / STATE_DIR).exists()


@pytest.mark.parametrize(
    "config",
    ["image: {codec: embedded-imag}", "text: {codec: embedded-text}"],
    ids=["wrong input", "failed gate"],
)
def test_after_a_wrong_input_and_a_failed_gate(folder, config, uti_here, tmp_path, monkeypatch):
    (tmp_path / "uti.yaml").write_text(config)
    monkeypatch.setitem(
        CHECKS, "fresh_process", replace(CHECKS["fresh_process"], function=lambda case: Outcome(False))
    )
    result = uti_here("audit", "--config", "uti.yaml", "--outdir", folder)
    assert result.returncode == (2 if "imag}" in config else 1)
    users_files_are_untouched(folder)
    assert (
        is_whole(folder)
        and ((folder / "report.json").read_text()[:3] == "old") == (result.returncode == 2)
        and not (folder / STATE_DIR).exists()
    )


@pytest.mark.run
@pytest.mark.parametrize(
    ("command", "how", "while_it"),
    [
        (["audit", "--outdir", "out"], signal.SIGINT, "[1/7] checking the encoders"),
        pytest.param(
            ["report", "--reports", ".", "--name", "out"],
            signal.SIGTERM,
            "[1/1] drawing the page",
            marks=pytest.mark.slow,  # a whole report, and a kernel
        ),
    ],
)
def test_interrupted_everything_of_ours_ends(folder, tmp_path, tmp_path_factory, command, how, while_it):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    said = tmp_path_factory.mktemp("said")
    streams = [said / "out", said / "err"]
    with Fork(run_cold_command, *command, "--config", "uti.yaml", folder=tmp_path, streams=streams) as run:
        while while_it not in streams[1].read_text():
            assert run.poll() is None
        # the fresh process, or a kernel
        while not (family := psutil.Process(run.process.pid).children(recursive=True)):
            assert run.poll() is None
        os.kill(run.process.pid, how)
        assert run.wait() == 128 + how
    assert psutil.wait_procs(family, timeout=10)[1] == []
    users_files_are_untouched(folder)
    drawing = "drawing" in while_it  # what was found stays where only its page was interrupted
    assert is_whole(folder) and not (folder / STATE_DIR).exists()
    assert ((folder / "report.json").read_text() == "old report.json") != drawing
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "uti.yaml"]


def test_two_runs_do_not_share_a_folder(folder, uti_here, tmp_path):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    with output_folder(folder):
        result = uti_here("audit", "--config", "uti.yaml", "--outdir", folder)
    assert result.returncode == 2 and "another run writes into this folder at the moment" in result.stderr

    def hold():
        with output_folder(folder):
            os.kill(os.getpid(), signal.SIGKILL)

    killed_or_done(forked(hold))
    assert (folder / STATE_DIR / "lock").exists()
    with output_folder(folder):  # a lock does not outlive its process
        pass
    assert not (folder / STATE_DIR).exists()


@pytest.mark.parametrize("name", ["report.json", "token_space.json", "recon", MANIFEST, f"{STATE_DIR}/mine"])
def test_a_file_of_somebody_else_in_the_way_is_refused_before_the_run(name, uti_here, tmp_path, small):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\nimage: {codec: embedded-image}\n")
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    result = uti_here("audit", "--config", "uti.yaml", "--smoke-assets", small, "--outdir", "out")
    assert result.returncode == 2 and f"out/{name}" in result.stderr and result.stderr.count("\n") == 1
    assert [
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()
    ] == [name] and (tmp_path / "out" / name).read_text() == "mine"


def test_what_was_changed_since_is_somebody_elses(folder):
    (folder / "report.json").write_text("annotated by hand")
    with pytest.raises(
        OutdirError, match=r"report.json: is there already, and is not as a run of UTI left it"
    ):
        prepare(AuditPlan(TEXT, folder))
    (folder / "report.json").unlink()
    (folder / "report.json").symlink_to("notes.txt")
    with pytest.raises(OutdirError, match=r"report.json: is there already"):
        prepare(AuditPlan(TEXT, folder))
    users_files_are_untouched(folder)


@pytest.mark.parametrize(
    ("source", "out", "told"),
    [
        ("mine", "mine", "mine: is the folder that the results go to"),
        ("mine", "mine/deep/out", "mine: holds the folder that the results go to"),
        ("mine/original", "mine", "mine/original: results go to this folder"),
    ],
)
def test_results_are_never_inputs(source, out, told, uti_here, tmp_path, small):
    shutil.copytree(small, tmp_path / source)
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["audit", "--outdir", out],
        ["report", "--reports", str(Path(out).parent), "--name", Path(out).name],
    ):
        result = uti_here(*command, "--smoke-assets", source)
        assert result.returncode == 2 and told in result.stderr and result.stderr.count("\n") == 1, (
            result.stderr
        )
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow  # a file system is mounted
def test_the_folder_may_be_a_mount(tmp_path):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    (tmp_path / "vol").mkdir()
    mounted = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs none vol && shift 0 && "$@" && cat vol/report.json',
        "sh",
    ]
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    result = subprocess.run(
        [
            *mounted,
            sys.executable,
            "-c",
            "from uti.cli.main import main; main()",
            "audit",
            "--config",
            "uti.yaml",
            "--outdir",
            "vol",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert '"pass": true' in result.stdout


def test_a_page_of_somebody_else_is_left_alone(folder, tmp_path):
    from uti.publish import is_site, write_site

    page = tmp_path / "index.html"
    write_site(tmp_path)
    assert "UTI reports" in page.read_text() and is_site(page)
    page.write_text("<h1>my pages</h1>")
    with pytest.raises(OutdirError, match="is no site of UTI"):
        write_site(tmp_path)
    assert page.read_text() == "<h1>my pages</h1>"
    page.unlink()
    page.mkdir()
    with pytest.raises(OutdirError, match="is no site of UTI"):
        write_site(tmp_path)


def test_a_manifest_that_leads_elsewhere_removes_nothing(folder, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (folder / MANIFEST).write_text(
        json.dumps({"files": {"../precious": digest(tmp_path / "precious")}, "folders": []})
    )
    with pytest.raises(OutdirError, match=r"not a manifest of UTI"):
        prepare(AuditPlan(TEXT, folder))
    assert (tmp_path / "precious").read_text() == "mine"


def test_debris_of_killed_runs_is_swept_and_nothing_else(tmp_path, monkeypatch):
    """Temporary names of ours, an hour old, of a process that is gone. In the folder that is written to, and
    where temporary files go.
    """
    gone, here = 4_999_999, os.getpid()  # no process has such a number on Linux
    debris = [f".uti-{gone}-abcd1234.json", f".uti-{gone}-abcd_234", f"uti-{gone}-abcdefgh"]
    others = [f".uti-{here}-abcd1234.json", f".uti-{gone}-notes.json", "uti-mine", ".report-abcd1234.json"]
    for name in (*debris, *others):
        (tmp_path / name).write_text("half of it")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / debris[-1]).unlink()
    (tmp_path / debris[-1]).mkdir()
    (tmp_path / debris[-1] / "samples.pt").touch()
    os.utime(tmp_path / debris[-1], (0, 0))
    fresh = f".uti-{gone}-justmade"
    (tmp_path / fresh).touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files.sweep.cache_clear()
    with files.scratch() as folder:
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, fresh, folder.name])
    for name in debris[:2]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    files.sweep.cache_clear()
    files.write_text(tmp_path / "report.json", "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, fresh, "report.json"])


@pytest.mark.run
def test_a_killed_writer_leaves_a_name_that_the_next_one_sweeps(tmp_path):
    program = (
        "import os, signal\nfrom uti.files import atomic_path\n"
        "with atomic_path('space.json') as path:\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path)
    (left,) = tmp_path.iterdir()
    assert files.TEMPORARY.fullmatch(left.name)
    os.utime(left, (0, 0))
    files.sweep.cache_clear()
    files.write_text(tmp_path / "space.json", "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["space.json"]
