from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cvmae.config import override
from cvmae.infer.embed import POOLINGS, embed_labels, embed_tasks, untrained
from cvmae.infer.pooling import default_pooling
from cvmae.meds.dataset import open_dataset
from cvmae.settings import ScalingConfig
from tests.small_model import labels_of

IN_PROCESS = ScalingConfig(num_workers=0)
HOUR = 3_600_000_000
LATE = 10**18  # after every row


def embed(model, root, labels, **changes):
    given = {"poolings": POOLINGS, "scaling": IN_PROCESS} | changes
    return embed_labels(model, open_dataset(root), labels, **given)


@pytest.fixture
def rows(rng):
    """80 rows of two subjects, some at one time, beginning at hour 0."""
    codes = [f"LAB//{letter}" for letter in "ABC"]
    return [
        (subject, int(time) * HOUR, codes[rng.integers(3)], float(rng.normal()))
        for subject in (4, 6)
        for time in np.sort(rng.integers(0, 30, 40))
    ]


@pytest.fixture
def own(write_meds, model_of, rows):
    """The rows as a data set, and a model of it."""
    root = write_meds({"0.parquet": rows}, {4: "train", 6: "held_out"})
    return root, model_of(root)


def all_labels(root, time=LATE):
    table = pq.read_table(Path(root) / "metadata" / "subject_splits.parquet")
    return labels_of(*((subject, time, 0) for subject in table["subject_id"].to_pylist()))


def same(one, other):
    assert one.has_rows_L.tolist() == other.has_rows_L.tolist()
    return all(np.array_equal(one.embedding_LD[p], other.embedding_LD[p]) for p in POOLINGS)


@pytest.mark.parametrize("encoder_input", ["visible_only", "masked_value"])
def test_what_comes_a_microsecond_after_the_prediction_changes_no_bit(
    write_meds, model_of, rows, encoder_input
):
    """A signal planted at the prediction itself does change it."""
    splits = {4: "train", 6: "held_out"}
    root = write_meds({"0.parquet": rows}, splits)
    model = model_of(root, **{"model.encoder_input": encoder_input})
    at = 12 * HOUR + 1
    labels = labels_of((4, at, 1), (6, at, 0))

    def planted(name, time):
        signal = [(subject, time, "LAB//A", 50.0) for subject in (4, 6) for _ in range(40)]
        return write_meds(
            {"0.parquet": sorted(rows + signal, key=lambda r: r[:2])}, splits, name=name
        )

    plain = embed(model, root, labels)
    assert plain.has_rows_L.all()
    assert same(plain, embed(model, planted("after", at + 1), labels))
    assert not same(plain, embed(model, planted("until", at), labels))


def test_mean_is_the_mean_of_the_encoders_output_over_the_last_measurements(own, rows):
    root, model = own
    embeddings = embed(model, root, labels_of((6, 20 * HOUR, 0)))
    until = [row for row in rows if row[0] == 6 and row[1] <= 20 * HOUR][-32:]
    statistics = model.fitted.statistics
    code_N = torch.from_numpy(statistics.lookup([row[2] for row in until]))
    value_N = statistics.standardise(
        code_N.numpy(), np.array([row[3] for row in until], np.float32)
    )
    hours_N = torch.tensor([(row[1] - until[0][1]) / HOUR for row in until])
    network = model.model
    with torch.inference_mode():
        x = network.code_embedding(code_N) + network.time_embedding(hours_N)
        x = x + network.value_embedding(torch.from_numpy(value_N)[:, None])
        for layer in network.encoder:
            q, k, v = (
                layer.query_key_value(layer.attention_norm(x)).unflatten(1, (3, 2, -1)).unbind(1)
            )
            attended = torch.nn.functional.scaled_dot_product_attention(
                *(part.transpose(0, 1) for part in (q, k, v))
            )
            x = x + layer.attention_output(attended.transpose(0, 1).flatten(1))
            inner = layer.feed_forward
            x = x + inner.narrow(torch.nn.functional.gelu(inner.widen(inner.norm(x))))
        expected = network.encoder_norm(x).mean(0).numpy()
    # Sums of float32 in another order.
    np.testing.assert_allclose(embeddings.embedding_LD["mean"][0], expected, atol=2e-5)


