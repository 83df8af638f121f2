"""A shard is a function of its lines, its recipe and its weights, whoever makes it and however often."""

import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from broken_shards import edit, refit
from test_outdir import forked

from uti.checks.registry import ask
from uti.config import parse_config
from uti.files import digest
from uti.lm import first_step as first_step_module
from uti.modalities.audio import AudioModality, write_wav
from uti.modalities.probes import noise
from uti.outdir import OutdirError
from uti.shards import run, shard
from uti.shards.audit import audit_shards
from uti.shards.export import export_shards
from uti.shards.manifest import ItemError, SourceError, lines_of_folder, parse_item, plan
from uti.shards.record import FirstStep, audit_dataset, read_dataset_report
from uti.shards.run import WorkerError, tokenize, tokenize_part
from uti.shards.shard import Settings, first_difference
from uti.space import canonical_json, load_space, space_hash
from uti.tokens.grammar import grammar_from_dict, parse
from uti.tokens.sequences import interleave
from uti.tokens.tokenizer import UnifiedTokenizer, meta_digest

pytestmark = pytest.mark.run
CONFIG = parse_config(
    {"text": "embedded-text", "audio": {"codec": "embedded-audio", "options": {"n_codebooks": 2}}}
)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    "Four files of audio, a cut one, one that holds no audio, and a text."
    folder = tmp_path_factory.mktemp("media")
    for i in range(4):
        write_wav(folder / f"{i}.wav", noise(3_000 + 400 * i, i, held=7).float()[None] * 0.5, 24_000)
    (folder / "cut.wav").write_bytes((folder / "3.wav").read_bytes()[:2_000])
    (folder / "no.wav").write_text("no audio")
    (folder / "words.txt").write_text("words in a file")
    return folder


def line(i, **more):
    return {
        "id": f"item-{i}",
        "task": ("t2a", "a2t")[i % 2],
        "audio": f"{i % 4}.wav",
        "text": f"no {i}",
        **more,
    }


def document(i):
    parts = [{"text": "before"}, {"audio": "1.wav"}, {"text_file": "words.txt", "target": True}]
    return {"id": f"item-{i}", "group": "book", "parts": parts}


@pytest.fixture
def manifest(media):
    "Writes lines (a dict each, or bytes) as a manifest beside the media, under a name."

    def write(lines, name="manifest.jsonl"):
        raw = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines]
        (media / name).write_bytes(b"".join(one + b"\n" for one in raw))
        return media / name

    return write


LINES = [document(i) if i == 5 else line(i) for i in range(14)]


def made(source, out, **options):
    return tokenize(source, out, CONFIG, **{"per_shard": 4, "settings": Settings(batch=3), **options})


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def whole(media, tmp_path_factory):
    "The manifest of `LINES`, tokenised by this process."
    raw = "".join(json.dumps(one) + "\n" for one in LINES)
    (media / "whole.jsonl").write_text(raw)
    out = tmp_path_factory.mktemp("whole") / "out"
    return media / "whole.jsonl", out, made(media / "whole.jsonl", out)


def rows_of(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_rows_are_what_the_tokenizer_makes_of_the_items(whole, media):
    _, out, data = whole
    tokenizer, rows = UnifiedTokenizer.from_config(CONFIG), rows_of(out)
    assert [row["index"] for row in rows] == list(range(14)) and data["rows"] == 14 and not data["errors"]
    assert {row["split"] for row in rows} <= {"train", "eval"}
    for row, said in zip(rows, LINES, strict=True):
        parts = (
            said.get("parts")
            or [
                {"text": said["text"], "target": said["task"] == "a2t"},
                {"audio": said["audio"], "target": said["task"] == "t2a"},
            ][:: 1 if said["task"] == "t2a" else -1]
        )
        pairs = []
        for part, segment in zip(parts, row["segments"], strict=True):
            text = part.get("text") or (
                (media / part["text_file"]).read_text() if "text_file" in part else ""
            )
            tokens = tokenizer.encode_text(text) if text else tokenizer.encode_audio(media / part["audio"])
            pairs.append(("text" if text else "audio", tokens.ids))
            source = part.get("audio") or part.get("text_file")
            assert segment["source"] == source and segment["target"] == part.get("target", False)
            wanted = digest(media / source) if source else hashlib.sha256(text.encode()).hexdigest()
            assert segment["sha256"] == wanted
            ids = row["input_ids"][segment["start"] : segment["start"] + segment["length"]]
            assert ids == tokens.ids.tolist()
            meta = json.loads(segment["meta"])
            assert meta == {key: tokens.meta[key] for key in ("codec_meta", "preprocessing", "digest")}
            assert canonical_json(meta) == segment["meta"]
        targets = [place for place, part in enumerate(parts) if part.get("target")]
        assert row["input_ids"] == interleave(tokenizer.space, pairs, targets).ids.tolist()
        assert (row["length"], row["group"]) == (len(row["input_ids"]), said.get("group"))


def test_a_folder_says_what_it_is(whole):
    _, out, data = whole
    assert json.loads((out / "dataset.json").read_text()) == data
    assert (data["items"], len(data["shards"]), data["tokens"]) == (
        14,
        4,
        sum(r["length"] for r in rows_of(out)),
    )
    space = load_space(out / "token_space.json")
    assert (
        data["recipe"]["token_space_sha256"] == space_hash(space) and data["recipe"]["codecs"] == space.codecs
    )
    grammar = grammar_from_dict(space, json.loads((out / "grammar.json").read_text()))
    for row in rows_of(out):
        assert [s.position for s in parse(grammar, row["input_ids"])] == [s["start"] for s in row["segments"]]
    for side in data["shards"]:
        path = out / f"shard-{side['shard']:05d}.parquet"
        footer = {k.decode(): v.decode() for k, v in pq.ParquetFile(path).metadata.metadata.items()}
        assert side["sha256"] == digest(path) and json.loads(footer["uti.recipe"]) == data["recipe"]
        ids = np.concatenate([row["input_ids"] for row in pq.read_table(path).to_pylist()]).astype("<u4")
        assert footer["uti.ids_sha256"] == side["ids_sha256"] == hashlib.sha256(ids.tobytes()).hexdigest()
        assert str(path.parent) not in "".join(footer.values())
    assert "error" not in (out / "errors.jsonl").read_text()


def test_a_second_run_and_another_folder_give_the_same_bytes(whole, tmp_path, monkeypatch):
    manifest, out, _ = whole
    made(manifest, tmp_path / "again")
    assert content(tmp_path / "again") == content(out)
    monkeypatch.setattr(shard, "make_rows", lambda *_: pytest.fail("it is done"))
    made(manifest, tmp_path / "again")
    assert content(tmp_path / "again") == content(out)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_workers_gives_the_same_bytes(whole, tmp_path, workers):
    manifest, out, _ = whole
    made(manifest, tmp_path / "out", workers=workers)
    assert content(tmp_path / "out") == content(out)


def test_what_was_deleted_or_damaged_is_made_again(whole, tmp_path):
    manifest, out, _ = whole
    folder = shutil.copytree(out, tmp_path / "out")
    (folder / "shard-00000.parquet").unlink()
    (folder / "shard-00001.parquet").write_bytes((out / "shard-00001.parquet").read_bytes()[:-100])
    (folder / "shard-00002.json").write_text("")
    (folder / "mine.txt").write_text("mine")
    made(manifest, folder)
    assert content(folder) == content(out) | {"mine.txt": b"mine"}


def test_a_line_more_changes_the_last_shard_alone(whole, manifest, tmp_path):
    _, out, _ = whole
    folder = shutil.copytree(out, tmp_path / "out")
    data = made(manifest([*LINES, line(14)]), folder)
    assert data["rows"] == 15
    own, before = content(folder), content(out)
    changed = {name for name in own if name.startswith("shard") and own[name] != before.get(name)}
    assert changed == {"shard-00003.parquet", "shard-00003.json"}
    data = made(manifest(LINES[:4]), folder)
    assert [path.name for path in sorted(folder.glob("shard*"))] == [
        "shard-00000.json",
        "shard-00000.parquet",
    ]


def test_another_recipe_is_refused_and_names_what_differs(whole, tmp_path):
    manifest, out, _ = whole
    before = content(out)
    with pytest.raises(SourceError, match=r"dataset\.json: .*eval_per_mille is 20 here, 10 there"):
        made(manifest, out, settings=Settings(batch=3, eval_per_mille=20))
    other = parse_config(CONFIG.model_dump(exclude_none=True) | {"serialisation": "delay"})
    with pytest.raises(SourceError, match=r'serialisation is "delay" here, "interleaved" there'):
        tokenize(manifest, out, other, per_shard=4, settings=Settings(batch=3))
    assert content(out) == before
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}) == "a.c is null here, 2 there"


