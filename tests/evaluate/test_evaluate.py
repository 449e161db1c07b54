import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cvmae.batches.columns import uniform_column
from cvmae.batches.evaluation import evaluation_batches
from cvmae.checkpoint import FORMAT, find_checkpoint
from cvmae.config import override, read_config, write_config
from cvmae.evaluate import models
from cvmae.evaluate.convergence import SCHEDULE_NOTE
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.models import (
    choose_reference,
    choose_statistics,
    find_contestants,
    load,
    predict,
    score_unit,
)
from cvmae.evaluate.notes import reading_notes
from cvmae.meds.dataset import open_dataset
from cvmae.meds.units import plan_units
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.storage.manifest import write_manifest
from cvmae.train.pretrain import pretrain
from tests.evaluate.trained import changed_run, train_models


@pytest.fixture(scope="module")
def runs(hospital, tmp_path_factory):
    """Two models of one vocabulary, trained for an epoch, and the settings they share."""
    folder = tmp_path_factory.mktemp("runs")
    models = {policy: {"mask.policy": policy} for policy in ("random", "cv")}
    given = {"data.unit_rows": 500, "data.sequence_length": 32}
    return train_models(hospital, folder, models, **given), folder


def settings_for(runs, output, *checkpoints, **changes):
    shared, folder = runs
    given = [f"{name}={folder / path}" for name, path in (c.split("=") for c in checkpoints)]
    few = {"evaluate.min_scored": 10, "evaluate.bootstrap_samples": 30, "output_dir": output}
    few["evaluate.sequence_length"] = 32  # as they were trained
    return override(shared, {"evaluate.checkpoints": given, **few, **changes})


def test_evaluate_writes_results_figures_and_a_report(runs, tmp_path, drawn):
    printed = evaluate(settings_for(runs, tmp_path / "out", "random=random", "cv=cv"))
    written = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"results.json", "report.html", "codes.parquet", "config.yaml"} <= written
    assert {"scores.png", "learning_curves.png"} <= written
    assert printed.endswith(f"Report: {tmp_path / 'out' / 'report.html'}")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [pair["first"] for pair in results["pairs"]] == ["cv"]
    too_few, schedule = results["notes"]
    assert too_few.startswith("No code has")  # of 30 subjects
    assert schedule == SCHEDULE_NOTE  # of preset tiny
    table = pq.read_table(tmp_path / "out" / "codes.parquet")
    assert table.num_rows == results["data"]["num_codes"]
    assert {"code", "cv", "cv_unclipped", "r2/cv", "mean_absolute_error/random"} <= set(
        table.column_names
    )


def test_each_run_is_given_its_own_scores_after_the_epoch_of_its_weights(
    runs, tmp_path, monkeypatch
):
    module, given = importlib.import_module("cvmae.evaluate.evaluate"), []
    monkeypatch.setattr(module, "give_to_runs", lambda *results: given.append(results))
    evaluate(settings_for(runs, tmp_path / "out", "random=random", "cv=cv"))
    ((results, folder),) = given
    assert folder == str(tmp_path / "out")
    methods = json.loads((tmp_path / "out" / "results.json").read_text())["methods"]
    expected = [
        (str(runs[1] / m["name"]), {"held_out_r2_pooled": m["runs"][0]["r2_pooled"]})
        for m in methods
        if m["kind"] == "model"
    ]
    macro = "held_out_r2_macro"
    told = [(r.path, {n: v for n, v in r.metrics.items() if n != macro}) for r in results]
    assert told == expected
    assert {result.epoch for result in results} == {1}


