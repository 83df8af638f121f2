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
from uti.tokens.grammar import (
    Grammar,
    Reader,
    SequenceError,
    grammar_from_dict,
    grammar_to_dict,
    parse,
    walk,
)
from uti.tokens.sequences import SHORT, SORT_KEYS, TASKS, build, flatten, unflatten
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


@settings(max_examples=100, deadline=None)
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
    line = np.concatenate([*ids, np.full(padding, SPACE.special["<|pad_mm|>"])])
    found = parse(grammar(serialisation), line)
    assert [(s.modality, s.ids.tolist(), s.marked) for s in found] == [
        (m, i.tolist(), marked) for m, i, marked in pieces
    ]
    for segment in found:
        start, stop = segment.position, segment.position + len(segment.ids)
        assert segment.ids.dtype == np.int64 and segment.ids.tolist() == line[start:stop].tolist()
        assert _name(line[start - 1]) == f"<|{SHORT[segment.modality]}_start|>"


@pytest.mark.parametrize("n_codebooks", [1, 2, 3])
@pytest.mark.parametrize("serialisation", sorted(SORT_KEYS))
def test_sounds_of_any_number_of_codebooks_may_have_each_of_their_lengths(serialisation, n_codebooks):
    space = TokenSpace(text=2, audio=(5,) * n_codebooks)
    g = Grammar(space, serialisation, {"audio": (1, 2, 4, 5)})
    for n in range(7):
        codes = torch.arange(n_codebooks * n).view(n_codebooks, n) % 5
        ids = build(space, "audio", flatten(to_ids(space, "audio", codes), serialisation).numpy()).ids
        if n in g.lengths["audio"]:
            assert len(parse(g, ids)[0].ids) == n * n_codebooks
        else:
            with pytest.raises(SequenceError):
                parse(g, ids)


def test_what_may_stand_there_is_said():
    g, special = grammar(), SPACE.special
    start = special["<|text_start|>"]
    with pytest.raises(SequenceError) as error:
        parse(g, [start, 1, special["<|img_end|>"]])
    assert str(error.value) == (
        "position 2: <|img_end|> where TEXT or <|text_end|> must stand, inside the text that began at "
        "position 0, after 1 of its ids"
    )
    with pytest.raises(SequenceError, match="position 0: id -1, outside the vocabulary of 192 where"):
        parse(g, [-1])


def well_formed(ids: list[int], serialisation: str) -> bool:
    "Whether a document may read so, by its specials and its codes, without the grammar."
    special, at = SPACE.special, 0
    names = {special[f"<|{s}_start|>"]: (m, special[f"<|{s}_end|>"]) for m, s in SHORT.items()}
    markers = {special[f"<|gen_{s}|>"]: special[f"<|{s}_start|>"] for s in SHORT.values()}
    while at < len(ids):
        if ids[at] == special["<|pad_mm|>"]:
            return set(ids[at:]) == {ids[at]}
        if ids[at] in markers:
            if ids[at + 1 : at + 2] != [markers[ids[at]]]:
                return False
            at += 1
        if ids[at] not in names:
            return False
        modality, end = names[ids[at]]
        if end not in ids[at:]:
            return False
        stop = ids.index(end, at)
        try:
            n_books = len(SPACE.modality_ranges(modality))
            grid = unflatten(torch.tensor(ids[at + 1 : stop], dtype=torch.int64), serialisation, n_books)
            n_positions = to_codes(SPACE, modality, grid).shape[-1]
        except ValueError:  # a SpaceError is one
            return False
        if n_positions not in LENGTHS[modality]:
            return False
        at = stop + 1
    return True


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(SORT_KEYS)), st.integers(1, 4))
def test_a_walk_is_well_formed(seed, serialisation, n):
    rng, g = random.Random(seed), grammar(serialisation)
    marker = SPACE.special[rng.choice(["<|gen_text|>", "<|gen_img|>", "<|gen_aud|>"])]
    ids = walk(g, rng, n, [marker])
    assert well_formed(ids, serialisation) and len(parse(g, ids)) == n