BAD = {
    3: (line(3, audio="cut.wav"), "is cut off"),
    7: (line(7, audio="absent.wav"), "absent.wav: no such file or directory"),
    11: (line(11, audio="no.wav"), "no.wav: "),
    17: (b'{"id": "item-17", "task"', "is no JSON"),
    20: ({"task": "text", "text": "no id"}, "has no 'id'"),
    24: ({"id": "item-24", "task": "t2a", "audio": "1.wav"}, "has no 'text'"),
    33: ({"id": "item-33", "task": "t2v", "text": "x"}, "no task is named 't2v'"),
    41: ({"id": "item-41", "task": "text", "text": "word " * 3_000}, "512 are the most"),
    52: (line(52, text=""), "not empty"),
    59: (line(59, audio="."), "is a directory"),
}


def test_ten_bad_lines_in_sixty_are_ten_errors_in_order(manifest, media, tmp_path):
    lines = [BAD[i][0] if i in BAD else line(i) for i in range(60)]
    settings = Settings(batch=8, max_tokens=512)
    data = made(manifest(lines), tmp_path / "out", per_shard=25, settings=settings)
    assert (data["rows"], data["errors"]) == (50, 10)
    errors = [json.loads(text) for text in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [error["index"] for error in errors] == list(BAD)
    for error, (said, why) in zip(errors, BAD.values(), strict=True):
        assert why in error["message"] and str(media) not in error["message"]
        assert error["id"] == (said.get("id") if isinstance(said, dict) else None)
    good = [row["index"] for row in rows_of(tmp_path / "out")]
    assert good == [i for i in range(60) if i not in BAD]
    moved = shutil.copytree(media, tmp_path / "elsewhere")
    made(moved / "manifest.jsonl", tmp_path / "two", per_shard=25, settings=settings)
    assert content(tmp_path / "two") == content(tmp_path / "out")


def test_a_codec_that_promises_nothing_of_batches_is_asked_item_by_item(manifest, tmp_path):
    spec = shard.tokenizer_of(CONFIG).codec("audio").spec
    lines = [line(0), line(1, audio="absent.wav"), line(2), line(3), line(4)]
    data = made(manifest(lines), tmp_path / "one", settings=Settings(batch=2))
    sides = [json.loads(path.read_text()) for path in sorted((tmp_path / "one").glob("shard*.json"))]
    assert [side["alone"] for side in sides] == [[], []]
    object.__setattr__(spec, "invariant", False)
    try:
        made(manifest(lines), tmp_path / "two", settings=Settings(batch=2))
    finally:
        object.__setattr__(spec, "invariant", True)
    sides = [json.loads(path.read_text()) for path in sorted((tmp_path / "two").glob("shard*.json"))]
    assert [side["alone"] for side in sides] == [[0], []] and data["rows"] == 4


def test_memory_and_a_full_disk_end_the_shard_and_lose_no_item(whole, tmp_path, monkeypatch):
    manifest, out, _ = whole

    def fails(error):
        def encode(*_):
            raise error

        return encode

    for error in (MemoryError(), OSError(28, os.strerror(28))):
        with monkeypatch.context() as patch:
            patch.setattr(UnifiedTokenizer, "encode_normal", fails(error))
            with pytest.raises(type(error)):
                made(manifest, tmp_path / "out")
        assert not (tmp_path / "out" / "dataset.json").exists()
    made(manifest, tmp_path / "out")
    assert content(tmp_path / "out") == content(out)


def killed_at(manifest, folder, module, name, calls, before):
    "Tokenise, and be killed before or after the so-manieth call of a function."
    function, left = getattr(module, name), [calls]

    def step(*arguments, **more):
        left[0] -= 1
        if before and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*arguments, **more)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(module, name, step)
    made(manifest, folder)


@pytest.mark.parametrize(
    ("module", "name", "calls", "before"),
    [
        (shard, "_sync", 3, True),  # the second file is written, and has no name yet
        (shard, "write_shard", 2, False),  # it has its name, and no sidecar
        (shard, "write_text", 2, False),  # the second shard is done
        (run, "_join", 1, True),  # all are done
        (run, "write_text", 2, True),  # errors.jsonl
        (run, "write_json", 2, True),  # dataset.json
    ],
    ids=[
        "in a file",
        "before a sidecar",
        "after a sidecar",
        "before the join",
        "in the errors",
        "at the end",
    ],
)
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(whole, tmp_path, module, name, calls, before):
    manifest, out, _ = whole
    process = forked(killed_at, manifest, tmp_path / "out", module, name, calls, before)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "out" / "dataset.json").exists()
    made(manifest, tmp_path / "out")
    assert content(tmp_path / "out") == content(out) and not (tmp_path / "out" / ".uti").exists()


