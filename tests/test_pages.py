"""What a page says is a function of the record: nothing that is in the one is missing on the other."""

import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from uti.audit.plan import AuditPlan
from uti.audit.report_json import read_record
from uti.audit.run import run_audit
from uti.checks.base import CHECKS, Check, Outcome, check
from uti.codecs.embedded.audio import EmbeddedAudio
from uti.metrics.base import Mean, Measurement, Metric, mean_of
from uti.metrics.registry import METRICS, register_metric
from uti.pages import audit as sections
from uti.publish import publish
from uti.tokens.tokenizer import UnifiedTokenizer

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "reports" / "embedded"


@pytest.fixture(scope="module")
def report():
    return read_record(FOLDER / "report.json")


def test_every_check_of_the_record_is_on_the_page(report):
    page = sections.correctness(report)
    assert [c.name for c in report.checks if c.sentence.replace("’", "'") not in page.unescape()] == []
    of_modality = [c for c in report.checks if c.modality]
    rows = len({c.kind for c in of_modality}) + len({c.name for c in of_modality})
    assert page.count("<tr>") == 3 + rows + sum(not c.modality for c in report.checks)


@pytest.fixture
def additions():
    "A metric that is better when lower and a check, each registered in one place."
    register_metric(
        Metric(
            name="audio_peak",
            modality="audio",
            title="peak",
            better="lower",
            tolerance=0.1,
            function=lambda a, b, rate: float(b.abs().max()),
        )
    )

    @check("Audio is never silent", of="decoded item", modalities=("audio",))
    def never_silent(case):
        return Outcome(bool(case.decoded.wave.any()))

    yield
    del METRICS["audio_peak"], CHECKS["never_silent"]


def test_a_metric_and_a_check_reach_gates_record_and_page_from_one_place(additions, small, tmp_path):
    tokenizer = UnifiedTokenizer({"audio": EmbeddedAudio(n_codebooks=1)})
    run_audit(AuditPlan(tokenizer, tmp_path / "first", small))
    run_audit(AuditPlan(tokenizer, tmp_path / "second", small, baseline=tmp_path / "first" / "report.json"))
    record = read_record(tmp_path / "second" / "report.json")
    gate, before = record.held["audio_peak"], record.baseline.metrics["audio_peak"]
    assert record.passed and gate.expected == pytest.approx(before + 0.1)
    assert record.passes_from("audio_peak") == f"<= {gate.expected:.4g}"
    assert "peak" in sections.summary(record) and "audio_peak" in sections.metrics(record)
    assert "Audio is never silent" in sections.correctness(record)
    assert "peak" in sections.caption(record, record.items[0])


def test_a_mean_of_many_items_stands_with_its_interval(report):
    mean = mean_of([Measurement(value=v) for v in (21.0, 24.0, 25.0, 26.0, 31.0)])
    found = report.model_copy(update={"metrics": report.metrics | {"image_psnr": mean}})
    assert "25.4<span" in sections.metrics(
        found
    ) and f"[{mean.low:.4g}, {mean.high:.4g}]" in sections.metrics(found)


def test_what_was_not_promised_is_no_failure(report):
    "A cross beside the word gate would say that a passed report failed."
    row = re.search(
        r"<td>The same ids when the decoded signal is encoded</td>.*?</tr>", sections.correctness(report)
    )[0]
    assert "✓" in row and "✗" not in row and "0/2, not promised" in row and "gate where promised" in row


def test_a_failed_gate_is_told_at_the_top_in_the_tables_and_at_the_end(report):
    wrong = next(c for c in report.checks if c.name == "finite").model_copy(
        update={"passed": False, "found": False, "detail": "a <NaN>"}
    )
    failed = report.model_copy(
        update={
            "passed": False,
            "checks": [wrong if c.name == "finite" and c.item == wrong.item else c for c in report.checks],
        }
    )
    assert (
        "a &lt;NaN&gt;" in sections.verdict_of(failed)
        and "✗" in sections.correctness(failed)
        and "a &lt;NaN&gt;" in sections.unexpected(failed)
    )
    assert "Do not train on these ids yet" in sections.conclusion(failed) and not sections.unexpected(report)


@pytest.mark.run
def test_the_page_begins_with_the_verdict_an_image_and_audio(report, tmp_path):
    page = publish(report, shutil.copytree(FOLDER, tmp_path / "embedded")).read_text().split("<main>")[1]
    verdict, image, audio, table = (
        page.index(what) for what in ('class="verdict ok"', "<img", "<audio", "<table")
    )
    assert verdict < image < audio < table


@pytest.mark.parametrize(
    "change",
    [
        {"items": []},
        {"token_lm": None},
        {"warnings": ["w"]},
        {
            "metrics": {"image_psnr": Mean(value=None, reason="nothing")},
            "metric_facts": {"image_psnr": METRICS["image_psnr"].facts},
            "items": [],
        },
        {"codebook_use": {}},
        {"checks": [Check(name="odd", passed=None, gates=True, detail="because")]},
    ],
)
def test_every_section_bears_a_record_that_lacks_something(report, change, monkeypatch):
    monkeypatch.setattr(
        "uti.pages.media._drawn_as", lambda kind, figure, dpi: plt.close(figure) or b"drawn elsewhere"
    )
    there = report.model_copy(update=change)
    alone = [
        sections.verdict_of,
        sections.summary,
        sections.environment,
        sections.correctness,
        sections.unexpected,
        sections.metrics,
        sections.codebooks,
    ]
    alone += [
        sections.idempotence,
        sections.token_space,
        sections.warnings,
        sections.limitations,
        sections.conclusion,
    ]
    with_folder = [sections.preview, sections.commands, sections.artifacts, sections.token_lm]
    assert all(isinstance(section(there), str) for section in alone) and all(
        isinstance(section(there, FOLDER), str) for section in with_folder
    )


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "reports").glob("*.ipynb")), ids=lambda p: p.name)
def test_the_notebook_of_a_report_is_headings_and_calls(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"][2:]
    assert all(len(c.source.splitlines()) <= 8 for c in cells) and all("show(" in c.source for c in cells)


def test_what_travels_shows_itself(report):
    """In Jupyter: the record its verdict, an answer its question, ids their first, a space its ranges; all of
    it as text that is safe.
    """
    tokenizer = UnifiedTokenizer.from_config()
    tokens = tokenizer.encode_text("Every id has one meaning.")
    wrong = Check(name="odd", question="<b>?", passed=False, gates=True)
    for shown, words in (
        (report, ("Passed", "audio_snr_db")),
        (wrong, ("✗", "&lt;b&gt;?")),
        (tokens, ("embedded-text", str(tokens.ids[0].item()))),
        (tokenizer.space, ("AUDIO_CB7", f"{tokenizer.space.vocab_size_total:,} ids")),
    ):
        assert all(word in shown._repr_html_() for word in words)