def _name(token_id: int) -> str:
    return next(name for name, i in SPACE.special.items() if i == token_id)


MUTATIONS = {
    "change": lambda ids, i, j, token: [*ids[:i], token, *ids[i + 1 :]],
    "drop": lambda ids, i, j, token: [*ids[:i], *ids[i + 1 :]],
    "insert": lambda ids, i, j, token: [*ids[:i], token, *ids[i:]],
    "swap": lambda ids, i, j, token: [
        ids[j] if k == i else ids[i] if k == j else one for k, one in enumerate(ids)
    ],
}


@settings(max_examples=250, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(SORT_KEYS)),
    st.sampled_from(["t2i", "t2a", "i2t", "a2t"]),
    st.sampled_from(sorted(MUTATIONS)),
)
def test_every_mutation_is_refused_at_its_place_or_is_legal(seed, serialisation, task, mutation):
    rng, g = np.random.default_rng(seed), grammar(serialisation)
    prompt, target = TASKS[task]
    ids = build(SPACE, task, signal(target, rng, serialisation), signal(prompt, rng, serialisation)).ids
    i, j = sorted(rng.integers(len(ids), size=2).tolist())
    token = int(rng.choice([rng.integers(-2, SPACE.vocab_size_total + 2), ids[j]]))  # or one of another place
    changed = MUTATIONS[mutation](ids.tolist(), i, j, token)
    legal = well_formed(changed, serialisation)
    reader, read = Reader(g), 0
    try:
        for token_id in changed:
            reader.push(token_id)
            read += 1
        reader.close()
        assert legal
    except SequenceError as error:
        place = int(str(error).split("position ")[1].split(":")[0].split(",")[0])
        assert not legal and place == read >= i


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


@pytest.mark.parametrize("lengths", [(), (2, 1), (1, 1), (-1, 3)])
def test_lengths_are_ascending_numbers_of_positions(lengths):
    with pytest.raises(SequenceError, match="the lengths of text must be ascending numbers of positions"):
        Grammar(SPACE, "delay", {"text": lengths})


def test_a_grammar_comes_back_from_json():
    for g in (grammar(), grammar("delay")):
        assert grammar_from_dict(SPACE, grammar_to_dict(g)) == g
    some = Grammar(SPACE, "delay", {"text": range(3, 8), "audio": (1, 2, 5)})
    data = {"serialisation": "delay", "lengths": {"text": {"from": 3, "to": 7}, "audio": [1, 2, 5]}}
    assert grammar_to_dict(some) == data and grammar_from_dict(SPACE, data) == some


def test_sounds_in_chunks_have_only_the_lengths_that_they_can_have(tmp_path):
    """EnCodec at 48 kHz encodes overlapping chunks: not every number of positions is one that audio makes,
    and the grammar admits only those.
    """
    import transformers

    from uti.lm.data import grammar_of
    from uti.zoo.hf.audio import HFAudio

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
    lengths = codec.audio_lengths(60)
    assert grammar_of(tokenizer, text_tokens=1, audio_positions=60).lengths["audio"] == tuple(lengths)
    missing = sorted(set(range(1, 60)) - set(lengths))
    assert missing, "the chunks of this config overlap, so some lengths must be impossible"
    for n_positions, n_samples in lengths.items():
        books = torch.arange(n_positions * codec.spec.n_codebooks) % codec.spec.n_codebooks
        ids = books * 16 + tokenizer.space.ranges["AUDIO_CB0"].start
        audio = tokenizer.decode_audio(ids, tokenizer.generated_meta("audio", ids))
        assert audio.wave.shape == (2, n_samples) and audio.rate == 4800
    with pytest.raises(TokenizerError, match="no audio makes"):
        tokenizer.generated_meta("audio", ids[:1].expand(missing[0] * codec.spec.n_codebooks))