@pytest.mark.slow  # thirty runs
def test_thirty_kills_at_random_moments_end_in_the_same_bytes(whole, tmp_path):
    manifest, out, _ = whole
    seconds, kills = random.Random(0), 0
    while kills < 30:
        process = forked(made, manifest, tmp_path / "out")
        process.join(seconds.uniform(0.05, 0.7))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        elif kills < 30:  # it came to its end: from the beginning
            assert process.exitcode == 0 and content(tmp_path / "out") == content(out)
            shutil.rmtree(tmp_path / "out")
    made(manifest, tmp_path / "out")
    assert content(tmp_path / "out") == content(out) and not (tmp_path / "out" / ".uti").exists()


def test_an_interrupted_run_of_another_recipe_is_not_mixed(whole, tmp_path):
    manifest, _, _ = whole
    forked(killed_at, manifest, tmp_path / "out", shard, "write_text", 2, False).join(60)
    with pytest.raises(
        SourceError, match=r"recipe\.json: shards of another recipe .*batch is 5 here, 3 there"
    ):
        made(manifest, tmp_path / "out", settings=Settings(batch=5))


def test_two_runs_do_not_meet_in_one_folder(whole, tmp_path):
    manifest, _, _ = whole

    def again(n, of, what):
        with pytest.raises(OutdirError, match="another run writes"):
            made(manifest, tmp_path / "out")

    made(manifest, tmp_path / "out", progress=again)


