"""A folder of records is a history: what drifted, what stepped and when, on a page that leads to each run."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from uti.audit.history import (
    HISTORY,
    Level,
    Run,
    changes_of,
    levels_of,
    open_history,
    read_history,
    series_of,
)
from uti.audit.plan import AuditPlan
from uti.audit.record import AuditError
from uti.audit.run import run_audit
from uti.codecs.embedded.audio import WEIGHTS
from uti.config import parse_config
from uti.modalities.audio import write_wav
from uti.modalities.probes import noise
from uti.outdir import OutdirError
from uti.publish import write_site
from uti.space import TokenSpace, from_dict, identity_hash, to_dict

pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Records of one audio codec: with its weights, and with others that make other ids."
    home = tmp_path_factory.mktemp("made")
    weights, tensors = home / "audio.safetensors", load_file(WEIGHTS)
    (home / "in").mkdir()
    write_wav(home / "in" / "hiss.wav", noise(12_000, 3, held=7).float()[None] * 0.5, 24_000)
    audio = {"codec": "embedded-audio", "options": {"n_codebooks": 2, "weights": str(weights)}}
    for name, more in (("shipped", 0), ("encoder", 0.3)):
        tensors["encoder.5.bias"][7] += more
        save_file(tensors, weights)
        run_audit(AuditPlan(parse_config({"audio": audio}), home / name, home / "in"))
    return home


@pytest.fixture
def night(made, tmp_path):
    "Lays a record of `made` into a folder of `tmp_path`, dated, with `edit` applied to its report.json."

    def lay(number, name="shipped", edit=lambda report: None):
        folder = shutil.copytree(made / name, tmp_path / "nights" / f"night-{number:02}")
        report = json.loads((folder / "report.json").read_text())
        report["created"] = f"2026-11-{number:02}T03:00:00+00:00"
        edit(report)
        (folder / "report.json").write_text(json.dumps(report))
        (folder / "index.html").write_text("its page")
        return folder

    return lay


def told(folder, kind):
    return [
        (c.run.created[8:10], c.of, c.said) for c in changes_of(open_history(folder).runs) if c.kind == kind
    ]


def test_thirty_nights_name_the_run_and_the_codebook_and_link_every_page(night, tmp_path):
    def updated(report):
        report["environment"]["packages"]["numpy"] = "9.9"

    def decodes_better(report):
        updated(report)
        identity = report["token_space"]["codecs"]["audio"]
        identity["weights"] = "f" * 64
        identity["sha256"] = identity_hash(identity)
        report["metrics_v2"]["audio_snr_db"] += 1

    for number in range(1, 31):
        edits = (lambda report: None, updated, decodes_better)
        night(number, "shipped" if number < 12 else "encoder", edits[(number >= 20) + (number >= 25)])
    nights = tmp_path / "nights"
    history = write_site(nights)
    assert len(history.runs) == len(history.new) == 30
    ids = told(nights, "ids")
    assert [day for day, *_ in ids] == ["12", "25"]
    first = r"codebook 1; hiss\.wav: \d+ of 76 ids differ, first in codebook 1 at position \d+; "
    assert re.match(first + r"audio: weights \w+… now, \w+… before$", ids[0][2])
    assert ids[1][2].startswith("audio: weights ffffffffffffffff… now")  # its ids are what they were
    numpy = history.runs[0].environment.packages["numpy"]
    assert told(nights, "environment") == [("20", "numpy", f"{numpy} → 9.9")]
    stepped = told(nights, "number")
    assert {day for day, *_ in stepped} == {"12", "25"}
    better = [c.worse for c in changes_of(history.runs) if c.of == "embedded-audio, SNR"]
    assert better[-1] is False  # a gain is told like a loss
    page = (nights / "index.html").read_text()
    for said in (ids[0][2], "9.9", *(said for _, _, said in stepped)):
        assert said in page
    links = set(re.findall(r'href="([^"#]+)"', page))
    assert {f"night-{number:02}/index.html" for number in range(1, 31)} < links
    assert all((nights / link).exists() for link in links)
    assert "<script" not in page and page.count("<svg") == page.count('class="chart"') > 5


def test_a_history_is_added_to_and_never_changed(night, tmp_path):
    nights = tmp_path / "nights"
    night(1)
    night(2, "encoder")
    write_site(nights)
    before = (nights / HISTORY).read_bytes()
    write_site(nights)
    assert (nights / HISTORY).read_bytes() == before
    edited = night(3, "encoder")
    (nights / HISTORY).write_bytes(before[:-1])  # an editor took the last line's end
    write_site(nights)
    report = json.loads((edited / "report.json").read_text())
    report["metrics_v2"]["audio_snr_db"] += 1
    (edited / "report.json").write_text(json.dumps(report))
    assert [len(write_site(nights).runs), len(read_history(nights / HISTORY))] == [4, 4]  # it is another one
    assert (nights / HISTORY).read_bytes().startswith(before)
    for folder in nights.glob("night-*"):
        shutil.rmtree(folder)
    assert len(write_site(nights).runs) == 4  # the lines are enough
    assert 'href="night' not in (nights / "index.html").read_text()


def test_what_drifted_is_known_by_codebook_when_the_ids_are_gone(night, tmp_path):
    nights = tmp_path / "nights"
    first = night(1)
    write_site(nights)
    shutil.rmtree(first)
    night(2, "encoder")
    drift = write_site(nights).new[0].codecs["audio"].drift
    assert (drift.items, drift.codebooks) == ({"hiss.wav": "the ids of the run before are gone"}, [1])


def test_other_files_are_another_series_and_no_drift(night, tmp_path):
    def of_another_file(report):
        report["items"][0]["source_sha256"] = "0" * 64

    night(1)
    night(2, "encoder", of_another_file)
    night(3)
    nights = tmp_path / "nights"
    assert [said for _, _, said in told(nights, "ids") if "hiss" in said] == told(nights, "number") == []
    assert {len(s.runs) for s in series_of(open_history(nights).runs)} == {1, 2}


def test_numbers_of_another_package_are_another_series(night, tmp_path):
    def by_another_package(report):
        report["metric_facts"]["audio_snr_db"]["source"] = "snr 2.0"

    night(1)
    night(2, edit=by_another_package)
    found = [s for s in series_of(open_history(tmp_path / "nights").runs) if s.facts.name == "audio_snr_db"]
    assert [len(s.runs) for s in found] == [1, 1]


def test_a_range_that_moved_is_told_and_is_no_drift_of_codes(night, tmp_path):
    def beside_text(report):
        here = from_dict(report["token_space"])
        there = TokenSpace(text=10, audio=here.audio, codecs=here.codecs)
        report["token_space"] = to_dict(there)
        moved.append(there.ranges["AUDIO_CB0"].start - here.ranges["AUDIO_CB0"].start)

    moved = []
    night(1)
    folder = night(2, edit=beside_text)
    ids = {name: ids + moved[0] for name, ids in load_file(folder / "tokens.safetensors").items()}
    save_file(ids, folder / "tokens.safetensors")
    drift = open_history(tmp_path / "nights").runs[-1].codecs["audio"].drift
    assert drift.items == {} and [line.partition(":")[0] for line in drift.codec] == [
        "AUDIO_CB0",
        "AUDIO_CB1",
    ]


def test_a_gate_that_fails_and_passes_again_is_told(night, tmp_path):
    def failed(report):
        check = next(c for c in report["checks"] if c["modality"] == "audio" and c["gates"])
        check.update(passed=False, detail="<b>no</b>")
        report["pass"] = False

    for number in (1, 2, 3):
        night(number, edit=failed if number == 2 else lambda report: None)
    nights = tmp_path / "nights"
    verdicts = told(nights, "verdict")
    assert [day for day, *_ in verdicts] == ["02", "03"] and verdicts[1][2] == "passes again"
    write_site(nights)
    page = (nights / "index.html").read_text()
    assert "&lt;b&gt;no" in page and "<b>no" not in page and 'class="bad"></circle>' not in page


@pytest.mark.parametrize(
    ("values", "levels", "spikes"),
    [
        ([5.0], [Level(0, 1, 5.0)], []),
        ([5.0] * 4, [Level(0, 4, 5.0)], []),
        ([5.0] * 4 + [4.0], [Level(0, 4, 5.0), Level(4, 5, 4.0)], []),  # the last run is told at once
        ([5.0] * 3 + [9.0] + [5.0] * 3, [Level(0, 7, 5.0)], [3]),
        ([5.0] * 3 + [9.0] + [4.0] * 3, [Level(0, 3, 5.0), Level(3, 4, 9.0), Level(4, 7, 4.0)], []),
        ([5.0, 5.02, 4.98, 5.01, 4.99], [Level(0, 5, 5.0)], []),
    ],
)
def test_levels(values, levels, spikes):
    found, alone = levels_of(values, 0.02)
    assert [(f.start, f.stop) for f in found] == [(f.start, f.stop) for f in levels] and alone == spikes
    assert [f.value for f in found] == pytest.approx([f.value for f in levels])


def test_drift_in_small_steps_is_held_against_the_best(night, tmp_path):
    night(1)
    [run] = open_history(tmp_path / "nights").runs
    name, mean = "audio_snr_db", run.metrics["audio_snr_db"]
    tolerance = run.metric_facts[name].tolerance

    def fallen(by):
        runs = [
            run.model_copy(update={"metrics": {name: mean.model_copy(update={"value": mean.value - loss})}})
            for loss in (0, 0, 0, by / 2, by / 2, by / 2, by, by, by)
        ]
        [series] = series_of(runs)
        assert [level.start for level in series.cut[0]] == [0, 3, 6]
        assert series.behind == pytest.approx(by)
        return series.fallen

    assert (fallen(0.8 * tolerance), fallen(1.2 * tolerance)) == (False, True)


def test_a_site_elsewhere_has_the_reports_and_keeps_its_own(night, tmp_path):
    nights, public = tmp_path / "nights", tmp_path / "public"
    first = night(1)
    write_site(nights, public)
    assert not (nights / HISTORY).exists() and (public / "night-01" / "report.json").exists()
    shutil.rmtree(first)
    night(2, "encoder")
    history = write_site(nights, public)
    assert [run.created[8:10] for run in history.runs] == ["01", "02"]
    assert "first in codebook 1" in (public / "index.html").read_text()  # both are there to be compared
    (public / "night-02" / "report.json").write_text("mine")
    shutil.rmtree(nights / "night-02")
    with pytest.raises(OutdirError, match=r"night-02/report\.json: is there already"):
        write_site(night(2, edit=lambda report: report.update(seconds={})).parent, public)


def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_written(night, tmp_path, uti):
    nights = tmp_path / "nights"
    nights.mkdir()
    run = uti("site", str(nights))
    assert run.returncode == 2 and "holds neither a folder with a report" in run.stderr
    night(1)
    (nights / "index.html").write_text("mine")
    run = uti("site", str(nights))
    assert run.returncode == 2 and "is no site of UTI" in run.stderr
    assert (nights / "index.html").read_text() == "mine" and not (nights / HISTORY).exists()
    (nights / "index.html").unlink()
    (nights / HISTORY).write_text('{"created": 1}\n')
    run = uti("site", str(nights))
    assert run.returncode == 2 and "not a history.jsonl of this version" in run.stderr
    (nights / HISTORY).unlink()
    (night(2) / "report.json").write_text("{}")
    shutil.copyfile(nights / "night-01" / "uti.yaml", night(3) / "tokens.safetensors")
    run = uti("site", str(nights))
    assert run.returncode == 0, run.stderr
    assert "night-02" in run.stdout and "left out" in run.stdout
    assert "report.json cannot be read" in (nights / "index.html").read_text()
    assert run.stdout.rstrip().splitlines()[-1].startswith("2 runs, 2 of them new")


def test_a_record_whose_ids_are_of_another_is_left_out(night, tmp_path, made):
    folder = night(1)
    tokens = {name: ids + 10**6 for name, ids in load_file(folder / "tokens.safetensors").items()}
    save_file(tokens, folder / "tokens.safetensors")
    history = open_history(tmp_path / "nights")
    assert not history.runs and "its ids and its record do not fit" in history.unread[folder]


def test_a_line_is_read_as_it_was_written(night, tmp_path):
    night(1, edit=lambda report: report.update(created="2026-11-01T03:00:00\u2028"))
    nights = tmp_path / "nights"
    history = write_site(nights)
    assert read_history(nights / HISTORY) == history.runs
    assert Run.model_validate_json((nights / HISTORY).read_text()).environment.lock == {}
    with pytest.raises(AuditError, match="history"):
        (nights / HISTORY).write_text("[]")
        read_history(Path(nights / HISTORY))
