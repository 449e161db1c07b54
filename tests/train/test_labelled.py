"""Windows of labels: what was known until the prediction time, the same as an embedding reads."""

import numpy as np
import pytest
import torch

from cvmae.checkpoint import Loaded
from cvmae.infer.embed import embed_labels
from cvmae.meds.dataset import open_dataset
from cvmae.meds.labels import Labels
from cvmae.meds.units import plan_units
from cvmae.model.finetuned import build_finetuned
from cvmae.settings import ScalingConfig
from cvmae.train.labelled import LabelledWindows, read_windows
from tests.small_model import labels_of, loaded, model_of

__all__ = ["loaded", "model_of"]

HERE = ScalingConfig(num_workers=0)
HOUR = 3_600_000_000


def windows_of(
    loaded: Loaded, root: str, labels: Labels, unit_rows: int = 50
) -> dict[str, LabelledWindows]:
    dataset = open_dataset(root)
    return read_windows(
        dataset.source,
        plan_units(dataset, unit_rows)[::-1],  # shards need not ascend by subject
        labels,
        loaded.fitted.statistics,
        sequence_length=loaded.config.data.sequence_length,
        scaling=HERE,
    )


def columns_of(windows: LabelledWindows) -> list[np.ndarray]:
    return [windows.length_L, windows.code_index_N, windows.minutes_N, windows.value_N]


@pytest.fixture
def written(write_meds, loaded):
    """Return a function that writes one subject in train, with a row at an offset from hour 3."""

    def write(late_us: int | None) -> str:
        code = loaded.fitted.statistics.members[0][0]
        rows = [(1, hour * HOUR, code, float(hour)) for hour in range(3)]
        if late_us is not None:
            rows.append((1, 3 * HOUR + late_us, code, 9.0))
        splits = {1: "train", 2: "tuning"}
        return write_meds({"0.parquet": rows}, splits, name=f"late_{late_us}")

    return write


def test_a_row_a_microsecond_after_the_prediction_changes_nothing(written, loaded):
    labels = labels_of((1, 3 * HOUR, 1), (2, 3 * HOUR, 0))
    without, after, at = (
        windows_of(loaded, written(late), labels)["train"] for late in (None, 1, 0)
    )
    for ours, theirs in zip(columns_of(after), columns_of(without), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (without.length_L.tolist(), at.length_L.tolist()) == ([3], [4])


def test_a_subject_without_rows_stays_and_is_told_by_the_indicator_alone(written, loaded):
    labels = labels_of((1, 3 * HOUR, 1), (1, -HOUR, 0), (2, 3 * HOUR, 1), (7, 0, 1))
    windows = windows_of(loaded, written(None), labels)
    assert windows["train"].length_L.tolist() == [0, 3]  # ascending by time
    assert windows["train"].label_L.tolist() == [0, 1]
    assert windows["tuning"].length_L.tolist() == [0]
    model = build_finetuned(loaded.config.model, 8, seed=0, pretrained=None, log_odds=-1.0)
    with torch.no_grad():
        logit_B = model(windows["train"].take(np.array([0, 1, 0])))
    empty = -1.0 + model.label_head.weight[0, -1].item()
    assert logit_B[0].item() == logit_B[2].item() == pytest.approx(empty)
    assert logit_B[1].item() != logit_B[0].item()


def test_windows_are_those_of_an_embedding_and_of_any_units(hospital, loaded):
    dataset = open_dataset(hospital)
    rng = np.random.default_rng(0)
    everyone = np.concatenate(list(dataset.members.values()))
    labels = labels_of(
        *((int(s), int(t), 1.0) for s in everyone for t in rng.integers(4 * 10**15, 6 * 10**15, 2))
    )
    windows = windows_of(loaded, hospital, labels)
    many = windows_of(loaded, hospital, labels, unit_rows=10**6)
    embedded = embed_labels(loaded, dataset, labels, poolings=["mean"], scaling=HERE)
    mean_LD = {
        (int(s), int(t)): mean_D
        for s, t, mean_D in zip(
            labels.subject_id_L, labels.time_us_L, embedded.embedding_LD["mean"], strict=True
        )
    }
    model = build_finetuned(
        loaded.config.model, 8, seed=0, pretrained=loaded.model.state_dict(), log_odds=0.0
    )
    with torch.no_grad():
        model.label_head.weight[0, -1] = 0.0  # the indicator is no part of an embedding
    assert sum(found.num_labels for found in windows.values()) == 120
    assert any(found.length_L.max() == 32 for found in windows.values())
    for split, found in windows.items():
        for ours, theirs in zip(columns_of(found), columns_of(many[split]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        with torch.no_grad():
            logit_L = model(found.take(np.arange(found.num_labels))).numpy()
        keys = zip(found.subject_id_L.tolist(), found.time_us_L.tolist(), strict=True)
        wanted = np.stack([mean_LD[key] for key in keys])
        head_D = model.label_head.weight[0, :-1].detach().numpy()
        np.testing.assert_allclose(logit_L, wanted @ head_D, atol=1e-5)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [0, 3, 0]])
def test_every_parameter_that_learns_gets_a_gradient_however_empty_the_batch(loaded, lengths):
    num = sum(lengths)
    windows = LabelledWindows(
        subject_id_L=np.arange(len(lengths)),
        time_us_L=np.zeros(len(lengths), np.int64),
        label_L=np.ones(len(lengths), np.float32),
        length_L=np.array(lengths, np.int64),
        code_index_N=np.zeros(num, np.uint16),
        minutes_N=np.arange(num, dtype=np.int32),
        value_N=np.ones(num, np.float32),
    )
    model = build_finetuned(loaded.config.model, 8, seed=0, pretrained=None, log_odds=0.0)
    model(windows.take(np.arange(len(lengths)))).sum().backward()
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "label_head.weight" in learns
    assert not any(name.startswith(("decoder", "head", "mask_token")) for name in learns)
    missing = [n for n, p in model.named_parameters() if n in learns and p.grad is None]
    assert missing == []