def test_an_id_that_stands_twice_names_both_lines(manifest, tmp_path):
    with pytest.raises(SourceError, match=r"lines 2 and 7 have one id, 'item-1'"):
        made(manifest([*(line(i) for i in range(6)), line(1)]), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_where_nothing_of_the_first_shard_is_good_the_source_is_wrong(manifest, media, tmp_path):
    path = manifest([line(i) for i in range(8)])
    with pytest.raises(SourceError, match=r"not one of the first 4 items .* line 1, 0\.wav: no such file"):
        made(path, tmp_path / "out", media=tmp_path)
    assert made(path, tmp_path / "out", media=media)["rows"] == 8


def test_a_source_that_is_none_leaves_nothing_behind(manifest, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, why in (
        (manifest([]), "holds no line"),
        (tmp_path / "empty", "no text"),
        ("absent", "no such"),
    ):
        with pytest.raises(SourceError, match=why):
            made(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def _dies():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow  # a pool begins three times
def test_workers_that_die_before_they_read_anything_are_told(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_begin_worker", _dies)
    with pytest.raises(WorkerError, match=r"makes shard-00000 \(lines 1 to 4\) dies again and again"):
        made(whole[0], tmp_path / "out", workers=2)


def _dies_of_one_file():
    "Begin a worker whose decoder of audio is ended by one file, and whose codec by one text."
    read, encode = AudioModality.read, UnifiedTokenizer.encode_normal

    def deadly_read(self, path):
        if path.name == "deadly.wav":
            _dies()
        return read(self, path)

    def deadly_encode(self, modality, signals, records):
        if modality == "text" and "deadly words" in signals:
            _dies()
        return encode(self, modality, signals, records)

    AudioModality.read, UnifiedTokenizer.encode_normal = deadly_read, deadly_encode


@pytest.mark.slow  # a process begins five times
def test_an_item_that_kills_its_worker_is_found_and_left_out(media, manifest, tmp_path, monkeypatch):
    lines = [line(i) for i in range(12)]
    lines[5]["audio"], lines[9]["text"] = "deadly.wav", "deadly words"
    shutil.copyfile(media / "0.wav", media / "deadly.wav")
    with monkeypatch.context() as patch:
        patch.setattr(run, "_begin_worker", _dies_of_one_file)
        data = made(manifest(lines), tmp_path / "out", workers=2)
    assert (data["rows"], data["errors"]) == (10, 2)
    errors = [json.loads(one) for one in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [error["index"] for error in errors] == [5, 9]
    assert {error["message"] for error in errors} == {"ended the process that read or encoded it"}
    made(manifest(lines), tmp_path / "out", workers=2, retry_errors=True)
    assert not wrong(tmp_path / "out", 2, media) and len(rows_of(tmp_path / "out")) == 12


def test_a_file_that_was_repaired_is_tried_again_when_asked(media, manifest, tmp_path):
    path = manifest([line(0), line(1, audio="late.wav"), line(2), line(3), line(4)])
    assert made(path, tmp_path / "out")["errors"] == 1
    shutil.copyfile(media / "1.wav", media / "late.wav")
    assert made(path, tmp_path / "out")["errors"] == 1
    assert made(path, tmp_path / "out", retry_errors=True)["errors"] == 0
    made(path, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    (media / "late.wav").unlink()


def test_jobs_of_an_array_make_the_same_bytes(whole, tmp_path):
    manifest, out, _ = whole
    options = {"per_shard": 4, "settings": Settings(batch=3)}
    for shards, n in (("2-3", 2), ("0", 1)):
        assert tokenize_part(manifest, tmp_path / "out", shards, CONFIG, **options) == n
        assert not (tmp_path / "out" / "dataset.json").exists()
    left = []
    made(manifest, tmp_path / "out", progress=lambda n, of, what: left.append(n))
    assert content(tmp_path / "out") == content(out) and left[-1] == 14
    for shards in ("4", "0-4", "3-2", "a", "-1", ""):
        with pytest.raises(SourceError, match="names no shards: there are 4, 0 to 3"):
            tokenize_part(manifest, tmp_path / "other", shards, CONFIG, **options)


def test_a_shuffled_manifest_is_another_order_of_the_same_rows(whole, tmp_path):
    source, plain, _ = whole
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        made(source, tmp_path / name, settings=Settings(batch=3, shuffle=seed))
    assert content(tmp_path / "one") == content(tmp_path / "again") != content(tmp_path / "other")
    found, rows = rows_of(tmp_path / "one"), {row["id"]: row for row in rows_of(plain)}
    assert [row["index"] for row in found] == list(range(14)) and [row["id"] for row in found] != list(rows)
    assert all(row["input_ids"] == rows[row["id"]]["input_ids"] for row in found) and len(found) == 14
    # which order it was stands in the folder, and its lines are those that errors.jsonl counts
    lines = (tmp_path / "one" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row["id"] for row in found]
    with pytest.raises(SourceError, match="shuffle is 8 here, 7 there"):
        made(source, tmp_path / "one", settings=Settings(batch=3, shuffle=8))
    with pytest.raises(SourceError, match="no such file or folder"):
        made(source.with_name("absent.jsonl"), tmp_path / "none", settings=Settings(shuffle=1))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_cluster_that_does_not_answer_is_told(whole, tmp_path, address):
    with pytest.raises(SourceError, match=f"{address}: no cluster of Ray answers there"):
        made(whole[0], tmp_path / "out", ray=address)
    assert not list((tmp_path / "out").glob("*.parquet"))


HEAD = "127.0.0.2"  # Ray takes 127.0.0.1 for the machine's other address


@contextmanager
def node(*arguments):
    "A node of Ray in a group of processes of its own."
    program = Path(sys.executable).with_name("ray")
    process = subprocess.Popen(
        [program, "start", "--num-cpus=1", "--disable-usage-stats", "--block", *arguments],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow  # Ray starts three times
@pytest.mark.parametrize("killed", [False, True], ids=["two nodes", "one of two is killed"])
def test_two_nodes_of_ray_make_the_same_bytes(media, manifest, tmp_path, killed, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or each node asks for a token of its own
    source = manifest([line(i) for i in range(40)], "ray.jsonl")
    made(source, tmp_path / "one", per_shard=2)
    with socket.socket() as free:
        free.bind((HEAD, 0))
        port = free.getsockname()[1]
    head = ("--head", f"--node-ip-address={HEAD}", f"--port={port}", "--include-dashboard=false")
    with node(*head):
        wait_for_port(port)
        with node(f"--address={HEAD}:{port}", "--node-ip-address=127.0.0.3") as second:
            seen = []

            def tick(n, of, what):
                seen.append(n)
                if killed and n >= 8 and second.poll() is None:
                    os.killpg(second.pid, signal.SIGKILL)
                    second.wait()

            # a working folder of their own, as another machine has it: paths of the job are whole
            monkeypatch.chdir(media)
            made(
                source.relative_to(media),
                tmp_path / "ray",
                per_shard=2,
                ray=f"{HEAD}:{port}",
                progress=tick,
            )
            assert seen[-1] == 40 and (second.poll() is not None) == killed
    assert content(tmp_path / "ray") == content(tmp_path / "one")


def wait_for_port(port):
    for _ in range(300):
        with suppress(OSError):
            socket.create_connection((HEAD, port), timeout=1).close()
            return
        time.sleep(0.1)
    raise AssertionError("the head of the cluster did not start")


# What Slurm does with a script of datatrove, on this machine: the jobs of the array one after another.
SLURM = {
    "sbatch": """#!/bin/bash
script="${@: -1}"
last=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
grep -q merge_stats "$script" || for i in $(seq 0 $last); do
  SLURM_ARRAY_TASK_ID=$i SLURM_JOB_ID=7 SLURM_NODELIST=here bash "$script" > "$HOME/$i.log" 2>&1
done
echo "Submitted batch job 7"
""",
    "srun": """#!/bin/bash
while [ "$1" != launch_pickled_pipeline ]; do shift; done
exec "$@"
""",
    "scontrol": """#!/bin/bash
echo here
""",
}


@pytest.mark.slow  # a process begins twice
def test_datatroves_executor_for_slurm_makes_the_same_bytes(whole, tmp_path, monkeypatch):
    from datatrove.executor import SlurmPipelineExecutor
    from tokenise_step import Tokenise

    manifest, out, _ = whole
    for name, script in SLURM.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    made_here = {"config": CONFIG, "per_shard": 4, "settings": Settings(batch=3)}
    step = Tokenise(manifest, tmp_path / "out", 4, made_here)
    options = {"time": "00:10:00", "partition": "any", "logging_dir": str(tmp_path / "logs")}
    SlurmPipelineExecutor([step], tasks=2, **options).run()
    assert len(list((tmp_path / "out").glob(".uti/kept-*/shard-*.json"))) == 4
    assert not (tmp_path / "out" / "dataset.json").exists()
    made(manifest, tmp_path / "out")
    assert content(tmp_path / "out") == content(out)


def test_a_plan_tiles_the_manifest(manifest):
    path = manifest([b"a", b"", b"\xff\r", b"last"])
    path.write_bytes(path.read_bytes()[:-1])  # without an end of the last line
    for per_shard in (1, 2, 3, 4, 5):
        slices = plan(path, per_shard)
        assert b"".join(line for part in slices for line in part.read(path)) == path.read_bytes()
        assert [part.items for part in slices[:-1]] == [per_shard] * (len(slices) - 1)
        assert sum(part.items for part in slices) == 4 == sum(len(part.read(path)) for part in slices)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="holds no line"):
        plan(path, 3)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"[1]", "no JSON object"),
        (b"\xff", "is no JSON"),
        (b"[" * 10_000, "is no JSON"),
        (b'{"id": 1}', "'id' must be a text"),
        (b'{"id": "a", "parts": 1}', "list of objects"),
        (b'{"id": "a", "parts": [{"text": "x"}]}', "nothing to learn"),
        (b'{"id": "a", "parts": [{"text": "x", "image": "y", "target": true}]}', "part 0 needs one of"),
        (b'{"id": "a", "parts": [{"text": "x", "target": 1}]}', "'target' true or false"),
        (b'{"id": "a", "task": "text", "text": "\\ud800"}', "surrogates"),
        (b'{"id": "a", "task": "text", "text": ["x"]}', "must be a text"),
    ],
)
def test_a_line_that_is_wrong_is_said_in_a_few_words(said, why):
    with pytest.raises(ItemError, match=why):
        parse_item(said, 0)


def test_an_empty_text_is_one_where_it_is_allowed():
    said = b'{"id": "a", "task": "text", "text": ""}'
    assert parse_item(said, 0, allow_empty_text=True).parts[0].value == ""


def test_the_split_of_a_group_is_one():
    items = [parse_item(json.dumps(line(i, group="g")).encode(), i) for i in range(9)]
    assert len({item.split(500) for item in items}) == 1
    alone = [parse_item(json.dumps(line(i)).encode(), i) for i in range(1000)]
    assert 430 < sum(item.split(500) == "eval" for item in alone) < 570
    assert all(item.split(0) == "train" and item.split(1000) == "eval" for item in alone)


def test_a_folder_of_pairs_is_a_manifest(media, tmp_path):
    folder = tmp_path / "pairs"
    (folder / "b").mkdir(parents=True)
    shutil.copyfile(media / "1.wav", folder / "b" / "x.wav")
    (folder / "b" / "x.txt").write_text("a caption")
    (folder / "a.txt").write_text("alone")
    lines = [json.loads(one) for one in lines_of_folder(folder)]
    assert [one["id"] for one in lines] == ["a:text", "b/x:t2a", "b/x:a2t"]
    assert {one["group"] for one in lines} == {"a", "b/x"}
    data = made(folder, tmp_path / "out")
    assert data["rows"] == 3
    assert [
        json.loads(one) for one in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    ] == lines
    assert [json.loads(one)["id"] for one in lines_of_folder(folder, ["a2t"])] == ["b/x:a2t"]
    with pytest.raises(SourceError, match="holds no text, image or audio for t2i"):
        list(lines_of_folder(folder, ["t2i"]))
    shutil.copyfile(media / "1.wav", folder / "b" / "x.flac")
    with pytest.raises(SourceError, match="both the audio of one pair"):
        list(lines_of_folder(folder))


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def same_rows(a, b):
    "Whether two folders hold the same sequences, wherever their sources lie."
    kept = [
        [(row["input_ids"], [s["sha256"] for s in row["segments"]]) for row in rows_of(folder)]
        for folder in (a, b)
    ]
    return kept[0] == kept[1]


@pytest.fixture
def pairs(media, tmp_path):
    "A folder of two pairs, and their contents by name."
    folder = tmp_path / "pairs"
    folder.mkdir()
    for i in range(2):
        shutil.copyfile(media / f"{i}.wav", folder / f"{i}.wav")
        (folder / f"{i}.txt").write_text(f"noise {i}")
    return folder, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_tar_is_tokenised_where_it_lies(pairs, tmp_path):
    folder, contents = pairs
    made(folder, tmp_path / "out", tasks=["a2t"])
    home = tmp_path / "tars"
    home.mkdir()
    tar_of(home / "b.tar", {"x/1.wav": contents["1.wav"], "x/1.txt": contents["1.txt"], "x/notes.md": b"no"})
    tar_of(home / "a.tar", {"0.wav": contents["0.wav"], "0.txt": contents["0.txt"]})
    made(home, tmp_path / "two", tasks=["a2t"])
    assert same_rows(tmp_path / "out", tmp_path / "two")
    assert [row["id"] for row in rows_of(tmp_path / "two")] == ["a/0:a2t", "b/x/1:a2t"]
    assert not wrong(tmp_path / "two", 2, home)
    made(home / "a.tar", tmp_path / "one", tasks=["a2t"])
    assert [row["group"] for row in rows_of(tmp_path / "one")] == ["a/0"]
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as tar:
        tar.add(folder / "0.txt", "0.txt")
    with pytest.raises(SourceError, match="compressed"):
        made(tmp_path / "c.tar.gz", tmp_path / "none")


def test_a_table_is_a_manifest(pairs, tmp_path):
    folder, contents = pairs
    made(folder, tmp_path / "out", tasks=["a2t"])
    (folder / "t.csv").write_text("id,audio,text\nx,0.wav,noise 0\n,1.wav,noise 1\n")
    made(folder / "t.csv", tmp_path / "csv", tasks=["a2t"])
    assert [row["id"] for row in rows_of(tmp_path / "csv")] == ["x", "1"]
    for name, cells in {
        "struct": [{"bytes": contents[f"{i}.wav"], "path": f"{i}.wav"} for i in range(2)],
        "bytes": [contents[f"{i}.wav"] for i in range(2)],
        "path": ["0.wav", "1.wav"],
    }.items():
        table = pa.table({"id": ["x", "y"], "audio": cells, "text": ["noise 0", "noise 1"], "other": [1, 2]})
        pq.write_table(table, folder / "t.parquet", row_group_size=1)
        made(folder / "t.parquet", tmp_path / name, tasks=["a2t"])
        ids = [[row["input_ids"] for row in rows_of(tmp_path / which)] for which in ("out", "csv", name)]
        assert ids[0] == ids[1] == ids[2]
        assert not wrong(tmp_path / name, 2, folder)
    with pytest.raises(SourceError, match="has no column 'task'; name the one"):
        made(folder / "t.parquet", tmp_path / "none")
    (folder / "no.parquet").write_text("none")
    with pytest.raises(SourceError, match="not a Parquet file"):
        made(folder / "no.parquet", tmp_path / "none", tasks=["a2t"])
    (folder / "no.csv").write_bytes(b"id,text\n\xff,x\n")
    with pytest.raises(SourceError, match="not CSV in UTF-8"):
        made(folder / "no.csv", tmp_path / "none", tasks=["text"])
    (folder / "no.csv").write_text("id,text\n")
    with pytest.raises(SourceError, match="holds no row"):
        made(folder / "no.csv", tmp_path / "none", tasks=["text"])
    assert not (tmp_path / "none").exists()


def test_what_datasets_saved_is_a_manifest(pairs, tmp_path):
    import datasets

    folder, contents = pairs
    made(folder, tmp_path / "out", tasks=["a2t"])
    cells = [{"bytes": contents[f"{i}.wav"], "path": f"{i}.wav"} for i in range(2)]
    table = datasets.Dataset.from_dict({"audio": cells, "text": ["noise 0", "noise 1"], "other": [1, 2]})
    table.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(tmp_path / "saved", num_shards=2)
    made(tmp_path / "saved", tmp_path / "arrow", tasks=["a2t"])
    rows, others = rows_of(tmp_path / "arrow"), rows_of(tmp_path / "out")
    assert [row["input_ids"] for row in rows] == [row["input_ids"] for row in others]
    assert [row["id"] for row in rows] == ["0", "1"]
    assert rows[1]["segments"][0]["source"] == "data-00001-of-00002.arrow#0.0.audio/1.wav"
    assert not wrong(tmp_path / "arrow", 2, tmp_path / "saved")
    (tmp_path / "saved" / "data-00001-of-00002.arrow").write_bytes(b"none")
    with pytest.raises(SourceError, match="not an Arrow stream that can be read"):
        made(tmp_path / "saved", tmp_path / "none", tasks=["a2t"])
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(SourceError, match="of datasets of this version"):
        made(tmp_path / "saved", tmp_path / "none", tasks=["a2t"])


@pytest.mark.parametrize(
    "place", ["t.tar#0+100/a.wav", "t.tar#99999999+10/a.wav", "absent.tar#0+1/a.wav", "t.csv#0.0.audio/a.wav"]
)
def test_a_place_that_holds_nothing_is_the_items_fault(media, manifest, tmp_path, place):
    tar_of(media / "t.tar", {"a.txt": b"words"})
    (media / "t.csv").write_text("id\n")
    data = made(manifest([line(0), line(1, audio=place)]), tmp_path / "out")
    assert (data["rows"], data["errors"]) == (1, 1)
    said = json.loads((tmp_path / "out" / "errors.jsonl").read_text())["message"]
    assert said.startswith(f"{place}: ") and str(tmp_path) not in said and "/tmp" not in said


def test_the_command_says_what_it_made_and_what_failed(uti_here, manifest, media, tmp_path):
    (tmp_path / "uti.yaml").write_text("text: {codec: embedded-text}\n")
    texts = [{"id": str(i), "task": "text", "text": f"word {i}"} for i in range(3)]
    path = manifest([*texts, {"id": "3", "task": "text"}])
    arguments = ("tokenize", path, "--config", "uti.yaml", "--out", "out")
    result = uti_here(*arguments)
    assert result.returncode == 1, result.stderr
    assert "3 sequences of 4 items" in result.stdout and "1 items failed: out/errors.jsonl" in result.stdout
    assert uti_here(*arguments, "--max-errors", "1").returncode == 0
    result = uti_here(*arguments, "--batch", "3")
    assert result.returncode == 2 and "batch is 3 here, 16 there" in result.stderr
    result = uti_here("tokenize", media, "--tasks", "t2v", "--out", "out")
    assert result.returncode == 2 and "no task is named 't2v'" in result.stderr


def first_audio(rows):
    return next((r, s) for r in rows for s in r["segments"] if s["modality"] == "audio")


def renewed(row, segment):
    "Bind the meta of a segment to the ids that stand there now."
    meta = json.loads(segment["meta"])
    ids = row["input_ids"][segment["start"] : segment["start"] + segment["length"]]
    segment["meta"] = canonical_json(meta | {"digest": meta_digest(torch.tensor(ids), meta)})


def foreign_space(folder):
    edit(folder, lambda rows: None, footer={"uti.token_space_sha256": "0" * 64})


def beyond(folder):
    edit(folder, lambda rows: rows[0]["input_ids"].__setitem__(rows[0]["segments"][0]["start"], 10**6))


def no_marker(folder):
    edit(folder, lambda rows: rows[0]["input_ids"].__setitem__(rows[0]["segments"][-1]["start"] - 1, 5))


def of_another_modality(folder):
    def change(rows):
        row, segment = first_audio(rows)
        row["input_ids"][segment["start"]] = 7
        renewed(row, segment)

    edit(folder, change)


def exchanged_codebooks(folder):
    def change(rows):
        row, segment = first_audio(rows)
        a, ids = segment["start"], row["input_ids"]
        ids[a], ids[a + 1] = ids[a + 1], ids[a]
        renewed(row, segment)

    edit(folder, change)


def other_id(rows, bind):
    row, segment = first_audio(rows)
    at = segment["start"]
    row["input_ids"][at] += 1 if row["input_ids"][at] % 2 == 0 else -1
    if bind:
        renewed(row, segment)


def cut(folder):
    path = folder / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-500])
    refit(folder, path.stem)


def flipped(folder):
    path = folder / "shard-00000.parquet"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)
    refit(folder, path.stem)


def twice(folder):
    row = pq.read_table(folder / "shard-00000.parquet").to_pylist()[0]
    split = "eval" if row["split"] == "train" else "train"
    edit(
        folder,
        lambda rows: rows.__setitem__(0, {**row, "index": rows[0]["index"], "split": split}),
        "shard-00001",
    )


FAULTS = {
    foreign_space: ("dataset_space", "token space 000000000000, not"),
    beyond: ("dataset_ranges", "id 1000000 is beyond"),
    no_marker: ("dataset_shapes", "no marker of"),
    of_another_modality: ("dataset_ranges", "id 7 at .* is not of codebook 0 of audio"),
    exchanged_codebooks: ("dataset_ranges", "is not of codebook 0 of audio"),
    cut: ("dataset_complete", "shard-00000: .*cannot be read"),
    flipped: ("dataset_complete", "row group 0 is damaged"),
    twice: ("dataset_names", "its id stands in shard-00000, item-0, too"),
    lambda folder: edit(folder, lambda rows: other_id(rows, bind=False)): (
        "dataset_digests",
        "ids of audio at .* are not those of its meta",
    ),
    lambda folder: edit(folder, lambda rows: rows.pop()): ("dataset_complete", "3 rows and 0 errors"),
    lambda folder: (folder / "shard-00001.parquet").unlink(): ("dataset_complete", "shard-00001: "),
    lambda folder: edit(folder, lambda rows: other_id(rows, bind=True)): (
        "dataset_reencoded",
        "audio: 1 of .* ids differ, first in codebook 0 at position 0",
    ),
}


def wrong(folder, level=1, media=None):
    "Question → the first fault, of those that fail."
    findings = audit_shards(folder, level, media).findings
    return {check.name: check.detail for check in ask("data set", findings) if check.failed_gate}


def test_a_folder_as_it_was_made_is_asked_everything_and_passes(whole, media):
    _, out, _ = whole
    audited = audit_shards(out, 2, media)
    checks = {check.name: check.passed for check in ask("data set", audited.findings)}
    assert len(checks) == 13 and set(checks.values()) <= {True, None}
    assert [name for name, passed in checks.items() if passed is None] == ["dataset_near_leaks"]
    found = audited.findings.found
    assert found["dataset_sources"].asked == 15 and found["dataset_reencoded"].asked == 29
    assert audited.tally.tokens == sum(row["length"] for row in rows_of(out))
    assert set(audit_shards(out, 0).findings.found) == {"dataset_space", "dataset_schema", "dataset_complete"}


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(FAULTS.values())])
def test_each_fault_is_found_by_its_question(whole, media, tmp_path, fault):
    question, said = FAULTS[fault]
    folder = shutil.copytree(whole[1], tmp_path / "out")
    fault(folder)
    told = wrong(folder, 2 if question == "dataset_reencoded" else 1, media)
    assert re.search(said, told.pop(question)), told
    assert not told or fault in (beyond, twice)
    if fault is twice:
        assert "the same file or ids in both splits" in told["dataset_leaks"]


