"""Rows are planned from lengths, read one by one, and trained on: the same rows in memory and on disk."""

import json
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from language import language

from uti.config import parse_config
from uti.lm.data import load_dataset, save_dataset
from uti.lm.train import losses, mean_loss, train
from uti.shards.audit import audit_shards
from uti.shards.manifest import SourceError
from uti.shards.rows import Group, best_fit, plan_rows, times_taken
from uti.shards.run import tokenize
from uti.shards.shard import Settings
from uti.tokens.sequences import IGNORED

pytestmark = pytest.mark.run
CONFIG = parse_config({"text": "embedded-text", "smoke": {"steps": 12, "row_length": 64, "targets": 0}})
N = 620


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder of three shards of texts, of which a tenth is set apart."
    home = tmp_path_factory.mktemp("rows")
    lines = [
        {"id": f"text-{i}", "task": "text", "text": f"{i} " + "words and more " * (i % 9)} for i in range(N)
    ]
    (home / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = Settings(batch=64, eval_per_mille=100)
    tokenize(home / "manifest.jsonl", home / "data", CONFIG, per_shard=300, settings=settings)
    return home / "data"


def stored(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@given(some.lists(some.integers(1, 40)), some.integers(40, 60))
def test_best_fit_takes_everything_once_and_opens_no_row_for_what_fits(lengths, row_length):
    rows = best_fit(lengths, row_length)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert all(n <= row_length for n in filled)
    # the first of a later row fitted into no earlier one
    for earlier, later in pairwise(rows):
        before = sum(lengths[i] for i in earlier if i < later[0])
        assert before + lengths[later[0]] > row_length


@given(some.lists(some.integers(1, 90), max_size=600), some.integers(0, 3))
def test_a_plan_keeps_row_groups_apart_and_counts_what_is_too_long(lengths, seed):
    lengths = np.array(lengths, int)
    groups = [
        Group(0, i, at, min(100, len(lengths) - at)) for i, at in enumerate(range(0, len(lengths), 100))
    ]
    plan = plan_rows(lengths, groups, 64, seed)
    taken = [i for row in plan.rows for i in row]
    assert sorted(taken) == np.flatnonzero(lengths <= 64).tolist()
    assert plan.left_out == int((lengths > 64).sum())
    assert all(len({i // 100 for i in row}) == 1 for row in plan.rows)
    if plan.rows:
        assert plan.filled == lengths[taken].sum() / (64 * len(plan.rows))


def test_weights_take_a_task_more_or_less_often():
    names, tasks = [str(i) for i in range(1000)], ["t2i", "text"] * 500
    times = times_taken(tasks, names, {"t2i": 2, "text": 0.5}, seed=3)
    assert set(times[::2]) == {2} and set(times[1::2]) == {0, 1} and 200 < times[1::2].sum() < 300
    # by the id alone: not by its place, or by what else is there
    assert times_taken(tasks[7:9], names[7:9], {"t2i": 2, "text": 0.5}, 3).tolist() == times[7:9].tolist()
    plan = plan_rows(np.full(1000, 8), [Group(0, 0, 0, 1000)], 64, 0, times)
    assert np.bincount(np.concatenate(plan.rows), minlength=1000).tolist() == times.tolist()
    with pytest.raises(SourceError, match="no sequence is of task 'a2t', which has a weight; there are t2i"):
        times_taken(tasks, names, {"a2t": 1}, 0)


def test_a_dataset_reads_what_the_shards_hold(folder):
    rows = stored(folder)
    for split in ("train", "eval"):
        own = [row for row in rows if row["split"] == split]
        data = load_dataset(folder, split=split)
        assert data.names == [row["id"] for row in own] and set(data.tasks) == {"text"}
        assert data.lengths.tolist() == [row["length"] for row in own]
        for i in random.Random(0).sample(range(len(own)), 20):
            example, segment = data.examples[i], own[i]["segments"][0]
            assert example.ids.tolist() == own[i]["input_ids"]
            assert (example.labels[1:] == example.ids[1:]).all() and example.labels[0] == IGNORED
            assert segment["target"] and segment["start"] == 2
    assert len(load_dataset(folder).examples) + len(data.examples) == N
    backwards = list(range(len(data.examples)))[::-1]  # over all row groups, one twice
    found = data.examples.read([*backwards, 0])
    assert [example.ids.tolist() for example in found] == [row["input_ids"] for row in [*own[::-1], own[0]]]


def test_all_targets_count_where_none_is_left_out(folder):
    data = load_dataset(folder)
    longest = [int(data.lengths.argmax())]
    (whole,) = data.read(longest)
    assert (whole.labels != IGNORED).sum() == data.lengths.max() - 1
    few = data.config.model_copy(update={"smoke": data.config.smoke.model_copy(update={"targets": 7})})
    (counted,) = replace(data, config=few).read(longest)
    assert (counted.labels != IGNORED).sum() == 7


def test_a_dataset_in_memory_and_on_disk_is_trained_on_alike(tmp_path):
    data = language(300, tasks=("t2i", "i2t"), steps=6)
    save_dataset(data, tmp_path / "data")
    again = load_dataset(tmp_path / "data", data.space)
    assert again.sha256 == data.sha256 and again.groups == data.groups and again.tasks == data.tasks
    assert losses(train(again, tmp_path / "disk")) == losses(train(data, tmp_path / "memory"))


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    return losses(train(load_dataset(folder), tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize(
    "workers", [0, 2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_from_any_step_with_any_number_of_loaders(folder, uninterrupted, tmp_path, workers):
    data = load_dataset(folder)
    train(data, tmp_path / "run", stop_after=5, workers=workers)
    assert losses(train(data, tmp_path / "run", workers=2 - workers if workers < 3 else 3)) == uninterrupted


def test_a_resume_reads_no_row_that_it_skips(folder, tmp_path, monkeypatch):
    data, read = load_dataset(folder), []
    train(data, tmp_path / "run", stop_after=5)
    own = type(data).read
    monkeypatch.setattr(type(data), "read", lambda self, numbers: read.append(numbers) or own(self, numbers))
    train(data, tmp_path / "run")
    assert len(read) <= 7 + 2  # and what is fetched ahead


def test_what_was_set_apart_is_told_at_the_end(folder, uti_here, tmp_path):
    result = uti_here("train", "--data", folder, "--outdir", "run", "--workers", "1")
    assert result.returncode == 0, result.stderr
    apart = load_dataset(folder, split="eval")
    assert f"on {len(apart.examples)} sequences that were set apart" in result.stdout
    assert "rows, 9" in result.stdout and "% filled" in result.stdout
    (tmp_path / "other.yaml").write_text("text: embedded-text\nsmoke: {steps: 2, row_length: 20}\nseed: 3\n")
    result = uti_here("train", "--data", folder, "--outdir", "other", "--config", "other.yaml")
    assert result.returncode == 0 and "[2/2]" in result.stdout + result.stderr
    assert "sequences are longer than a row and were left out" in result.stdout


def test_the_loss_of_what_was_set_apart_is_that_of_the_library(folder, tmp_path):
    data, apart = load_dataset(folder), load_dataset(folder, split="eval")
    model = train(data, tmp_path / "run", stop_after=1).model
    found, total, n = mean_loss(model, apart), 0.0, 0
    for example in apart.examples[:]:
        ids, labels = (torch.from_numpy(a[None]) for a in example[:2])
        with torch.inference_mode():
            alone = model(input_ids=ids, labels=labels).loss.item()
        here = int((labels != IGNORED).sum())
        total, n = total + alone * here, n + here
    assert found == pytest.approx(total / n, abs=1e-4) and model.training


def test_what_uti_dataset_writes_passes_the_audit_of_a_data_set(uti_here, tmp_path):
    config = "text: embedded-text\naudio: embedded-audio\nsmoke: {sequences: 12}\n"
    (tmp_path / "uti.yaml").write_text(config)
    assert uti_here("dataset", "--out", "data", "--config", "uti.yaml").returncode == 0
    audited = audit_shards(tmp_path / "data", 2)
    assert not any(faults.n for faults in audited.findings.found.values())
    assert audited.findings.found["dataset_decodes"].asked and audited.tally.splits == {"train": 12}