def test_the_same_checkpoint_under_two_names_scores_the_same(runs, tmp_path):
    evaluate(settings_for(runs, tmp_path / "out", "random=random", "again=random"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (pair,) = results["pairs"]
    assert pair["pooled_difference"] == 0
    assert pair["wins"] == pair["losses"] == 0
    assert results["headline"]["title"].startswith("Undecided: again against random")


def reversed_shards(root, target):
    """A copy of a hospital whose held-out subjects are in two shards, the later ones first."""
    shutil.copytree(root, target)
    folder = target / "data" / "held_out"
    table = pq.read_table(folder / "0.parquet")
    subject_N = table["subject_id"].to_numpy()
    middle = int(np.searchsorted(subject_N, np.median(subject_N)))
    pq.write_table(table.slice(middle), folder / "0.parquet")
    pq.write_table(table.slice(0, middle), folder / "1.parquet")
    return target


def test_scores_and_intervals_do_not_depend_on_how_subjects_are_cut_into_units(runs, tmp_path):
    hospital = reversed_shards(runs[0].data.root, tmp_path / "meds")
    found = []
    for unit_rows in (300, 100_000):
        out = tmp_path / str(unit_rows)
        given = {"data.root": hospital, "data.unit_rows": unit_rows}
        evaluate(settings_for(runs, out, "cv=cv", **given))
        methods = json.loads((out / "results.json").read_text())["methods"]
        found.append([[m["r2_pooled"], *m["r2_pooled_interval"]] for m in methods])
    # Other units make other batches, so other orders of float32 additions.
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-9)


def test_a_model_with_statistics_of_its_own_is_translated_to_the_references(runs):
    shared, folder = runs
    (contestant,) = find_contestants([f"cv={folder / 'cv'}"])
    loaded = load(contestant, "cpu")
    own = loaded.fitted.statistics
    # Were the model's unit of every code 10 x coarser and shifted, what it reads and says in
    # standardised values would be the same, and so would its predictions.
    unclipped = {
        "clip_low": np.full_like(own.mean, -np.inf),
        "clip_high": -np.full_like(own.mean, -np.inf),
    }
    reference = replace(own, **unclipped)
    wide = replace(own, mean=own.mean - 2 * own.std, std=3 * own.std, **unclipped)
    dataset = open_dataset(shared.data.root)
    unit = plan_units(dataset, 10**6)[0]
    (batch, *_) = evaluation_batches(
        dataset, unit, reference, split="train", sequence_length=32, ratio=0.25, seed=1
    )
    translated = predict(
        batch,
        loaded=replace(loaded, fitted=replace(loaded.fitted, statistics=wide)),
        reference=reference,
        device="cpu",
    )
    given = wide.standardise(batch.code_index_N, batch.numeric_value_N)
    # z in `wide` is (z + 2) / 3 of the reference: the model must have read that ...
    hidden = batch.batch.hidden_M.numpy()
    np.testing.assert_allclose(given, (batch.batch.value_N.numpy() + 2) / 3, atol=1e-5)
    # ... and what it said must have been turned back.
    with torch.inference_mode():
        said = loaded.model(replace(batch.batch, value_N=torch.from_numpy(given))).numpy()
    np.testing.assert_allclose(translated, 3 * said.astype(np.float64) - 2, atol=1e-5)
    assert len(hidden) == len(translated)


def test_a_run_that_has_gone_on_is_looked_at_anew(runs, tmp_path):
    shared, folder = runs
    run = shutil.copytree(folder / "cv", tmp_path / "cv")
    (before,) = find_contestants([f"cv={run}"])
    assert load(before, "cpu").progress.epoch == 1
    longer = override(shared, {"train.epochs": 2, "mask.policy": "cv", "output_dir": run})
    pretrain(replace(longer, resume=str(run), resume_allow=("train.epochs",)))
    (after, *_) = find_contestants([f"cv={run}"])
    assert load(after, "cpu").progress.epoch == 2


def test_a_checkpoint_that_is_replaced_meanwhile_is_refused(runs, tmp_path):
    _, folder = runs
    run = shutil.copytree(folder / "cv", tmp_path / "cv")
    (before,) = find_contestants([f"cv={run}"])
    shutil.rmtree(run)
    shutil.copytree(folder / "random", run)
    load.cache_clear()  # as in a worker that has not loaded it yet
    with pytest.raises(ValueError, match=r"checkpoints=cv=.*another checkpoint was written"):
        load(before, "cpu")


def test_a_unit_is_scored_by_every_contestant_and_names_no_subject(runs):
    shared, folder = runs
    dataset = open_dataset(shared.data.root)
    unit = plan_units(dataset, 10**6)[0]
    models = find_contestants([f"{name}={folder / name}" for name in ("random", "cv")])
    (sums,) = score_unit(
        unit,
        source=dataset.source,
        split="train",
        seed=3,
        contestants=models,
        statistics=choose_statistics("", models),
        sequence_length=32,
        device="cpu",
        columns=[uniform_column(0.25)],
    )
    assert sums.error_RK.shape[1] == 2 + 3
    assert sums.subject_R.max() == sums.num_subjects - 1
    assert not np.allclose(sums.error_RK[:, 0], sums.error_RK[:, 1])


@pytest.mark.parametrize(
    ("checkpoints", "message"),
    [
        ([], "evaluate.checkpoints is empty"),
        (["last value=cv"], "this name is taken"),
        (["untrained encoder=cv"], r"this name is taken \(.*, untrained encoder are"),
        (["hand-made features=cv"], r"this name is taken \(.*hand-made features"),
        (["cv=nowhere"], r"evaluate\.checkpoints=cv=.*nowhere: there is no such folder"),
    ],
)
def test_checkpoints_that_cannot_be_compared_are_refused(runs, checkpoints, message):
    _, folder = runs
    entries = [f"{name}={folder / path}" for name, path in (c.split("=") for c in checkpoints)]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_contestants(entries)


def test_models_of_different_vocabularies_are_refused(runs, tmp_path):
    _, folder = runs
    other = shutil.copytree(find_checkpoint(folder / "cv"), tmp_path / "other")
    path = other / "statistics" / "code_statistics.parquet"
    statistics = CodeStatistics.read(path)
    replace(statistics, codes=("LAB//elsewhere", *statistics.codes[1:])).write(path)
    write_manifest(other, FORMAT)
    with pytest.raises(ValueError, match=r"another vocabulary .* 1 of the latter missing"):
        find_contestants([f"cv={folder / 'cv'}", f"other={other}"])


def test_a_folder_that_holds_something_is_left_alone(runs, tmp_path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(ValueError, match=r"output_dir=.* is not empty"):
        evaluate(settings_for(runs, tmp_path, "cv=cv"))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["mine.txt"]


def test_models_that_were_not_trained_alike_are_noted(runs, tmp_path):
    _, folder = runs
    other = shutil.copytree(find_checkpoint(folder / "cv"), tmp_path / "other")
    settings = read_config(other / "config.yaml")
    write_config(override(settings, {"optim.lr": 0.5}), other / "config.yaml")
    write_manifest(other, FORMAT)
    evaluate(settings_for(runs, tmp_path / "out", "cv=cv", f"other={other}"))
    _, note, _ = json.loads((tmp_path / "out" / "results.json").read_text())["notes"]
    assert note.startswith("other and cv were not trained alike (optim differ)")


def test_the_order_of_arguments_changes_no_figure(runs, tmp_path):
    _, folder = runs
    # Of other windows, another share of hidden values, another clipping: who comes first would
    # once have decided all three.
    changes = {"data.sequence_length": 8, "mask.ratio": 0.5, "data.clip_quantiles": "None"}
    other = changed_run(folder / "cv", tmp_path / "other", changes)
    path = other / "statistics" / "code_statistics.parquet"
    statistics = CodeStatistics.read(path)
    replace(statistics, std=2 * statistics.std, mean=statistics.mean - 1).write(path)
    write_manifest(other, FORMAT)
    given, found = ["cv=cv", "random=random", f"other={other}"], []
    for number, order in enumerate((given, given[::-1])):
        settings = settings_for(runs, tmp_path / str(number), *order)
        evaluate(settings)
        results = json.loads((tmp_path / str(number) / "results.json").read_text())
        del results["provenance"]
        found.append(results)
    assert found[0] == found[1]
    assert found[0]["settings"]["mask_ratio"] == 0.25
    assert found[0]["settings"]["sequence_length"] == 32
    said = " ".join(found[0]["notes"])
    assert "other was trained with mask.ratio=0.5 and is evaluated with" in said
    assert "other was trained with data.sequence_length=8 and is evaluated with" in said
    assert "other statistics were fitted for other, whose predictions are translated" in said


def test_the_reference_is_random_with_the_default_clipping_whoever_comes_first(runs, tmp_path):
    _, folder = runs
    unclipped = {"data.clip_quantiles": "None"}
    published = changed_run(folder / "random", tmp_path / "published", unclipped)
    names = [f"cv={folder / 'cv'}", f"random={folder / 'random'}"]
    for order in (names, names[::-1]):
        assert choose_reference(find_contestants(order)).name == "random"
    names[1] = f"random={published}"
    for order in (names, names[::-1]):
        assert choose_reference(find_contestants(order)).name == "cv"


@pytest.mark.parametrize("stamp", ["0", "z"])
def test_the_reference_is_of_last_weights_whatever_the_hash_of_the_best(runs, stamp, monkeypatch):
    _, folder = runs
    (last,) = find_contestants([f"random={folder / 'random'}"])
    best, loaded = replace(last, which="best", stamp=stamp), models.load(last, "cpu")
    monkeypatch.setattr(models, "load", lambda contestant, device: loaded)
    assert choose_reference([best, last]) is last


def test_the_same_run_twice_under_one_name_is_no_second_seed(runs, tmp_path):
    _, folder = runs
    copy = shutil.copytree(find_checkpoint(folder / "cv"), tmp_path / "copy")
    with pytest.raises(ValueError, match=r"cv=.* were trained with the same seed=0; a repeated"):
        find_contestants([f"cv={folder / 'cv'}", f"cv={copy}"])
    again = changed_run(folder / "cv", tmp_path / "again", {"seed": 1})
    assert len(find_contestants([f"cv={folder / 'cv'}", f"cv={again}"])) == 2


def test_statistics_that_are_given_define_the_errors(runs, tmp_path):
    _, folder = runs
    contestants = find_contestants([f"cv={folder / 'cv'}"])
    given = shutil.copytree(folder / "statistics", tmp_path / "statistics")
    statistics = CodeStatistics.read(given / "code_statistics.parquet")
    replace(statistics, std=3 * statistics.std).write(given / "code_statistics.parquet")
    found = choose_statistics(str(given), contestants)
    np.testing.assert_allclose(found.std, 3 * choose_statistics("", contestants).std)
    shorter = replace(statistics, codes=("LAB//elsewhere", *statistics.codes[1:]))
    shorter.write(given / "code_statistics.parquet")
    with pytest.raises(ValueError, match=r"evaluate\.statistics=.* another vocabulary .* 1 of"):
        choose_statistics(str(given), contestants)


def test_runs_of_other_lengths_are_said(runs):
    shared, folder = runs
    contestants = find_contestants([f"cv={folder / 'cv'}"])
    histories = {"cv": [[{"epoch": 1}], [{"epoch": 1}, {"epoch": 2}]]}
    settings = override(shared, {"evaluate.sequence_length": 32})
    statistics = choose_statistics("", contestants)
    (note,) = reading_notes(contestants, contestants[0], statistics, histories, settings)
    assert note.startswith("Runs of cv have 1 to 2 epochs: their learning curve ends with")


def test_figures_on_tuning_are_said_to_be_optimistic(runs):
    shared, folder = runs
    contestants = find_contestants([f"cv={folder / 'cv'}"])
    statistics = choose_statistics("", contestants)
    for split, number in (("tuning", 1), ("held_out", 0)):
        asked = {"evaluate.sequence_length": 32, "evaluate.split": split}
        notes = reading_notes(contestants, contestants[0], statistics, {}, override(shared, asked))
        assert sum("evaluate.split=tuning" in note for note in notes) == number
        assert sum("optimistic" in note for note in notes) == number