def test_the_codecs_are_asked_about_the_shards_that_are_whole(whole, media, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "data")
    flipped(folder)
    audited = audit_shards(folder, 2, media)
    assert audited.findings.found["dataset_complete"].n == 1 and audited.tally.damaged == {"shard-00000"}
    assert audited.findings.found["dataset_reencoded"].asked and audited.examples
    assert not any(example.row in ("item-0", "item-1", "item-2", "item-3") for example in audited.examples)


def test_a_source_that_changed_is_a_finding_of_its_own(whole, media, tmp_path):
    moved = shutil.copytree(media, tmp_path / "media")
    shutil.copyfile(media / "1.wav", moved / "0.wav")
    (moved / "2.wav").unlink()
    assert set(told := wrong(whole[1], 2, moved)) == {"dataset_sources"}
    assert "0.wav has changed" in told["dataset_sources"] and "2.wav: no such file" in told["dataset_sources"]


def test_other_codecs_than_those_that_made_it_are_told(whole, media, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "out")
    text = (folder / "uti.yaml").read_text().replace("n_codebooks: 2", "n_codebooks: 4")
    (folder / "uti.yaml").write_text(text)
    assert "the codecs here: AUDIO_CB2" in wrong(folder, 2, media)["dataset_space"]


def test_nearly_the_same_file_in_both_splits_is_told_and_fails_nothing(media, manifest, tmp_path):
    wave = noise(48_000, 5, held=7).float()[None] * 0.5
    write_wav(media / "long.wav", wave, 24_000)
    write_wav(media / "quieter.wav", wave * 0.97, 24_000)
    write_wav(media / "other.wav", noise(48_000, 6, held=7).float()[None] * 0.5, 24_000)
    names = {item: {"id": item, "task": "audio"} for item in map(str, range(20))}
    split = {
        item: parse_item(json.dumps(line | {"audio": "x"}).encode(), 0).split(500)
        for item, line in names.items()
    }
    train, apart = (next(item for item in names if split[item] == one) for one in ("train", "eval"))
    more = next(item for item in names if split[item] == "train" and item != train)
    files = {train: "long.wav", apart: "quieter.wav", more: "other.wav"}
    lines = [names[item] | {"audio": file} for item, file in files.items()]
    made(manifest(lines), tmp_path / "out", settings=Settings(eval_per_mille=500))
    answers = {check.name: check for check in ask("data set", audit_shards(tmp_path / "out").findings)}
    near = answers["dataset_near_leaks"]
    assert near.passed is False and not near.gates and near.found == 1
    assert re.search(
        rf"{apart}: \d+ of 64 ids in their places are those of shard-00000, {train}$", near.detail
    )
    assert all(check.passed for name, check in answers.items() if check is not near)


