"""`uti smoke` as a user runs it: a page, a smoke.json, an audit that takes it over; a gate that fails, a run
that is interrupted.
"""

import json
import re
import shutil
from dataclasses import replace

import pytest
from language import SPACE, language

from uti.audit.smoke_report import read_smoke
from uti.config import load_config
from uti.lm.model import new_model
from uti.lm.smoke import SmokeRun, conditioning, overfit, prepare_smoke, run_smoke
from uti.lm.training import last_checkpoint
from uti.tokens.sequences import build

SMALL = """
text: embedded-text
image: {codec: embedded-image, options: {size: 32}}
audio: {codec: embedded-audio, options: {n_codebooks: 1}}
smoke: {sequences: 25, text_tokens: 24, audio_positions: 6, steps: 20, row_length: 128, hidden_size: 32,
  layers: 1, generated: 10, gates: {loss: %s, task_loss: 1, accuracy: 0}}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "small.yaml").write_text(SMALL % 0.95)
    return folder


@pytest.fixture(scope="module")
def smoked(work, uti_in):
    "The folder of a report of smoke tests that passed, and what the command printed."
    run = uti_in(work, "smoke", "--config", "small.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    return work / "reports" / "smoke", run.stdout


def test_every_gate_was_asked_and_passed(smoked):
    folder, printed = smoked
    report = read_smoke(folder / "smoke.json")
    asked = {c.name for c in report.checks if c.passed}
    assert asked == {
        "text_logits",
        "overfit_loss",
        "overfit_task",
        "overfit_accuracy",
        "packing",
        "resume_loss",
        "resume_weight",
        "resume_optimiser",
        "kill",
        "kill_loss",
        "generation_untrained",
        "generation_trained",
    }
    assert report.passed and "PASSED" in printed
    assert report.tasks == {"t2i": 5, "i2t": 5, "t2a": 5, "a2t": 5, "text": 5}
    assert len(report.overfit.losses) == 20 and report.overfit.final_loss < report.overfit.first_loss
    assert (
        report.resume.loss_difference,
        report.resume.weight_difference,
        report.resume.optimiser_difference,
    ) == (0, 0, 0)


def test_the_kills_were_kills(smoked):
    for one in read_smoke(smoked[0] / "smoke.json").kills:
        assert 0 < one.killed_at < 8 and one.killed_at - one.saved_every < one.resumed_at <= one.killed_at + 1


def test_all_that_was_written_under_the_grammar_is_there(smoked):
    folder, _ = smoked
    report = read_smoke(folder / "smoke.json")
    assert [(g.model, g.n, g.well_formed, g.decoded) for g in report.generated if g.grammar] == [
        ("untrained", 10, 10, 10),
        ("trained", 10, 10, 10),
    ]
    files = [
        value
        for s in report.shown
        for value in (s.prompt, s.written, s.target)
        if re.fullmatch(r"generated/\w+\.(png|wav)", value)
    ]
    assert {f.rsplit(".")[-1] for f in files} == {"png", "wav"} and all(
        (folder / f).stat().st_size for f in files
    )


def test_the_page_and_the_list_tell_of_it(smoked):
    folder, _ = smoked
    page = (folder / "index.html").read_text()
    for words in (
        "Passed: all",
        "SIGKILL during a save",
        "Does it use its prompt?",
        "data:audio/wav",
        "image-rendering:pixelated",
    ):
        assert words in page
    assert "smoke tests of a language model" in (folder.parent / "index.html").read_text()
    assert not re.search(r"/(home|root|tmp|work)/\w", page)


def test_the_model_is_left_with_its_space(smoked):
    last = last_checkpoint(smoked[0] / "model")
    assert last.name == "checkpoint-20" and (last / "token_space.json").exists()
    assert list((smoked[0] / "model" / "tensorboard").rglob("events*"))


def test_an_audit_takes_the_results_over(smoked, work, uti_in, tmp_path_factory):
    assets = tmp_path_factory.mktemp("assets")
    from uti.audit.samples import ASSETS
    from uti.modalities.image import load_image

    load_image(ASSETS / "coffee.png").resize((64, 64)).save(assets / "small.png")
    run = uti_in(
        work,
        "report",
        "--name",
        "audit",
        "--config",
        "small.yaml",
        "--smoke-assets",
        assets,
        "--smoke-report",
        smoked[0] / "smoke.json",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((work / "reports" / "audit" / "report.json").read_text())
    assert report["token_lm"]["overfit"]["losses"] == read_smoke(smoked[0] / "smoke.json").overfit.losses
    assert {"kill", "resume_weight", "generation_trained"} <= {c["name"] for c in report["checks"]}
    page = (work / "reports" / "audit" / "index.html").read_text()
    assert "kill during a save" in page and "Not part of this run" not in page


def test_a_loss_that_does_not_fall_fails_its_gate(tmp_path):
    run = SmokeRun(None, language(gates={"loss": 0.001, "task_loss": 1, "accuracy": 0}), tmp_path)
    overfit(run)
    assert [c.name for c in run.checks if c.failed_gate] == ["overfit_loss"]


@pytest.mark.run
def test_an_interrupted_run_goes_on_from_its_checkpoint(work, tmp_path):
    seen = []

    def stop_at(step, steps, what):
        seen.append((step, steps))
        if (step, steps) == (15, 20):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_smoke(prepare_smoke(load_config(work / "small.yaml"), tmp_path / "run"), stop_at)
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        run_smoke(prepare_smoke(load_config(work / "small.yaml"), tmp_path / "run"), stop_at)
    assert seen[0] == (13, 20)  # saved every 6 steps


def test_the_prompt_of_another_may_make_a_sequence_longer_than_a_row(tmp_path):
    data = language()
    first, second = SPACE.ranges["AUDIO_CB0"].start, SPACE.ranges["AUDIO_CB1"].start
    examples = [
        build(SPACE, "t2a", [first, second] * positions, prompt=[7] * words)
        for positions, words in ((6, 1), (1, 11))
    ]
    longest = max(len(e.ids) for e in examples)
    data = replace(
        data,
        examples=examples,
        config=data.config.model_copy(
            update={"smoke": data.config.smoke.model_copy(update={"row_length": longest})}
        ),
    )
    found = conditioning(SmokeRun(None, data, tmp_path), new_model(SPACE, hidden_size=32, layers=1))
    assert [(c.task, c.n) for c in found] == [("t2a", 2)] and found[0].right != found[0].shuffled


WRONG = {
    "smoke tests of another space": (
        ["report", "--smoke-report", "smoke.json"],
        "smoke tests of another token space say nothing of this one: AUDIO_CB1",
    ),
    "no smoke.json": (["audit", "--smoke-report", "absent.json"], "absent.json: cannot be read"),
    "a smoke.json that is none": (
        ["audit", "--smoke-report", "small.yaml"],
        "small.yaml: not a smoke.json of this version",
    ),
    "no sound and no picture": (["smoke", "--smoke-assets", "absent"], "absent: no such folder"),
    "an unknown setting": (
        ["smoke", "--config", "odd.yaml"],
        "unknown key 'smoke.step'; did you mean 'steps'",
    ),
    "a model that is not there": (
        ["smoke", "--config", "absent_model.yaml"],
        "no-such-model: no such folder",
    ),
    "export without text": (
        ["export", "--image", "embedded-image", "--out", "out"],
        "there is no text codec in it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_sentence_and_exit_2(name, smoked, work, uti_in, tmp_path):
    (tmp_path / "small.yaml").write_text((work / "small.yaml").read_text())
    (tmp_path / "odd.yaml").write_text("text: embedded-text\nsmoke: {step: 3}\n")
    (tmp_path / "absent_model.yaml").write_text(
        (SMALL % 0.5).replace("smoke: {", "smoke: {checkpoint: ./no-such-model, ")
    )
    shutil.copy(smoked[0] / "smoke.json", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments, told = WRONG[name]
    result = uti_in(tmp_path, *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and told in result.stderr, (
        result.stderr
    )
    assert sorted(tmp_path.rglob("*")) == before
