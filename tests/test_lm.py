"""The language model: grown to the space, trained on rows that do not leak, interrupted, killed, shared out,
and asked for what is legal.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from broken_shards import edit
from filelock import FileLock
from language import GRAMMAR, SPACE, language
from safetensors.torch import load_file, save_file

from uti.lm.data import LMError, save_dataset
from uti.lm.generate import GrammarProcessor, generate, longest_target, outcome, prompt_of
from uti.lm.model import (
    joined,
    keeps_apart,
    load_model,
    make_model,
    new_model,
    resize_embeddings,
    target_losses,
    text_model,
)
from uti.lm.smoke import kill
from uti.lm.train import MANIFEST, PackedRows, last_checkpoint, losses, train
from uti.space import TokenSpace, load_space
from uti.tokens.grammar import Grammar, SequenceError, parse
from uti.tokens.sequences import SHORT, Example, pack

MODELS = {
    "llama, tied": lambda n: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=n,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
    ),
    "gemma 3, sliding": lambda n: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            vocab_size=n,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            sliding_window=8,
        )
    ),
    "gpt-2, learned positions": lambda n: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    ),
    "qwen 3": lambda n: text_model(n, hidden_size=32),
}


@pytest.fixture(scope="session", params=MODELS)
def checkpoint(request, tmp_path_factory):
    "A text model with 180 rows, of which 100 are the text tokenizer's."
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    MODELS[request.param](180).save_pretrained(folder)
    return folder


def test_packed_or_alone_a_sequence_has_the_same_loss(checkpoint):
    data, model = language(12), resize_embeddings(load_model(checkpoint, SPACE), SPACE)
    together = target_losses(model, SPACE, data.examples, 64)
    for example, found in zip(data.examples, together, strict=True):
        alone = target_losses(model, SPACE, [example], 64)[0]
        bare = model(
            input_ids=torch.from_numpy(example.ids[None]), labels=torch.from_numpy(example.labels[None])
        ).loss.item()
        assert found.loss == pytest.approx(alone.loss, abs=1e-4)
        assert found.loss.mean() == pytest.approx(bare, abs=1e-4)


APART = {
    "mamba": lambda n: transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=n, hidden_size=32, num_hidden_layers=2)
    ),
    "mpt, alibi": lambda n: transformers.MptForCausalLM(
        transformers.MptConfig(vocab_size=n, d_model=32, n_heads=2, n_layers=2)
    ),
    "opt, whose trunk is inside": lambda n: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=n, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
            word_embed_proj_dim=32,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", APART)
def test_a_model_whose_sequences_would_see_each_other_gets_one_a_row(kind, tmp_path):
    torch.manual_seed(0)
    data, model = language(12, steps=1), APART[kind](SPACE.vocab_size_total).eval()
    assert not keeps_apart(model, SPACE, data.examples)
    rows = PackedRows(data, model)
    assert sorted(row["position_ids"].shape[1] for row in rows) == sorted(len(e.ids) for e in data.examples)
    for example, found in zip(data.examples, target_losses(model, SPACE, data.examples, 64), strict=True):
        with torch.no_grad():
            bare = model(
                input_ids=torch.from_numpy(example.ids[None]), labels=torch.from_numpy(example.labels[None])
            ).loss.item()
        assert found.loss.mean() == pytest.approx(bare, abs=1e-4)
    assert len(losses(train(data, tmp_path / "run", model=model))) == 1


def test_a_loss_that_is_no_number_ends_the_run_in_a_sentence(tmp_path):
    data = language(steps=6, learning_rate=1e30)
    told = r"step \d: the (loss|gradient) is (nan|inf), at a learning rate of .*e\+\d\d; training stopped"
    with pytest.raises(LMError, match=told):
        train(data, tmp_path, save_every=1)
    for folder in tmp_path.glob("checkpoint-*"):
        assert all(w.isfinite().all() for w in load_file(folder / "model.safetensors").values())


def test_what_is_no_checkpoint_of_ours_is_left_alone_or_said(tmp_path):
    mine = [tmp_path / name for name in ("checkpoint-best", "checkpoint-²", "checkpoint-")]
    for folder in mine:
        folder.mkdir()
    train(language(steps=4), tmp_path, save_every=1)
    assert all(folder.is_dir() for folder in mine)
    assert {p.name for p in tmp_path.glob("checkpoint-*")} - {p.name for p in mine} == {
        "checkpoint-3", "checkpoint-4"
    }  # fmt: skip
    (tmp_path / "checkpoint-9").write_text("mine")
    with pytest.raises(LMError, match="checkpoint-9: not a whole checkpoint"):
        train(language(steps=4), tmp_path)
    assert (tmp_path / "checkpoint-9").read_text() == "mine"


def test_a_folder_is_trained_into_by_one_run_at_a_time(tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(LMError, match="another run trains into this folder at the moment"),
    ):
        train(language(steps=1), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("n", [2, 20])
def test_the_loss_of_a_step_is_the_mean_over_its_targets(n, checkpoint, tmp_path):
    "A count of the labels that leaves out the first of a row would make it larger."
    n_rows = len(pack(SPACE, language(n).examples, 64).ids)
    data = language(n, checkpoint=str(checkpoint), steps=1, rows_per_step=n_rows)
    model = make_model(data.config.smoke, SPACE)
    for dropout in (m for m in model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    expected = joined(target_losses(model, SPACE, data.examples, 64)).loss.mean()
    assert losses(train(data, tmp_path / "run", model=model)) == pytest.approx([expected], abs=1e-5)


def test_any_model_writes_what_is_legal(checkpoint):
    data, model = language(6), resize_embeddings(load_model(checkpoint, SPACE), SPACE).eval()
    for temperature in (0.0, 1.0, 50.0):
        for ids in generate(model, GRAMMAR, [prompt_of(e) for e in data.examples], temperature=temperature):
            assert outcome(GRAMMAR, ids).target.modality == "image"


WAYS = {
    "many": {"do_sample": True, "num_return_sequences": 5},
    "hot": {"do_sample": True, "temperature": 1000.0, "top_k": 1},
    "nucleus": {"do_sample": True, "top_p": 0.01, "repetition_penalty": 5.0},
    "no repetition": {"do_sample": True, "no_repeat_ngram_size": 1},
    "no end": {"suppress_tokens": [end.start for _, end, _ in GRAMMAR.tokens.values()]},
    "late": {"do_sample": True, "min_new_tokens": 60},
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("marker", ["<|gen_img|>", "<|gen_aud|>", "<|gen_text|>"])
def test_the_grammar_holds_however_transformers_generates(how, marker):
    torch.manual_seed(0)
    model = new_model(SPACE, hidden_size=32).eval()
    longest = longest_target(GRAMMAR)
    prompts = torch.tensor([
        [SPACE.special[t] for t in ("<|pad_mm|>", "<|pad_mm|>", marker)],
        [SPACE.special[t] for t in ("<|text_start|>", "<|text_end|>", marker)],
    ])  # fmt: skip
    found = model.generate(
        prompts,
        attention_mask=torch.tensor([[0, 0, 1], [1, 1, 1]]),
        logits_processor=transformers.LogitsProcessorList([GrammarProcessor(GRAMMAR)]),
        max_new_tokens=longest,
        eos_token_id=[end.start for _, end, _ in GRAMMAR.tokens.values()],
        pad_token_id=SPACE.special["<|pad_mm|>"],
        **WAYS[how],
    )
    assert len(found) == 2 * WAYS[how].get("num_return_sequences", 1)
    for row in found.tolist():
        ids = row[2:] if row[0] == SPACE.special["<|pad_mm|>"] else row
        (*_, last) = parse(GRAMMAR, ids)
        assert f"<|gen_{SHORT[last.modality]}|>" == marker


def test_a_processor_serves_one_call():
    bound, scores = GrammarProcessor(GRAMMAR), torch.zeros(1, SPACE.vocab_size_total)
    bound(torch.tensor([[SPACE.special["<|gen_img|>"]]]), scores)
    for other in ([SPACE.special["<|gen_aud|>"], SPACE.special["<|aud_start|>"]], []):
        with pytest.raises(SequenceError, match="serves one call of generate"):
            bound(torch.tensor([other], dtype=torch.int64), scores)


@pytest.mark.parametrize("rows_per_step", [1, 2])
def test_resumed_is_not_to_be_told_from_uninterrupted(rows_per_step, tmp_path):
    data = language(rows_per_step=rows_per_step)
    whole = train(data, tmp_path / "whole")
    train(data, tmp_path / "halves", stop_after=5)
    resumed = train(data, tmp_path / "halves", model=new_model(SPACE, seed=9))
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 12
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(
        whole.optimizer.state_dict()["state"].values(),
        resumed.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_ctrl_c_saves_after_the_step(tmp_path):
    def interrupt(step, steps, what):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(language(), tmp_path / "run", progress=interrupt)
    assert last_checkpoint(tmp_path / "run").name in ("checkpoint-5", "checkpoint-6")
    assert losses(train(language(), tmp_path / "run")) == losses(train(language(), tmp_path / "whole"))


def test_a_checkpoint_knows_what_it_belongs_to(tmp_path):
    data = language(steps=6)
    train(data, tmp_path, save_every=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6", "tensorboard"]
    last = last_checkpoint(tmp_path)
    assert load_space(last / "token_space.json") == SPACE and (last / "uti.yaml").is_file()
    assert set(json.loads((last / MANIFEST).read_text())["sha256"]) == {p.name for p in last.iterdir()} - {
        MANIFEST
    }


def test_the_logs_are_tensorboards(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = train(language(steps=5), tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [e.value for e in found.Scalars("train/loss")] == pytest.approx(losses(trainer))


@pytest.mark.slow  # torch.distributed, which is of others
def test_two_processes_have_the_losses_of_one(tmp_path):
    data = language(rows_per_step=2, steps=5)
    save_dataset(data, tmp_path / "data")
    alone = losses(train(data, tmp_path / "one"))
    # the loopback by its number: a machine need not be able to look up its own name
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
        "--no-python",
        "--nproc-per-node",
        "2",
    ]
    program = [
        sys.executable,
        "-c",
        "from uti.cli.main import main; main()",
        "train",
        "--data",
        str(tmp_path / "data"),
        "--outdir",
        str(tmp_path / "two"),
    ]
    run = subprocess.run(
        [*launcher, *program],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    together = [
        e["loss"]
        for e in json.loads((last_checkpoint(tmp_path / "two") / "trainer_state.json").read_text())[
            "log_history"
        ]
        if "loss" in e
    ]
    assert len(alone) == 5 and together == pytest.approx(alone, abs=1e-6)


def test_rows_that_cannot_be_shared_out_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LMError, match="3 rows a step cannot be shared out over 2 processes"):
        train(language(rows_per_step=3), tmp_path)


@pytest.mark.slow  # the smoke tests kill as well
def test_killed_at_a_step_and_during_a_save(tmp_path):
    kills, difference = kill(language(steps=8), tmp_path / "killed", [{"at_step": 3}, {"during_save": True}])
    assert all(k.survived for k in kills) and difference.none, (kills, difference)
    assert [k.when for k in kills] == ["at a random step", "during a save"]
    assert not (tmp_path / "killed" / "run" / ".saving").exists()


@pytest.mark.slow
def test_twenty_random_kills(tmp_path):
    "Four runs, each killed five times, at random steps and while a checkpoint is being written."
    data, rng = language(steps=30), random.Random()
    for i in range(4):
        plans = [
            {"during_save": True} if (i + j) % 2 else {"at_step": 5 * j + rng.randint(1, 5)} for j in range(5)
        ]
        kills, difference = kill(data, tmp_path / str(i), plans)
        assert len(kills) == 5 and all(k.survived for k in kills) and difference.none, (kills, difference)
        print(f"{[(k.when, k.killed_at, k.resumed_at) for k in kills]}: {difference.said}")


# What is wrong is one sentence.


def ruin_space(folder):
    other = TokenSpace(text=100, image=(60,), audio=(10, 10))
    from uti.space import save_space

    save_space(other, folder / "run" / "checkpoint-2" / "token_space.json")
    manifest = folder / "run" / "checkpoint-2" / MANIFEST
    import hashlib

    digests = json.loads(manifest.read_text())
    for name in ("token_space.json", "token_space.sha256"):
        digests["sha256"][name] = hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(digests))


def cut_weights(folder):
    path = folder / "run" / "checkpoint-2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_manifest(folder):
    (folder / "run" / "checkpoint-2" / MANIFEST).unlink()


def forget_images(folder):
    path = folder / "data" / "grammar.json"
    data = json.loads(path.read_text())
    del data["lengths"]["image"]
    path.write_text(json.dumps(data))


def alter_rows(folder):
    "Leave a row out, and every hash as it was."
    path = folder / "data" / "shard-00000.parquet"
    file = pq.ParquetFile(path)
    pq.write_table(file.read().slice(1).replace_schema_metadata(file.metadata.metadata), path)


def pipe(folder):
    (folder / "data" / "shard-00000.parquet").unlink()
    os.mkfifo(folder / "data" / "shard-00000.parquet")


def earlier(folder):
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    save_file({"ids": torch.arange(9)}, folder / "data" / "sequences.safetensors")


WRONG = {
    "a checkpoint of another token space": (
        ruin_space,
        (
            r"a checkpoint of another token space or codec: IMAGE: \[164, 214\), 50 ids here, \[164, 224\), "
            r"60 ids there; .*--allow-other-token-space"
        ),
    ),
    "a truncated checkpoint": (
        cut_weights,
        r"checkpoint-2: not a whole checkpoint: model.safetensors is missing, cut short or changed",
    ),
    "a checkpoint without its manifest": (lose_manifest, r"checkpoint-2: not a whole checkpoint"),
    "an altered grammar": (forget_images, r"data/grammar.json: is not as it was written, its sha256 .*"),
    "a row that is missing": (alter_rows, r"data: shard-00000: 19 rows; dataset.json says 20"),
    "a pipe in place of a shard": (pipe, r"data: shard-00000: .*shard-00000.parquet: no such file"),
    "a folder of an earlier version": (
        earlier,
        r"data: was written by an earlier version of UTI, .* uti dataset",
    ),
    "no dataset": (lambda f: shutil.rmtree(f / "data"), r"data/dataset.json: cannot be read"),
    "a task that there is not": (
        lambda f: save_dataset(language(20, steps=2, weights={"t2a": 2}), f / "data"),
        r"no sequence is of task 't2a', which has a weight; there are t2i",
    ),
    "another hash": (
        lambda f: (f / "data" / "token_space.sha256").write_text("0" * 64),
        r"its hash is not the one in token_space.sha256",
    ),
    "a checkpoint of another model": (
        lambda f: wider(f),
        (
            r"checkpoint-2: a checkpoint of another model: model.embed_tokens.weight is \[234, 64\] there "
            r"and \[234, 96\] here, and \d+ more differ"
        ),
    ),
    "a checkpoint of another run": (
        lambda f: save_dataset(language(20, steps=3), f / "data"),
        r"checkpoint-2: a checkpoint of another run: smoke.steps was 2 there and is 3 here",
    ),
    "a checkpoint of other sequences": (
        lambda f: save_dataset(language(19, steps=2), f / "data"),
        r"checkpoint-2: a checkpoint of another run: sequences was '\w+' there",
    ),
    "a model with too few positions": (
        lambda f: few_positions(f),
        r"short: has positions for 12 tokens, and a sequence has \d+",
    ),
    "a row too short": (
        lambda f: save_dataset(language(3, row_length=8), f / "data"),
        r"smoke.row_length: the shortest of 3 sequences has \d+ tokens, more than a row of 8",
    ),
}


def wider(folder):
    text_model(SPACE.text, hidden_size=96).save_pretrained(folder / "wide")
    save_dataset(language(20, steps=2, checkpoint=str(folder / "wide")), folder / "data")


def few_positions(folder):
    config = transformers.GPT2Config(
        vocab_size=SPACE.vocab_size_total, n_embd=32, n_layer=1, n_head=2, n_positions=12
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "short")
    save_dataset(language(20, steps=2, checkpoint=str(folder / "short")), folder / "data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A dataset, and a run of two steps on it; each test gets a copy."
    folder, data = tmp_path_factory.mktemp("trained"), language(20, steps=2)
    save_dataset(data, folder / "data")
    train(data, folder / "run")
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_one_sentence_and_exit_2(name, trained, uti_here, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    spoil, told = WRONG[name]
    spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = uti_here("train", "--data", "data", "--outdir", "run")
    assert result.returncode == 2, result.stdout
    assert (
        result.stderr.count("\n") == 1
        and result.stderr.startswith("error: ")
        and re.search(told, result.stderr)
    ), result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def beyond(rows):
    rows[3]["input_ids"][rows[3]["segments"][0]["start"]] = 10**6


def longer(rows):
    rows[3]["input_ids"] = [*rows[3]["input_ids"], 7]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            beyond,
            r"shard-00000.parquet: row group 0, row 3 \(00000003\): id 1000000 is beyond the 234 of the",
        ),
        (longer, r"row group 0, row 3 \(00000003\): \d+ ids, and a length of \d+"),
    ],
)
def test_a_sequence_that_is_wrong_is_named_when_it_is_read(change, told, uti_here, tmp_path):
    save_dataset(language(20, steps=2, rows_per_step=20), tmp_path / "data")
    edit(tmp_path / "data", change)
    (tmp_path / "data" / "uti_manifest.json").unlink()  # else it says that dataset.json was changed
    result = uti_here("train", "--data", "data", "--outdir", "run")
    assert result.returncode == 2 and re.search(told, result.stderr) and result.stderr.count("\n") == 1
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda x: np.where(np.arange(len(x)) == len(x) - 3, 234, x),
            "id 234, outside the vocabulary of 234",
        ),
        (lambda x: x[:-4], r"ends at position \d+, inside the image that .* after 6 of its ids"),
        (lambda x: np.where(x == SPACE.special["<|gen_img|>"], 104, x)[:-12], "has no target: no marker"),
    ],
)
def test_sequences_that_are_none_are_not_written(change, told, tmp_path):
    data = language(3)
    changed = Example(*map(change, data.examples[0][:2]))
    with pytest.raises(LMError, match=f"sequence 1.* {told}"):
        save_dataset(replace(data, examples=[data.examples[1], changed]), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_another_token_space_can_be_allowed_by_name(trained, uti_here, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    ruin_space(tmp_path)
    result = uti_here("train", "--data", "data", "--outdir", "run", "--allow-other-token-space")
    assert result.returncode == 0, result.stderr


def test_grown_a_model_says_the_same_of_text(checkpoint):
    old, ids = load_model(checkpoint, SPACE).eval(), torch.arange(60)[None]
    grown = resize_embeddings(load_model(checkpoint, SPACE), SPACE).eval()
    with torch.inference_mode():
        assert torch.equal(grown(input_ids=ids).logits[..., :100], old(input_ids=ids).logits[..., :100])
    assert grown.get_output_embeddings().weight[180:].std() > 0.01


def test_an_encoder_that_loads_as_a_language_model_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=180, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(LMError, match="what it says at a place depends on what stands after it"):
        load_model(tmp_path, SPACE)


def test_a_text_model_with_too_few_rows(checkpoint):
    with pytest.raises(LMError, match="its 180 embeddings are fewer than the 500 ids of text"):
        load_model(checkpoint, TokenSpace(text=500))


def test_grammar_of_another_space_is_refused():
    with pytest.raises(ValueError, match="has no 'audio'"):
        Grammar(TokenSpace(text=10), "interleaved", {"audio": [1]})