def test_the_command_audits_a_folder(whole, media, tmp_path, uti_here):
    _, out, _ = whole
    run = uti_here("audit", "--dataset", out, "--level", "2", "--media", media, "--outdir", "report")
    assert run.returncode == 0 and "PASSED: 13 gates asked at level 2" in run.stdout, run.stderr
    record = read_dataset_report(tmp_path / "report" / "dataset_report.json")
    assert (record.rows, sum(lengths.n for lengths in record.tasks.values())) == (14, 14)
    assert sum(record.splits.values()) == 14 and record.segments == {"text": 15, "audio": 14}
    packing, step = record.packing, record.first_step
    tokens = sum(row["length"] for row in rows_of(out) if row["split"] == "train")
    assert packing.filled == pytest.approx(tokens / (packing.rows * packing.row_length))
    assert packing.row_length == 1024 and not packing.left_out and f"{packing.rows} rows of" in run.stdout
    assert abs(step.loss - step.chance) < 0.2 and step.gradient > 0
    folder = shutil.copytree(out, tmp_path / "broken")
    beyond(folder)
    run = uti_here("audit", "--dataset", folder, "--outdir", "report")
    assert run.returncode == 1 and "✗ Every id lies in the range" in run.stdout
    run = uti_here("audit", "--dataset", media, "--outdir", "report")
    assert run.returncode == 2 and "dataset.json: cannot be read" in run.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ("audit", "--dataset", "data", "--text", "embedded-text"),
            "--text: is of an audit of codecs; those of",
        ),
        (("report", "--dataset", "data", "--thorough"), "--thorough: is of an audit of codecs"),
        (("audit", "--level", "2"), "--level: is of an audit of a data set, which --dataset names"),
        (("report", "--media", "."), "--media: is of an audit of a data set"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(given, told, uti_here):
    run = uti_here(*given)
    assert run.returncode == 2 and told in run.stderr and run.stderr.count("\n") == 1


STEPS = {
    "a loss that is not that of chance": (
        9.1,
        1.0,
        "a loss of 9.10 nats, where chance is 8.50, a gradient of 1",
    ),
    "a loss that is no number": (math.nan, 1.0, "a loss of nan nats, where chance is 8.50, a gradient of 1"),
    "no gradient": (8.4, 0.0, "a loss of 8.40 nats, where chance is 8.50, a gradient of 0"),
    "a gradient without bounds": (
        8.4,
        math.inf,
        "a loss of 8.40 nats, where chance is 8.50, a gradient of inf",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_first_step_that_teaches_nothing_fails(name, whole, tmp_path):
    loss, gradient, told = STEPS[name]
    step = FirstStep(rows=1, loss=loss, chance=8.5, gradient=gradient)
    record = audit_dataset(whole[1], tmp_path / "report", 2, first_step=lambda *_: step)
    assert [(c.name, c.detail) for c in record.checks if c.failed_gate] == [
        ("dataset_learned", f"the first rows: {told}")
    ]


def test_a_model_that_is_not_of_the_vocabulary_is_told_by_its_first_step(whole, tmp_path, monkeypatch):
    "Embeddings of another vocabulary give another chance."
    own = first_step_module.new_model
    monkeypatch.setattr(first_step_module, "new_model", lambda space: own(replace(space, audio=(1024,) * 60)))
    record = audit_dataset(whole[1], tmp_path / "report", 2, first_step=first_step_module.first_step)
    assert [c.name for c in record.checks if c.failed_gate] == ["dataset_learned"]


@pytest.fixture(scope="module")
def exported(media, tmp_path_factory):
    "A data set with both splits, and format → its export."
    home = tmp_path_factory.mktemp("exported")
    raw = "".join(json.dumps(line(i)) + "\n" for i in range(20))
    (media / "split.jsonl").write_text(raw)
    made(media / "split.jsonl", home / "data", settings=Settings(eval_per_mille=500))
    counts = [export_shards(home / "data", to, home / to) for to in ("megatron", "ds", "webdataset")]
    rows = {split: [r for r in rows_of(home / "data") if r["split"] == split] for split in ("train", "eval")}
    assert counts == [{split: len(own) for split, own in rows.items()}] * 3 and min(counts[0].values()) > 2
    return home, rows


def mask_of(row):
    found = np.zeros(row["length"], np.uint8)
    for segment in row["segments"]:
        if segment["target"]:
            found[segment["start"] - 1 : segment["start"] + segment["length"] + 1] = 1
    return found.tolist()


@pytest.mark.slow  # Megatron's import takes ten seconds
@pytest.mark.parametrize("split", ["train", "eval"])
def test_megatron_reads_its_export(exported, split):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    home, rows = exported
    ids = IndexedDataset(str(home / "megatron" / split), multimodal=True, mmap=True)
    mask = IndexedDataset(str(home / "megatron" / f"{split}_mask"), multimodal=True, mmap=True)
    assert len(ids) == len(mask) == len(rows[split])
    for i, row in enumerate(rows[split]):
        assert ids[i][0].tolist() == row["input_ids"] and mask[i][0].tolist() == mask_of(row)
        assert ids[i][1] == {"t2a": 2, "a2t": 0}[row["task"]]


def test_an_index_is_laid_out_as_megatron_writes_it(exported):
    home, rows = exported
    raw, n = (home / "megatron" / "train.idx").read_bytes(), len(rows["train"])
    assert struct.unpack_from("<9sQBQQ", raw) == (b"MMIDIDX\0\0", 1, 4, n, n + 1)
    lengths = np.frombuffer(raw, "<i4", n, 34).tolist()
    starts = np.frombuffer(raw, "<i8", n, 34 + 4 * n).tolist()
    assert lengths == [row["length"] for row in rows["train"]]
    assert starts == [4 * sum(lengths[:i]) for i in range(n)]
    assert np.frombuffer(raw, "<i8", n + 1, 34 + 12 * n).tolist() == list(range(n + 1))
    assert len(raw) == 34 + 12 * n + 8 * (n + 1) + n
    ids = np.fromfile(home / "megatron" / "train.bin", "<i4")
    assert ids.tolist() == [i for row in rows["train"] for i in row["input_ids"]]
    mask = np.fromfile(home / "megatron" / "train_mask.bin", "u1")
    assert mask.tolist() == [i for row in rows["train"] for i in mask_of(row)]


def test_webdataset_reads_its_export(exported):
    import webdataset

    home, rows = exported
    for split, own in rows.items():
        tars = sorted(map(str, (home / "webdataset").glob(f"{split}-*.tar")))
        found = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode())
        assert [one["ids.npy"].tolist() for one in found] == [row["input_ids"] for row in own]
        assert [one["json"]["id"] for one in found] == [row["id"] for row in own]
        metas = [[json.loads(segment["meta"]) for segment in row["segments"]] for row in own]
        assert [[segment["meta"] for segment in one["json"]["segments"]] for one in found] == metas


def test_datatrove_reads_its_export(exported):
    from datatrove.utils.dataset import DatatroveFolderDataset

    home, rows = exported
    for split, own in rows.items():
        folder, ids = home / "ds", [i for row in own for i in row["input_ids"]]
        read = DatatroveFolderDataset(
            str(folder), seq_len=31, filename_pattern=f"{split}.ds", token_size=4, shuffle=False
        )
        found = [window["input_ids"].tolist() for window in read]
        assert (
            len(found) == len(ids) // 32 and [i for window in found for i in window] == ids[: 32 * len(found)]
        )
        assert (folder / f"{split}.ds.loss").read_bytes() == bytes(i for row in own for i in mask_of(row))
        ends = np.fromfile(folder / f"{split}.ds.index", "<u8").tolist()
        assert ends == np.cumsum([row["length"] for row in own]).tolist()


def test_exports_are_the_same_bytes_twice_and_name_their_space(exported, tmp_path, uti_here):
    home, _ = exported
    run = uti_here("export", "--dataset", home / "data", "--to", "webdataset", "--out", "again")
    assert run.returncode == 0 and "sequences of train, " in run.stdout, run.stderr
    assert content(tmp_path / "again") == content(home / "webdataset")
    assert load_space(tmp_path / "again" / "token_space.json").codecs.keys() == {"text", "audio"}
    run = uti_here("export", "--dataset", home / "data", "--to", "mds", "--out", "other")
    assert run.returncode == 2 and "no format is named 'mds'" in run.stderr
    run = uti_here("export", "--dataset", home / "ds", "--out", "other")
    assert run.returncode == 2 and not (tmp_path / "other").exists()


def test_a_split_without_sequences_has_no_files(whole, tmp_path):
    assert export_shards(whole[1], "megatron", tmp_path / "out") == {"train": 14}
    names = {path.stem for path in (tmp_path / "out").glob("*.bin")}
    assert names == {"train", "train_mask"}


def test_a_page_shows_what_was_found_and_what_the_ids_decode_to(whole, media, tmp_path, uti_here):
    _, out, _ = whole
    folder = shutil.copytree(out, tmp_path / "data")
    edit(folder, lambda rows: rows[0].update(id="<script>alert(1)</script>"))
    arguments = ("--level", "2", "--media", media, "--name", "set")
    run = uti_here("report", "--dataset", folder, *arguments)
    assert run.stdout.rstrip().endswith("reports/set/index.html"), run.stderr
    page = (tmp_path / "reports" / "set" / "index.html").read_text()
    record = read_dataset_report(tmp_path / "reports" / "set" / "dataset_report.json")
    assert run.returncode == (0 if record.passed else 1)
    assert all(check.sentence in page for check in record.checks)
    assert page.count("<audio") == len([one for one in record.shown if one.file]) == 4
    assert {one.text for one in record.shown if one.text} <= {"before", "words in a file"} | {
        f"no {i}" for i in range(14)
    }
    assert "<script>alert" not in page
    site = (tmp_path / "reports" / "index.html").read_text()
    assert "audit of a data set, 14 sequences" in site


def test_other_columns_and_a_dataset_json_that_lacks_something_are_told(whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "out")
    path = folder / "shard-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["segments"]), path)
    refit(folder, path.stem)
    assert "its columns are not those" in wrong(folder)["dataset_schema"]
    data = json.loads((folder / "dataset.json").read_text())
    del data["shards"][1]["ids_sha256"]
    for broken in (data, {"shards": []}, [], {"recipe": {}, "shards": []}):
        (folder / "dataset.json").write_text(json.dumps(broken))
        with pytest.raises(SourceError, match=r"dataset\.json: not a dataset\.json of this version"):
            audit_shards(folder)


@pytest.mark.parametrize("errors", ["{}", "no JSON", '{"index": 0, "error": "ItemError"}'])
def test_errors_that_cannot_be_or_are_rows_as_well_are_told(whole, tmp_path, errors):
    folder = shutil.copytree(whole[1], tmp_path / "out")
    (folder / "errors.jsonl").write_text(errors)
    assert re.search(r"errors.jsonl: cannot be read|4 rows and 1 errors", wrong(folder)["dataset_complete"])
