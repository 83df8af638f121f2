"""`uti smoke` as a user runs it: a page, a smoke.json, an audit that takes it over; a gate that fails, a run
that is interrupted.
"""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from language import SPACE, language

from uti.audit.report_json import read_record
from uti.audit.samples import load_samples
from uti.audit.smoke_report import read_smoke
from uti.checks import language_model
from uti.checks.language_model import Findings
from uti.checks.registry import ask
from uti.config import SMOKE_CONFIG, SUCCESSORS, ConfigError, Smoke, load_config, parse_config
from uti.lm import model, smoke
from uti.lm import train as training
from uti.lm.data import LMError, load_dataset, make_dataset
from uti.lm.generate import prompt_of
from uti.lm.model import new_model
from uti.lm.smoke import (
    SmokeRun,
    conditioning,
    generation,
    kill,
    overfit,
    prepare_smoke,
    resume,
    run_smoke,
    with_prompt_of,
)
from uti.lm.train import last_checkpoint, train
from uti.pages import audit as sections
from uti.tokens.grammar import parse
from uti.tokens.sequences import build
from uti.tokens.tokenizer import UnifiedTokenizer

SMALL = """
text: embedded-text
image: {codec: embedded-image, options: {size: 32}}
audio: {codec: embedded-audio, options: {n_codebooks: 1}}
smoke: {sequences: 25, text_tokens: 24, audio_positions: 6, steps: 20, row_length: 128, generated: 10}
"""
# what twenty steps reach
LIMITS = {
    "LOSS_LEFT": 0.95,
    "TASK_LOSS_LEFT": 1,
    "ACCURACY": 0,
    "TEXT_PROMPT": 0,
    "MEDIA_PROMPT": 0,
    "WINS": 0,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "small.yaml").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def smoked(work, uti_in, warm_training):
    "The folder of a report of smoke tests that passed, and what the command printed."
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in LIMITS.items():
            patch.setattr(language_model, name, limit)
        run = uti_in(work, "smoke", "--config", "small.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    return work / "reports" / "smoke", run.stdout


def test_every_gate_was_asked_and_passed(smoked):
    folder, printed = smoked
    report = read_smoke(folder / "smoke.json")
    assert [(c.name, c.passed) for c in report.checks] == [
        (name, True)
        for name in ("text_logits", "overfit", "packing", "resume", "kill", "generation", "prompt")
    ]
    assert report.passed and "PASSED" in printed
    assert report.tasks == {"t2i": 5, "i2t": 5, "t2a": 5, "a2t": 5, "text": 5}
    assert report.positions["image"] == [16, 16]
    assert len(report.overfit.losses) == 20 and report.overfit.final_loss < report.overfit.first_loss
    assert report.resume.difference.none and report.kill_difference.none


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
    given = ("--config", "small.yaml", "--smoke-assets", assets, "--smoke-report", smoked[0] / "smoke.json")
    run = uti_in(work, "audit", "--outdir", "reports/audit", *given)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((work / "reports" / "audit" / "report.json").read_text())
    assert report["token_lm"]["overfit"]["losses"] == read_smoke(smoked[0] / "smoke.json").overfit.losses
    assert {"kill", "resume", "generation"} <= {c["name"] for c in report["checks"]}
    folder = work / "reports" / "audit"
    page = sections.token_lm(read_record(folder / "report.json"), folder)
    assert "SIGKILL during a save" in page and "Not part of this run" not in page


# A gate that cannot fail says nothing: each is made to, by the fault that it is there for.


def pairs(**smoke):
    "Two tasks of random ids, which a small model knows by heart after 60 steps."
    return language(24, tasks=("t2i", "i2t"), **{"steps": 60, "row_length": 256, **smoke})


def untrained(patch):
    return {"learning_rate": 1e-12}


def shuffled_labels(patch):
    "The model learns the targets of other prompts."

    def train_on_others(dataset, *places, **options):
        of_task = [dataset.examples[i::2] for i in (0, 1)]
        moved = [
            with_prompt_of(target, prompt)
            for some in of_task
            for target, prompt in zip(some, some[3:] + some[:3], strict=True)
        ]
        return train(replace(dataset, examples=moved), *places, **options)

    patch.setattr(smoke, "train", train_on_others)


def labels_shifted_by_one(patch):
    "Everywhere alike, so that the loss falls as it should: only the library's own code knows better."
    own = model.row_inputs

    def shifted(batch, row):
        inputs = own(batch, row)
        return {**inputs, "logits_to_keep": inputs["logits_to_keep"] - 1}

    patch.setattr(model, "row_inputs", shifted)
    patch.setattr(training, "row_inputs", shifted)


def rows_that_leak(patch):
    own = model.row_inputs
    patch.setattr(model, "row_inputs", lambda batch, row: {**own(batch, row), "use_cache": True})


def moved_text_rows(patch):
    own = model.resize_embeddings

    def careless(resized, space, *seed):
        own(resized, space, *seed).get_input_embeddings().weight.data[3] *= 1 + 2**-20
        return resized

    patch.setattr(model, "resize_embeddings", careless)


BROKEN = {
    "nothing is wrong": (lambda patch: None, set()),
    "a model that is not trained": (untrained, {"overfit", "prompt"}),
    "shuffled labels": (shuffled_labels, {"overfit", "prompt"}),
    "labels shifted by one": (labels_shifted_by_one, {"packing"}),
    "rows whose sequences see each other": (rows_that_leak, {"packing"}),
    "rows of text that resizing moves": (moved_text_rows, {"text_logits"}),
}


QUICK = ("labels shifted by one", "rows of text that resizing moves")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BROKEN]
)
def test_what_is_broken_fails_its_gate(name, monkeypatch, tmp_path):
    spoil, red = BROKEN[name]
    run = SmokeRun(None, pairs(**(spoil(monkeypatch) or {})), tmp_path)
    found, trainer = overfit(run)
    found.conditioning = conditioning(run, trainer.model)
    checks = ask("language model", found)
    assert red <= {c.name for c in checks if c.failed_gate}
    assert red or all(c.passed for c in checks)


