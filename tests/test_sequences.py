"""What a language model is given, to the number: orders of codebooks, sequences, rows and what is learned."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uti.space import SpaceError, TokenSpace
from uti.tokens.sequences import (
    IGNORED,
    Example,
    build,
    build_prompt,
    drawn,
    flatten,
    interleave,
    pack,
    pad,
    reading_order,
    runs,
    segment,
    unflatten,
)

SPACE = TokenSpace(text=10, image=(4,), audio=(3, 5))  # specials from 10, images from 74, sounds from 78
TEXT_START, TEXT_END, IMG_START, IMG_END, AUD_START, AUD_END, GEN_TEXT, GEN_IMG, GEN_AUD, PAD = range(10, 20)
NO = IGNORED


@pytest.mark.parametrize(
    ("serialisation", "line"),
    [
        ("interleaved", [0, 10, 1, 11, 2, 12]),
        ("delay", [0, 1, 10, 2, 11, 12]),  # codebook k of position t is read at the time t + k
        ("coarse_first", [0, 1, 2, 10, 11, 12]),
    ],
)
def test_two_codebooks_of_three_positions_in_a_line(serialisation, line):
    ids = torch.tensor([[0, 1, 2], [10, 11, 12]])
    assert flatten(ids, serialisation).tolist() == line
    assert torch.equal(unflatten(torch.tensor(line), serialisation, 2), ids)


def test_an_order_that_is_none_and_a_line_that_cannot_be_divided():
    with pytest.raises(ValueError, match="no serialisation is named 'zigzag'; there are interleaved, delay"):
        reading_order("zigzag", 2, 2)
    with pytest.raises(ValueError, match="7 tokens cannot be 2 codebooks of equal length"):
        unflatten(torch.zeros(7, dtype=torch.int64), "delay", 2)


def test_a_sequence_is_learned_from_its_marker_on():
    example = build(SPACE, "t2a", [78, 81], [1, 2])
    before = [TEXT_START, 1, 2, TEXT_END, GEN_AUD]
    assert example.ids.tolist() == [*before, AUD_START, 78, 81, AUD_END]
    assert example.labels.tolist() == [NO] * 5 + [AUD_START, 78, 81, AUD_END]
    assert example.ids.dtype == example.labels.dtype == np.int64 and example.space is SPACE
    assert build_prompt(SPACE, "t2a", [1, 2]).tolist() == before
    assert build_prompt(SPACE, "image").tolist() == [GEN_IMG]
    assert build(SPACE, "image", []).ids.tolist() == [GEN_IMG, IMG_START, IMG_END]
    assert segment(SPACE, "text", []).dtype == np.int64


@pytest.mark.parametrize(
    ("task", "prompt", "told"),
    [
        ("t2v", None, "no task is named 't2v'; there are t2i, i2t, t2a, a2t, text, image, audio"),
        ("text", [1], "task 'text' takes no prompt"),
        ("t2i", None, "task 't2i' needs a prompt of text"),
        ("t2i", [3, 10], "id 10 at position 1 of the text is not one of its ids"),
        ("a2t", [77], "id 77 at position 0 of the audio is not one of its ids"),
        ("a2t", [85, 86], "id 86 at position 1 of the audio is not one of its ids"),
    ],
)
def test_a_prompt_that_fits_no_task(task, prompt, told):
    with pytest.raises((ValueError, SpaceError), match=re.escape(told)):
        build_prompt(SPACE, task, prompt)


def test_a_document_learns_what_it_is_told_to():
    parts = [("text", [1, 2]), ("image", [74]), ("audio", [78, 81])]
    one = interleave(SPACE, parts, targets=[1])
    text, sound = [TEXT_START, 1, 2, TEXT_END], [AUD_START, 78, 81, AUD_END]
    assert one.ids.tolist() == [*text, GEN_IMG, IMG_START, 74, IMG_END, *sound]
    assert one.labels.tolist() == [NO] * 5 + [IMG_START, 74, IMG_END] + [NO] * 4
    every = interleave(SPACE, parts)
    assert every.ids.tolist() == [GEN_TEXT, *text, GEN_IMG, IMG_START, 74, IMG_END, GEN_AUD, *sound]
    assert every.labels.tolist() == [NO, *text, NO, IMG_START, 74, IMG_END, NO, *sound]
    assert one.space is SPACE and one.ids.dtype == one.labels.dtype == np.int64
    for targets in ([], [3], [0, -1]):
        with pytest.raises(ValueError, match="targets must be places of the 3 parts, got"):
            interleave(SPACE, parts, targets)
    with pytest.raises(SpaceError, match="id 78 at position 0 of the image"):
        interleave(SPACE, [("image", [78])])


def examples(*lengths):
    "Sequences of texts, each with `lengths` ids in all: marker, start, text, end."
    return [build(SPACE, "text", [i % 10] * (n - 3)) for i, n in enumerate(lengths)]


def test_rows_are_filled_in_order_and_say_whose_each_token_is():
    first, second, third = given = examples(4, 5, 6)
    rows = pack(SPACE, given, 10)
    assert rows.ids.tolist() == [[*first.ids, *second.ids, PAD], [*third.ids, *[PAD] * 4]]
    assert rows.labels.tolist() == [[*first.labels, *second.labels, NO], [*third.labels, *[NO] * 4]]
    assert rows.positions.tolist() == [
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 0],
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3],
    ]
    assert rows.attention.tolist() == [[1] * 9 + [0], [1] * 6 + [0] * 4]
    assert rows.sequences.tolist() == [[1] * 4 + [2] * 5 + [0], [1] * 6 + [0] * 4]
    assert len(pack(SPACE, given, 15).ids) == 1 and len(pack(SPACE, given, 14).ids) == 2
    for length, told in (
        (5, "sequence 2 has 6 tokens, more than a row of 5"),
        (3, "sequence 0 has 4 tokens"),
    ):
        with pytest.raises(ValueError, match=told):
            pack(SPACE, given, length)


def test_a_row_each_is_as_long_as_the_longest():
    first, second = given = examples(4, 6)
    rows = pad(SPACE, given)
    assert rows.ids.tolist() == [[*first.ids, PAD, PAD], second.ids.tolist()]
    assert rows.labels.tolist() == [[*first.labels, NO, NO], second.labels.tolist()]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert rows.attention.tolist() == [[1] * 4 + [0] * 2, [1] * 6]
    assert rows.sequences.tolist() == [[1] * 4 + [0] * 2, [1] * 6]


@pytest.mark.parametrize("batch", [lambda: pack(SPACE, [], 8), lambda: pad(SPACE, [])])
def test_nothing_is_no_batch(batch):
    with pytest.raises(ValueError, match=r"^there are no sequences to put into a batch$"):
        batch()


@given(st.lists(st.integers(3, 12), min_size=1, max_size=12), st.integers(12, 40))
def test_every_sequence_is_in_a_row_whole_and_once(lengths, row):
    made = examples(*lengths)
    rows = pack(SPACE, made, row)
    found = [
        Example(ids[sequences == k], labels[sequences == k])
        for ids, labels, sequences in zip(rows.ids, rows.labels, rows.sequences, strict=True)
        for k in range(1, sequences.max() + 1)
    ]
    assert len(found) == len(made)
    for ours, theirs in zip(found, made, strict=True):
        assert np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.labels, theirs.labels)
    assert all(len(r) == row for part in rows for r in part)


def test_runs_name_what_lies_where():
    ids = np.array([TEXT_START, 1, 2, TEXT_END, 74, 77, 78, 85, 80, 73, 72, -1, 86])
    assert runs(SPACE, ids) == [
        ("<|text_start|>", 0, 1),
        ("TEXT", 1, 2),
        ("<|text_end|>", 3, 1),
        ("IMAGE", 4, 2),
        ("AUDIO", 6, 3),
        ("SPECIAL", 9, 2),
        ("outside the vocabulary", 11, 2),
    ]


def test_a_picture_of_a_sequence_shows_lengths_kinds_and_targets():
    page = str(drawn(SPACE, np.array([TEXT_START, 1, 2, 3, 4, -1]), np.array([NO, 1, 2, 3, 4, NO])))
    spans = re.findall(
        r'<span style="flex:([\d.]+) .*?background:(\S+?);.*?solid (\S+?);.*?>(.*?)</span>', page
    )
    assert spans == [
        ("1.0", "#dddddd", "transparent", "&lt;|text_start|&gt;"),
        ("2.0", "#9ecae9", "#333333", "text, 4"),
        ("1.0", "#ff9896", "transparent", "outside the vocabulary, 1"),
    ]
    assert re.findall(r'title="(.*?)"', page) == ["position 0", "position 1", "position 5"]
    assert "solid #333333" not in drawn(SPACE, np.array([1, 2]))  # nobody said what is learned
    example = build(SPACE, "text", [1])
    assert example._repr_html_() == str(drawn(SPACE, example.ids, example.labels))
    assert Example(example.ids, example.labels)._repr_html_().startswith("<pre>Example(ids=array([16, 10,")
