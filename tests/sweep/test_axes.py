"""Axes of a sweep: what may be one, and what its trials are called."""

from collections import Counter
from dataclasses import replace

import pytest

from cvmae.config import Config, flatten, override
from cvmae.sweep.axes import name_part, read_axes, short_name
from cvmae.sweep.trials import plan_trials


def with_axes(config, *axes):
    changes = {"sweep.axes": list(axes), "sweep.policies": ["cv"], "sweep.epochs": [2]}
    return override(config, changes)


def test_every_combination_is_a_trial_named_by_its_cell_whose_seeds_follow_each_other(config):
    axes = with_axes(config, "mask.ratio=0.15,.250", "optim.lr=1e-3")
    trials = plan_trials(override(axes, {"sweep.seeds": [0, 1]}))
    assert [trial.name for trial in trials] == [
        f"cv_epochs2_seed{seed}_ratio{ratio}_lr0.001" for ratio in (0.15, 0.25) for seed in (0, 1)
    ]
    assert [trial.config.mask.ratio for trial in trials] == [0.15, 0.15, 0.25, 0.25]
    assert trials[0].axes == {"mask.ratio": 0.15, "optim.lr": 0.001}


def test_a_trial_keeps_its_name_when_the_axis_gets_more_values(config):
    few = plan_trials(with_axes(config, "mask.ratio=0.15"))
    more = plan_trials(with_axes(config, "mask.ratio=0.5,0.15"))
    assert {trial.name for trial in few} < {trial.name for trial in more}


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("mask.ratio", "give NAME=VALUE,VALUE"),
        ("mask.ratio=0.1,", "give NAME=VALUE,VALUE"),
        ("mask.ration=0.1", r"mask\.ration is no setting: perhaps mask\.ratio"),
        ("mask.policy=cv", r"mask\.policy cannot be an axis: give --sweep\.policies"),
        ("train.epochs=2", r"give --sweep\.epochs"),
        ("seed=1", r"give --sweep\.seeds"),
        ("output_dir=a,b", "all trials of a sweep share it"),
        ("tracking.uri=a", "all trials of a sweep share it"),
        ("scaling.num_workers=1,2", "all trials of a sweep share it"),
        ("sweep.seeds=1", "changes nothing in a trial"),
        ("evaluate.seed=1", "changes nothing in a trial"),
        ("data.root=a,b", "statistics are fitted once for all trials: run a sweep for each"),
        ("data.clip_quantiles=None", "statistics are fitted once"),
        ("data.sequence_length=64,128", "statistics are fitted once"),
        ("mask.two_level_chances=0.8,0.2", "it is a list, and the comma parts an axis' values"),
        ("mask.ratio=0.5,0.50", r"sweep\.axes mask\.ratio=0\.5 0\.5 names 0\.5 twice"),
        ("mask.ratio=0.5,0.5", r"mask\.ratio=.* names 0\.5 twice"),
        ("mask.ratio=0.5,2", r"the trial mask\.policy=cv, .*mask\.ratio=2: .*mask\.ratio=2"),
        ("mask.ratio=much", r"the trial .*mask\.ratio=much: settings are not allowed"),
    ],
)
def test_what_cannot_be_an_axis_is_refused_with_what_to_do(config, pretrained, axis, message):
    with pytest.raises(ValueError, match=message):
        plan_trials(with_axes(config, axis))


def test_random_has_one_trial_for_all_values_of_what_it_ignores(config):
    axes = with_axes(config, "mask.sharpness=0.25,0.5", "optim.lr=1e-3,1e-4")
    trials = plan_trials(override(axes, {"sweep.policies": ["random", "cv"]}))
    assert [trial.name for trial in trials][:3] == [
        "random_epochs2_seed7_lr0.001",
        "random_epochs2_seed7_lr0.0001",
        "cv_epochs2_seed7_sharpness0.25_lr0.001",
    ]
    assert len(trials) == 2 + 4
    assert {trial.config.mask.sharpness for trial in trials} == {1.0, 0.25, 0.5}


def test_of_a_file_readers_see_the_name_and_folders_tell_places_apart(config):
    one, other = (
        plan_trials(
            override(with_axes(config, f"mask.weights_file={file}"), {"sweep.policies": ["table"]})
        )[0]
        for file in ("/here/w.csv", "/there/w.csv")
    )
    assert one.axes == other.axes == {"mask.weights_file": "w.csv"}
    assert one.config.mask.weights_file == "/here/w.csv"
    assert one.name != other.name
    assert "here" not in one.name


def test_one_setting_cannot_be_two_axes(config):
    with pytest.raises(ValueError, match=r"names mask\.ratio twice"):
        plan_trials(with_axes(config, "mask.ratio=0.1", "mask.ratio=0.2"))


def test_no_two_settings_that_may_be_axes_share_the_part_of_a_name_by_which_trials_go(config):
    allowed = []
    for name in flatten(Config()):
        try:
            read_axes(replace(config, sweep=replace(config.sweep, axes=(f"{name}=1",))))
        except ValueError:
            continue
        allowed.append(short_name(name))
    assert len(allowed) > 20
    assert [name for name, count in Counter(allowed).items() if count > 1] == []


def test_values_that_look_alike_on_a_file_system_have_names_of_their_own():
    names = {name_part("deepspeed.config_file", value) for value in ("a/b", "a b", "a-b")}
    assert len(names) == 3
    assert all(set(name).isdisjoint("/ =") for name in names)