@pytest.mark.slow  # the run of the fixture resumes, and its end is compared in the same way
@pytest.mark.parametrize("name", ["_load_rng_state", "_load_optimizer_and_scheduler"])
def test_a_resume_that_forgets_fails(name, monkeypatch, tmp_path):
    monkeypatch.setattr(training.TokenTrainer, name, lambda *_: None)
    (answer,) = ask("language model", Findings(resume=resume(pairs(steps=8), tmp_path)))
    assert answer.name == "resume" and answer.failed_gate, answer


def test_a_checkpoint_that_was_cut_short_fails(monkeypatch, tmp_path):
    def cut(data, outdir, log, **plan):
        "As a process would leave it that writes in place, and is killed; the next says so."
        log.write_text("[4/8] training")
        try:
            train(load_dataset(data), outdir, stop_after=4)
        except LMError as error:
            raise RuntimeError(str(error)) from error
        weights = last_checkpoint(outdir) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        return 4

    monkeypatch.setattr(smoke, "train_until_killed", cut)
    kills, difference = kill(pairs(steps=8), tmp_path, [{"at_step": 4}, {"during_save": True}])
    (answer,) = ask("language model", Findings(kills=kills, kill_difference=difference))
    assert answer.name == "kill" and answer.failed_gate
    assert "model.safetensors is missing, cut short or changed" in answer.detail
    assert "loss missing, weight missing" in answer.detail


@pytest.mark.parametrize("by", [0, 1])
def test_ids_shifted_by_one_fail(by, monkeypatch, work, tmp_path):
    run = prepare_smoke(load_config(work / "small.yaml"), tmp_path / "run")

    def write(model, grammar, prompts, **_):
        taught = {prompt_of(e).tobytes(): e.ids for e in run.dataset.examples}
        return [np.concatenate([p, taught[p.tobytes()][len(p) :] + by]) for p in prompts]

    monkeypatch.setattr(smoke, "generate", write)
    answers = ask("language model", Findings(generated=generation(run, None, "trained")))
    assert [(c.name, c.passed) for c in answers] == [("generation", not by)]


@pytest.mark.slow
def test_the_gates_hold_over_five_seeds(tmp_path):
    "The default run's, but for interruptions and writing: what a seed changes is what is learned."
    for seed in range(5):
        config = load_config(SMOKE_CONFIG).model_copy(update={"seed": seed})
        run = prepare_smoke(config, tmp_path / str(seed))
        found, trainer = overfit(run)
        found.conditioning = conditioning(run, trainer.model)
        for check in ask("language model", found):
            print(f"seed {seed}: {check.name:12} {check.found}: {check.detail}")
            assert check.passed


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
    found = conditioning(SmokeRun(None, data, tmp_path), new_model(SPACE))
    assert [(c.task, c.n) for c in found] == [("t2a", 2)] and found[0].right != found[0].shuffled


