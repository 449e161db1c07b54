"""Runs under one name: seeds of one policy, or refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from cvmae.config import flatten, override
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.models import find_contestants, load
from cvmae.evaluate.one_policy import MAY_DIFFER, TAUGHT, mask_in_effect, require_one_policy
from cvmae.settings import MaskConfig
from cvmae.train.finetune import LABELS_HASH
from tests.evaluate.trained import changed_run, train_models


@pytest.fixture(scope="module")
def run(hospital, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train_models(hospital, folder, {"cv": {"mask.policy": "cv"}})
    return folder / "cv"


@pytest.fixture(scope="module")
def model(run):
    (contestant,) = find_contestants([f"cv={run}"])
    return load(contestant, "cpu")


def require(first, second, *, names=("cv", "cv")):
    """Check two models under names; their folders are called first and second."""
    paths = zip(names, ("first", "second"), strict=True)
    one, other = (Contestant(name=name, path=f"runs/{path}", stamp="") for name, path in paths)
    require_one_policy([(one, first), (other, second)])


def changed(model, **changes):
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return replace(model, config=override(model.config, dotted))


def test_two_policies_under_one_name_are_refused_and_the_remedy_is_said(run, tmp_path):
    other = changed_run(run, tmp_path / "other", {"mask.policy": "random", "seed": 1})
    first, second = sorted([str(run), str(other)])
    message = (
        f"cv={first} and cv={second} are not seeds of one policy: mask.policy is .*(cv|random) in "
        f"the first and .* in the second.*names of their own, for example cv_1={first} "
        f"cv_2={second}"
    )
    with pytest.raises(ValueError, match=message):
        find_contestants([f"cv={run}", f"cv={other}"])
    assert len(find_contestants([f"cv={run}", f"random={other}"])) == 2


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mask.policy", "variance"),
        ("mask.sharpness", 0.25),
        ("mask.uniform_share", 0.1),
        ("mask.ratio", 0.5),
        ("mask.target", "measurement"),
        ("data.clip_quantiles", "None"),
        ("data.sequence_length", 64),
        ("model.width", 64),
        ("model.encoder_input", "masked_value"),
        ("optim.lr", 0.5),
        ("train.epochs", 7),
        ("train.batch_sequences", 64),
        ("train.loss_weighting", "inclusion"),
        ("train.visible_weight", 0.5),
    ],
)
def test_a_setting_that_a_policy_is_taught_by_is_named_with_both_values(model, setting, value):
    other = changed(model, **{setting: value, "seed": 1})
    own, given = (flatten(loaded.config)[setting] for loaded in (model, other))
    said = f"{setting} is {own} in the first and {given} in the second"
    with pytest.raises(ValueError, match="cv=runs/first and cv=runs/second") as error:
        require(model, other)
    assert said in str(error.value)
    require(model, other, names=("cv", "cv_2"))


def test_seeds_paths_scaling_and_what_the_policy_does_not_use_may_differ(model):
    others = {
        "seed": 1,
        "output_dir": "elsewhere",
        "data.root": "elsewhere",
        "data.unit_rows": 77,
        "scaling.num_workers": 4,
        "train.num_threads": 3,
        "checkpoint.keep": 5,
        "mask.two_level_quantile": 0.5,  # of another policy
        "mask.anneal_from": 0.5,  # with nothing to anneal
    }
    require(model, changed(model, **others))
    annealed = {"mask.anneal_epochs": 1, "train.epochs": 3}
    with pytest.raises(ValueError, match=r"mask\.anneal_from is 0\.0 in the first and 0\.5"):
        require(changed(model, **annealed), changed(model, **others, **annealed))


def test_random_is_one_policy_whatever_the_sharpness_of_weights_it_does_not_have(model):
    plain = changed(model, **{"mask.policy": "random"})
    require(plain, changed(plain, **{"mask.sharpness": 0.25, "mask.uniform_share": 0.5}))
    assert mask_in_effect(MaskConfig(policy="random", sharpness=0)) == MaskConfig(policy="random")


def test_models_of_other_measurements_are_no_seeds_of_one_policy(model):
    own = model.fitted.statistics
    more = replace(own, num_values=own.num_values + 1)
    elsewhere = replace(model, fitted=replace(model.fitted, statistics=more))
    with pytest.raises(ValueError, match=r"data\.root: the measurements of train are others"):
        require(model, elsewhere)
    # The same data in other units: moments in the last digit.
    rounded = replace(own, mean=np.nextafter(own.mean, np.inf))
    require(model, replace(model, fitted=replace(model.fitted, statistics=rounded)))


def test_tables_are_compared_by_their_weights_not_by_their_place(model, tmp_path):
    codes = model.fitted.statistics.codes
    tables = {"a": 1.0, "b": 1.0, "c": 2.0}  # weight of the first code
    for name, first in tables.items():
        rows = [f"{code},{first if place == 0 else 1.5}" for place, code in enumerate(codes)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["code,weight", *rows]), encoding="utf-8")
    one, alike, other = (
        changed(
            model,
            **{
                "mask.policy": "table",
                "mask.weights_file": tmp_path / f"{name}.csv",
                "output_dir": tmp_path / name,
            },
        )
        for name in tables
    )
    require(one, alike)
    with pytest.raises(ValueError, match=r"weights_file=.*a\.csv in the first and .*c\.csv"):
        require(one, other)
    shutil.move(tmp_path / "b.csv", tmp_path / "gone.csv")  # all that is known is its path
    with pytest.raises(ValueError, match=r"weights_file=.*a\.csv in the first and .*b\.csv"):
        require(one, alike)


def test_fine_tuned_runs_of_one_task_are_of_one_policy_and_those_of_two_may_differ(model):
    def learnt(task, **changes):
        fitted = model.fitted
        fingerprint = fitted.fingerprint | {LABELS_HASH: task}
        return replace(changed(model, **changes), fitted=replace(fitted, fingerprint=fingerprint))

    began = {"finetune.checkpoint": "elsewhere", "seed": 1}
    require(learnt("24 h"), learnt("24 h", **began))
    for setting, value in (("mask.policy", "variance"), ("finetune.epochs", 9)):
        with pytest.raises(ValueError, match=f"{setting} is"):
            require(learnt("24 h"), learnt("24 h", **{setting: value}, **began))
        require(learnt("24 h"), learnt("48 h", **{setting: value}, **began))


def test_fine_tuned_runs_whose_pretrainings_differ_are_refused_where_these_are_still_there(
    model, run, tmp_path
):
    def learnt(number, changes, **own):
        begun = changed_run(run, tmp_path / f"begun{number}", changes)
        fitted = replace(model.fitted, fingerprint=model.fitted.fingerprint | {LABELS_HASH: "24 h"})
        given = {"finetune.checkpoint": str(begun), "seed": number, **own}
        return replace(changed(model, **given), fitted=fitted)

    short, alike = learnt(0, {"seed": 0}), learnt(1, {"seed": 1})
    long = learnt(2, {"seed": 2, "train.epochs": 100})
    require(short, alike)
    with pytest.raises(
        ValueError, match=r"in pretraining, train\.epochs is 1 in the first and 100"
    ):
        require(short, long)
    require(short, long, names=("cv", "cv_long"))
    fresh = {"finetune.from_scratch": True}  # pretrained weights count for nothing
    require(*(replace(own, config=override(own.config, fresh)) for own in (short, long)))
    shutil.rmtree(tmp_path / "begun2")  # what it was taught by is not known any more
    require(short, long)


def test_settings_that_may_differ_are_settings(model):
    known = set(flatten(model.config))
    assert known >= MAY_DIFFER
    assert {name.partition(".")[0] for name in known} >= set(TAUGHT)
