"""The grammar admits what can be decoded, refuses everything else by its position, and its legal steps lead
nowhere else.
"""

import random

import numpy as np
import pytest
import torch
from checkpoints import STEREO, liven
from hypothesis import given, settings
from hypothesis import strategies as st

from uti.space import TokenSpace, to_codes, to_ids
from uti.tokens.grammar import Grammar, Reader, SequenceError, grammar_from_dict, grammar_to_dict, parse
from uti.tokens.sequences import SORT_KEYS, TASKS, build, flatten, unflatten
from uti.tokens.tokenizer import TokenizerError, UnifiedTokenizer

SPACE = TokenSpace(text=60, image=(20, 30), audio=(5, 6, 7))
LENGTHS = {"text": range(0, 7), "image": [4], "audio": (1, 2, 5)}


def grammar(serialisation="interleaved"):
    return Grammar(SPACE, serialisation, LENGTHS)


def signal(modality: str, rng: np.random.Generator, serialisation: str) -> np.ndarray:
    """Global ids of a random segment that is well-formed by construction: through codes, not through the
    grammar.
    """
    sizes = {"text": (60,), "image": (20, 30), "audio": (5, 6, 7)}[modality]
    n = int(rng.choice(list(LENGTHS[modality])))
    codes = torch.from_numpy(np.stack([rng.integers(0, size, n) for size in sizes]))
    return flatten(to_ids(SPACE, modality, codes), serialisation).numpy()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(SORT_KEYS)),
    st.lists(st.sampled_from(sorted(TASKS)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_what_is_built_is_parsed_back(seed, serialisation, tasks, padding):
    rng, pieces, ids = np.random.default_rng(seed), [], []
    for task in tasks:
        prompt, target = TASKS[task]
        given_ids = signal(prompt, rng, serialisation) if prompt else None
        wanted = signal(target, rng, serialisation)
        pieces += [(prompt, given_ids, False)] * bool(prompt) + [(target, wanted, True)]
        ids.append(build(SPACE, task, wanted, given_ids).ids)
    found = parse(
        grammar(serialisation), np.concatenate([*ids, np.full(padding, SPACE.special["<|pad_mm|>"])])
    )
    assert [(s.modality, s.ids.tolist(), s.marked) for s in found] == [
        (m, i.tolist(), marked) for m, i, marked in pieces
    ]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SORT_KEYS)))
def test_every_legal_walk_decodes_to_codes(seed, serialisation):
    rng, reader = random.Random(seed), Reader(grammar(serialisation))
    for _ in range(400):
        if reader.complete and reader.segments and rng.random() < 0.2:
            break
        choices = [r for r in reader.allowed() if SPACE.special["<|pad_mm|>"] not in r]
        reader.push(rng.choice(rng.choice(choices)))
    else:
        return  # still inside a segment: nothing to say
    for s in reader.close():
        codes = to_codes(
            SPACE,
            s.modality,
            unflatten(torch.from_numpy(s.ids), serialisation, len(SPACE.modality_ranges(s.modality))),
        )
        assert codes.shape[-1] in LENGTHS[s.modality]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SORT_KEYS)), st.sampled_from(["t2i", "t2a", "i2t"]))
def test_one_id_changed_is_legal_there_or_refused_there_or_later(seed, serialisation, task):
    rng = np.random.default_rng(seed)
    prompt, target = TASKS[task]
    ids = build(SPACE, task, signal(target, rng, serialisation), signal(prompt, rng, serialisation)).ids
    at, wrong = int(rng.integers(len(ids))), int(rng.integers(-2, SPACE.vocab_size_total + 2))
    reader = Reader(grammar(serialisation))
    for token_id in ids[:at].tolist():
        reader.push(token_id)
    legal = any(wrong in r for r in reader.allowed())
    changed = np.where(np.arange(len(ids)) == at, wrong, ids)
    try:
        parse(grammar(serialisation), changed)
        assert legal
    except SequenceError as error:
        place = int(str(error).split("position ")[1].split(":")[0].split(",")[0])
        assert place == at if not legal else place > at


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_sequence_that_ends_inside_a_picture_is_refused(cut):
    ids = build(SPACE, "image", signal("image", np.random.default_rng(0), "interleaved")).ids[:-cut]
    with pytest.raises(
        SequenceError,
        match=(
            rf"ends at position {len(ids)}, inside the image that began at position 1, after {8 - cut + 1} "
            r"of its ids"
        ),
    ):
        parse(grammar(), ids)


def test_a_modality_that_the_grammar_does_not_have():
    without = Grammar(SPACE, "interleaved", {"text": range(3)})
    with pytest.raises(SequenceError, match=r"position 0: <\|img_start\|> where"):
        parse(
            without, build(SPACE, "image", signal("image", np.random.default_rng(0), "interleaved")).ids[1:]
        )


def test_a_grammar_comes_back_from_json():
    for g in (grammar(), grammar("delay")):
        assert grammar_from_dict(SPACE, grammar_to_dict(g)) == g


def test_sounds_in_chunks_have_only_the_lengths_that_they_can_have(tmp_path):
    """EnCodec at 48 kHz encodes overlapping chunks: not every number of positions is one that a sound makes,
    and the grammar admits only those.
    """
    import transformers

    from uti.codecs.hf.audio import HFAudio
    from uti.lm.data import grammar_of

    torch.manual_seed(0)
    config = transformers.EncodecConfig(
        **{
            **STEREO,
            "sampling_rate": 4800,
            "chunk_length_s": 0.5,
            "overlap": 0.1,
            "num_filters": 4,
            "hidden_size": 8,
            "codebook_size": 16,
            "upsampling_ratios": [4, 5, 4, 2],
        }
    )
    liven(transformers.EncodecModel(config).eval()).save_pretrained(tmp_path)
    codec = HFAudio(tmp_path)
    tokenizer = UnifiedTokenizer({"audio": codec})
    lengths = codec.sound_lengths(60)
    assert grammar_of(tokenizer, text_tokens=1, audio_positions=60).lengths["audio"] == tuple(lengths)
    missing = sorted(set(range(1, 60)) - set(lengths))
    assert missing, "the chunks of this config overlap, so some lengths must be impossible"
    for n_positions, n_samples in lengths.items():
        books = torch.arange(n_positions * codec.spec.n_codebooks) % codec.spec.n_codebooks
        ids = books * 16 + tokenizer.space.ranges["AUDIO_CB0"].start
        wave, rate = tokenizer.decode_audio(ids, tokenizer.generated_meta("audio", ids))
        assert wave.shape == (2, n_samples) and rate == 4800
    with pytest.raises(TokenizerError, match="no audio makes"):
        tokenizer.generated_meta("audio", ids[:1].expand(missing[0] * codec.spec.n_codebooks))