def test_sounds_that_are_filled_up_are_cut_all_the_same(tmp_path):
    "`clip_seconds` would make each of them longer than the grammar admits."
    config = parse_config(
        {"text": "embedded-text", "audio": "embedded-audio", "clip_seconds": 1.0, "smoke": {"sequences": 6}}
    )
    data = prepare_smoke(config, tmp_path / "run").dataset
    assert {len(parse(data.grammar, e.ids)[-1].ids) for e in data.examples[::3]} == {16}


def test_a_codec_without_short_sounds_says_so():
    tokenizer = UnifiedTokenizer.from_config(parse_config({"audio": "embedded-audio"}))
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(LMError, match="no audio of as few positions"),
    ):
        patch.setattr(type(tokenizer.codec("audio")), "audio_lengths", lambda *_: {})
        make_dataset(tokenizer, load_samples(None, ["audio"]), 2, text_tokens=8, audio_positions=2)


WRONG = {
    "smoke tests of another space": (
        ["report", "--smoke-report", "smoke.json"],
        "smoke tests of other codecs say nothing of these: AUDIO_CB1",
    ),
    "no smoke.json": (["audit", "--smoke-report", "absent.json"], "absent.json: cannot be read"),
    "a smoke.json that is none": (
        ["audit", "--smoke-report", "small.yaml"],
        "small.yaml: not a smoke.json of this version",
    ),
    "no audio and no image": (["smoke", "--smoke-assets", "absent"], "absent: no such folder"),
    "a setting of an earlier release": (
        ["smoke", "--config", "old.yaml"],
        "the key 'smoke.image_options' is no longer there; in its place: the options of the image codec",
    ),
    "an unknown setting": (
        ["smoke", "--config", "odd.yaml"],
        "unknown key 'smoke.step'; did you mean 'steps'",
    ),
    "a model that is not there": (
        ["smoke", "--config", "absent_model.yaml"],
        "no-such-model: no such folder",
    ),
    "a model that is no causal LM": (
        ["smoke", "--config", "no_causal.yaml"],
        "vit: a model of type 'vit' is no causal language model",
    ),
    "audio without samples": (["smoke", "--smoke-assets", "silent"], "empty.wav: holds no samples"),
    "export without text": (
        ["export", "--image", "embedded-image", "--out", "out"],
        "there is no text codec in it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_sentence_and_exit_2(name, smoked, work, uti_in, tmp_path):
    (tmp_path / "small.yaml").write_text((work / "small.yaml").read_text())
    (tmp_path / "old.yaml").write_text("text: embedded-text\nsmoke: {image_options: {size: 32}}\n")
    (tmp_path / "odd.yaml").write_text("text: embedded-text\nsmoke: {step: 3}\n")
    (tmp_path / "absent_model.yaml").write_text(
        SMALL.replace("smoke: {", "smoke: {checkpoint: ./no-such-model, ")
    )
    (tmp_path / "no_causal.yaml").write_text(SMALL.replace("smoke: {", "smoke: {checkpoint: ./vit, "))
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "silent").mkdir()
    soundfile.write(tmp_path / "silent" / "empty.wav", np.zeros(0), 24_000)
    shutil.copy(smoked[0] / "smoke.json", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    arguments, told = WRONG[name]
    result = uti_in(tmp_path, *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and told in result.stderr, (
        result.stderr
    )
    assert sorted(tmp_path.rglob("*")) == before


NUMBERS = [
    name
    for name, field in Smoke.model_fields.items()
    if int in (field.annotation, *getattr(field.annotation, "__args__", ()))
]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_whole_number_has_an_upper_bound(name):
    with pytest.raises(ConfigError, match=rf"smoke\.{name}: input should be less than or equal to \d+, got"):
        parse_config({"smoke": {name: 2**40}}, "uti.yaml")


@pytest.mark.parametrize("key", SUCCESSORS)
def test_a_key_of_an_earlier_release_names_its_successor(key):
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=rf"uti.yaml: the key '{key}' is no longer there; in its place: "):
        parse_config({"text": "embedded-text", section: {name: 1}}, "uti.yaml")