def test_decoded_is_what_the_model_restores_of_a_hidden_value_at_the_prediction(own, rows):
    """Asked by the whole model, with a row more for each code, whose value is hidden."""
    from cvmae.batches.batch import make_batch

    root, model = own
    at = 29 * HOUR
    embeddings = embed(model, root, labels_of((4, at, 0)))
    until = [row for row in rows if row[0] == 4 and row[1] <= at][-32:]
    statistics = model.fitted.statistics
    asked = [(4, at, code, 0.0) for code in statistics.codes]
    together = [*until, *asked]
    code_N = statistics.lookup([row[2] for row in together])
    batch = make_batch(
        lengths_B=np.array([len(together)]),
        code_index_N=code_N,
        minutes_N=np.array([(row[1] - until[0][1]) // 60_000_000 for row in together]),
        value_N=statistics.standardise(code_N, np.array([r[3] for r in together], np.float32)),
        hidden_N=np.arange(len(together)) >= len(until),
    )
    with torch.inference_mode():
        expected = model.model(batch).numpy()
    both = embeddings.embedding_LD["mean+decoded"][0]
    width = model.config.model.width
    assert len(both) == width + statistics.num_codes
    assert np.array_equal(both[:width], embeddings.embedding_LD["mean"][0])
    np.testing.assert_allclose(both[width:], expected, atol=2e-5)  # as above


def test_a_subject_without_rows_gets_zeros_and_stays(own):
    root, model = own
    labels = labels_of((4, -1, 1), (4, LATE, 1), (5, LATE, 0), (6, LATE, 1))
    embeddings = embed(model, root, labels)
    assert embeddings.has_rows_L.tolist() == [False, True, False, True]
    for embedding_LD in embeddings.embedding_LD.values():
        assert embedding_LD.dtype == np.float32
        assert (np.abs(embedding_LD).sum(axis=1) > 0).tolist() == [False, True, False, True]


def test_embeddings_stand_in_the_order_of_the_labels_whatever_the_units(hospital, loaded):
    labels = all_labels(hospital)
    whole = embed(loaded, hospital, labels)
    assert whole.has_rows_L.all()
    cut = embed(loaded, hospital, labels, unit_rows=300)
    for pooling in POOLINGS:
        # Batches are others, so that sums are in another order.
        np.testing.assert_allclose(
            cut.embedding_LD[pooling], whole.embedding_LD[pooling], atol=2e-5
        )
    assert len(np.unique(whole.embedding_LD["mean"], axis=0)) == labels.num_labels


def test_several_models_and_tasks_in_one_pass_are_each_by_itself(hospital, loaded):
    other = untrained(loaded, 8)
    early, late = all_labels(hospital, 10**15 + 1), all_labels(hospital)
    dataset = open_dataset(hospital)
    given = {"poolings": POOLINGS, "scaling": IN_PROCESS}
    together = embed_tasks([loaded, other], dataset, [early, late], **given)
    for model, own_results in zip((loaded, other), together, strict=True):
        for labels, result in zip((early, late), own_results, strict=True):
            assert same(result, embed(model, hospital, labels))
    assert not same(together[0][1], together[1][1])


def test_an_untrained_model_follows_from_its_seed(loaded):
    first = {s: untrained(loaded, s).model.state_dict()["mask_token"] for s in (1, 2)}
    assert torch.equal(untrained(loaded, 1).model.state_dict()["mask_token"], first[1])
    assert not torch.equal(first[1], first[2])


def test_a_data_set_without_a_known_code_is_refused(write_meds, loaded):
    root = write_meds({"0.parquet": [(1, 5, "VITAL//x", 1.0)]}, {1: "train"}, name="other")
    with pytest.raises(ValueError, match=r"no value of any of the model's 8 codes .*VITAL//x"):
        embed(loaded, root, labels_of((1, LATE, 0)))


def test_a_model_that_was_never_told_codes_is_not_asked_for_them(hospital, model_of):
    model = model_of(hospital, **{"mask.target": "measurement"})
    labels = all_labels(hospital)
    with pytest.raises(ValueError, match=r"mask\.target=measurement.*choose mean"):
        embed(model, hospital, labels)
    assert embed(model, hospital, labels, poolings=["mean"]).has_rows_L.all()


def test_a_fine_tuned_models_decoder_is_not_asked(hospital, loaded):
    config = override(loaded.config, {"finetune.checkpoint": "runs/cv"})
    tuned = replace(loaded, config=config)
    with pytest.raises(ValueError, match=r"fine-tuning has trained .*choose mean"):
        embed(tuned, hospital, all_labels(hospital))


def test_the_model_that_is_given_stays_where_and_as_it_is(hospital, loaded):
    before = {k: v.clone() for k, v in loaded.model.state_dict().items()}
    untrained(loaded, 5)
    embed(replace(loaded), hospital, all_labels(hospital))
    assert all(torch.equal(v, before[k]) for k, v in loaded.model.state_dict().items())


def test_features_that_are_no_numbers_are_refused_for_all_that_learn_from_them(own):
    root, model = own
    broken = untrained(model, 0)
    with torch.no_grad():
        broken.model.value_embedding.bias.fill_(np.inf)
    with pytest.raises(ValueError, match=r"rows of data/.*: embeddings are NaN or infinite") as e:
        embed_tasks(
            [model, broken],
            open_dataset(root),
            [all_labels(root)],
            poolings=POOLINGS,
            scaling=IN_PROCESS,
        )
    assert "weights are not finite" in str(e.value)


def test_a_fine_tuned_encoder_is_not_decoded_unless_asked_for(loaded):
    assert default_pooling(loaded) == "mean+decoded"
    tuned = replace(loaded, config=override(loaded.config, {"finetune.checkpoint": "cv"}))
    assert default_pooling(tuned) == "mean"
