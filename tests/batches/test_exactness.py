"""Every sequence once an epoch, in the same steps, for any ranks, resume point and unit size."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmae.batches.evaluation import evaluation_batches
from cvmae.batches.masking import evaluation_hidden, sample_hidden
from cvmae.meds.reading import read_unit
from cvmae.meds.splits import SPLITS
from tests.batches.numbered_rows import (
    RATIO,
    SECONDS,
    WEIGHT_C,
    Case,
    Step,
    Subject,
    Written,
    kinds_of,
    opened,
    shards_of,
    windows_of,
    write,
)


def cut(rows: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Cut a subject into as few consecutive windows as can be, the longer ones first."""
    if len(rows) < 2:
        return []
    parts = np.array_split(np.array(rows), -(-len(rows) // length))
    return [tuple(part.tolist()) for part in parts]


def assert_every_sequence_comes_once(data: Written, steps: Sequence[Step]) -> None:
    found = Counter(window.rows for step in steps for window in step)
    assert max(found.values(), default=1) == 1, "a sequence was seen twice"
    length = data.case.sequence_length
    if not data.case.crop:
        assert set(found) == {part for own in data.rows_of.values() for part in cut(own, length)}
        return
    subject_of = {row: subject for subject, own in data.rows_of.items() for row in own}
    crops = {subject_of[rows[0]]: rows for rows in found}
    assert len(crops) == len(found), "a subject was seen twice"
    assert set(crops) == {subject for subject, own in data.rows_of.items() if len(own) > 1}
    for subject, rows in crops.items():
        own = data.rows_of[subject]
        first = own.index(rows[0])
        assert rows == tuple(own[first : first + length])
        assert len(rows) == min(length, len(own))


def assert_content_is_that_of_the_rows(data: Written, steps: Sequence[Step]) -> None:
    """Compare codes, times and masks with those of each sequence alone."""
    place_of = {
        row: (subject, place)
        for subject, own in data.rows_of.items()
        for place, row in enumerate(own)
    }
    for window in itertools.chain.from_iterable(steps):
        rows = np.array(window.rows)
        assert window.codes == tuple((rows % 3).tolist())
        minutes = (rows - rows[0]) * SECONDS // 60
        assert window.hours == tuple((minutes.astype(np.float32) / np.float32(60)).tolist())
        subject, place = place_of[window.rows[0]]
        alone = sample_hidden(
            subject_id_W=np.array([subject]),
            first_position_W=np.array([place]),
            length_W=np.array([len(rows)]),
            weight_N=WEIGHT_C[rows % 3],
            ratio=RATIO,
            seed=0,
            epoch=data.case.epoch,
        )
        assert window.hidden == tuple(alone.tolist())


CASES = {
    "fewer subjects than lanes": Case(shards=[[Subject(5), Subject(9, 2)]], lanes=8),
    "one giant subject": Case(
        shards=shards_of([3, 2, 400, 2, 4, 5], 6), row_group_size=16, unit_rows=20
    ),
    "one giant subject, cropped": Case(
        shards=shards_of([3, 2, 400, 2, 4, 5], 6), row_group_size=16, unit_rows=20, crop=True
    ),
    "only a giant subject": Case(shards=[[Subject(300, 40)]], row_group_size=16, unit_rows=10),
    "units without measurements": Case(
        shards=[[Subject(0, 30)], [Subject(4)], [Subject(0, 30), Subject(1)], [], [Subject(7)]],
        unit_rows=5,
    ),
    "units without a subject of the split": Case(
        shards=[[Subject(9, 0, "held_out")], [Subject(6)], [Subject(8, 1, "tuning"), Subject(3)]],
        unit_rows=5,
    ),
    "subjects of one measurement": Case(shards=shards_of([1, 1, 2, 1, 1, 3, 1, 1, 2, 1], 4)),
    "nothing to train on": Case(shards=[[Subject(1), Subject(1, 3)], [Subject(20, 0, "tuning")]]),
    "many tiny subjects": Case(shards=shards_of([2, 3] * 60, 30), unit_rows=4, lanes=2),
    "many tiny subjects, cropped": Case(
        shards=shards_of([2, 3, 20] * 40, 30), unit_rows=4, lanes=2, crop=True
    ),
    "many tiny subjects for many lanes": Case(
        shards=shards_of([2, 3] * 24, 20), unit_rows=4, lanes=8
    ),
    "a giant among many tiny subjects": Case(
        shards=shards_of([2, 3] * 30 + [200] + [3, 2] * 30, 27), unit_rows=4, lanes=2
    ),
    "one unit": Case(shards=shards_of([4, 50, 2, 8, 30], 5), unit_rows=10**6, lanes=8),
    "windows of two measurements, and of one": Case(
        shards=shards_of([3, 2, 5, 1, 7], 5), sequence_length=2
    ),
    "one lane": Case(shards=shards_of([4, 50, 2, 8, 30] * 8, 7), unit_rows=6, lanes=1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_steps_of_ragged_data_are_exact_for_any_ranks_and_any_resume_point(name, tmp_path):
    data = write(CASES[name], tmp_path / "meds")
    alone = data.steps()
    assert len(alone) == data.order.num_steps(data.case.epoch)
    assert_every_sequence_comes_once(data, alone)
    assert_content_is_that_of_the_rows(data, alone)
    for step in {1, len(alone) - 1} & set(range(1, len(alone))):
        assert data.steps(step=step) == alone[step:]
    for world in data.case.worlds:
        assert data.steps(world=world) == alone
        middle = len(alone) // 2
        assert data.steps(step=middle, world=world) == alone[middle:]


def test_the_ragged_cases_reach_shared_and_many_supersteps(tmp_path):
    kinds = {}
    for number, (name, case) in enumerate(CASES.items()):
        order = write(case, tmp_path / str(number)).order
        supersteps = list(order.supersteps(case.epoch))
        kinds[name] = (len(supersteps), any(superstep.shared for superstep in supersteps))
    assert kinds["fewer subjects than lanes"] == (1, True)
    assert kinds["nothing to train on"] == (0, False)
    for name, shared in (
        ("many tiny subjects for many lanes", True),
        ("many tiny subjects", False),
        ("many tiny subjects, cropped", False),
        ("a giant among many tiny subjects", False),
    ):
        assert kinds[name][0] > 1
        assert kinds[name][1] is shared


ragged = st.lists(
    st.lists(
        st.builds(
            Subject,
            num_measurements=st.sampled_from([2, 1, 0, 3, 5, 8, 9, 17, 40, 150]),
            num_others=st.integers(0, 4),
            split=st.sampled_from(["train", "train", "train", *SPLITS, "none of ours"]),
        ),
        max_size=12,
    ),
    min_size=1,
    max_size=8,
).filter(lambda shards: any(kinds_of(subject) for subjects in shards for subject in subjects))
cases = st.builds(
    Case,
    shards=st.one_of(
        ragged,
        st.builds(shards_of, st.lists(st.integers(1, 4), min_size=40, max_size=90), st.just(25)),
    ),
    row_group_size=st.sampled_from([16, 3, 1000]),
    unit_rows=st.sampled_from([5, 1, 20, 10**6]),
    lanes=st.sampled_from([1, 2, 4, 6]),
    batch_sequences=st.integers(1, 6),
    sequence_length=st.sampled_from([8, 2, 3, 50]),
    crop=st.booleans(),
    epoch=st.integers(0, 3),
)


def assert_exact(case: Case, data: st.DataObject) -> None:
    """Check all of it at one resume point and for one other number of ranks and unit size."""
    with tempfile.TemporaryDirectory() as folder:
        written = write(case, f"{folder}/meds")
        alone = written.steps()
        assert len(alone) == written.order.num_steps(case.epoch)
        assert_every_sequence_comes_once(written, alone)
        assert_content_is_that_of_the_rows(written, alone)
        assert written.steps(world=data.draw(st.sampled_from(case.worlds), "world")) == alone
        if len(alone) > 1:
            step = data.draw(st.integers(1, len(alone) - 1), "resumed at step")
            world = data.draw(st.sampled_from(case.worlds), "by so many ranks")
            assert written.steps(step=step, world=world) == alone[step:]
        unit_rows = data.draw(st.sampled_from([1, 5, 20, 10**6]), "other unit_rows")
        other = opened(
            replace(case, unit_rows=unit_rows), written.reader.source.root, written.rows_of
        )
        assert sorted(itertools.chain(*other.steps())) == sorted(itertools.chain(*alone))


@settings(max_examples=15, deadline=None)
@given(case=cases, data=st.data())
def test_the_steps_are_exact_for_any_data_set(case, data):
    assert_exact(case, data)


@pytest.mark.survival
@settings(max_examples=300, deadline=None)
@given(case=cases, data=st.data())
def test_the_steps_are_exact_for_very_many_data_sets(case, data):
    assert_exact(case, data)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_subject_of_60_000_measurements_is_read_in_the_same_windows_every_time(giant, epoch):
    steps = giant.steps(epoch=epoch)
    windows = sorted(itertools.chain(*steps))
    assert len(windows) == 118 + 2  # 60,000 over 512, and two short subjects
    assert [w.rows for w in windows] == sorted(
        part for own in giant.rows_of.values() for part in cut(own, 512)
    )
    assert giant.steps(epoch=epoch, world=2, step=5) == steps[5:]


def test_windows_stay_and_masks_change_from_epoch_to_epoch(giant):
    first, second = (sorted(itertools.chain(*giant.steps(epoch=epoch))) for epoch in (0, 1))
    assert [window.rows for window in first] == [window.rows for window in second]
    assert sum(a.hidden != b.hidden for a, b in zip(first, second, strict=True)) > 110


def test_a_crop_is_one_window_that_changes_by_epoch_and_not_by_resuming(giant):
    case = replace(giant.case, crop=True, batch_sequences=1)
    cropped = opened(case, giant.reader.source.root, giant.rows_of)
    own = max(giant.rows_of.values(), key=len)
    begins = []
    for epoch in range(6):
        steps = cropped.steps(epoch=epoch)
        assert_every_sequence_comes_once(cropped, steps)
        (crop,) = [w for w in itertools.chain(*steps) if w.rows[0] in own]
        begins.append(own.index(crop.rows[0]))
        for step in range(1, len(steps)):
            assert cropped.steps(epoch=epoch, step=step, world=4) == steps[step:]
    assert len(set(begins)) == 6
    assert max(begins) - min(begins) > 10_000


@pytest.mark.parametrize("crop", [False, True])
def test_evaluation_reads_consecutive_windows_under_one_mask_of_the_whole_subject(giant, crop):
    reader = replace(giant.reader, evaluation=True, crop=crop, weight_C=None)
    data = replace(giant, reader=reader)
    expected_rows, expected_hidden = [], []
    for unit in giant.units:
        measurements, _ = read_unit(reader.source, unit, reader.statistics.lookup, "train")
        expected_rows += measurements.numeric_value_N.astype(int).tolist()
        expected_hidden += evaluation_hidden(measurements, ratio=RATIO, seed=0).tolist()
    for epoch in (0, 1):
        windows = sorted(itertools.chain(*data.steps(epoch=epoch)))
        assert [row for w in windows for row in w.rows] == expected_rows
        assert [hidden for w in windows for hidden in w.hidden] == expected_hidden
    batches = [
        part.batch
        for unit in giant.units
        for part in evaluation_batches(
            reader.source, unit, reader.statistics,
            split="train", sequence_length=512, ratio=RATIO, seed=0, max_measurements=2048,
        )
    ]  # fmt: skip
    windows = [window for batch in batches for window in windows_of(batch)]
    assert [row for w in windows for row in w.rows] == expected_rows
    assert [hidden for w in windows for hidden in w.hidden] == expected_hidden
    assert max(len(w.rows) for w in windows) == 509  # 60,000 in 118 windows of 508 or 509


@pytest.fixture(scope="module")
def giant(tmp_path_factory):
    """A subject of 60,000 measurements between two short ones, over many row groups."""
    case = Case(
        shards=[[Subject(20, 3), Subject(60_000, 300), Subject(30)]],
        row_group_size=8192,
        unit_rows=10_000,
        lanes=4,
        batch_sequences=10,
        sequence_length=512,
    )
    return write(case, tmp_path_factory.mktemp("giant") / "meds")
