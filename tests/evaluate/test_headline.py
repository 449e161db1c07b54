from dataclasses import replace

import numpy as np
import pytest

from tests.evaluate import made_results
from tests.evaluate.made_results import NUM_CODES, SETTINGS, make_results


def headline_of(errors, **options):
    told = make_results(errors, **options).headline
    return told.title, " ".join(told.sentences)


def test_it_says_that_cv_wins_where_it_wins():
    title, text = headline_of({"random": 0.7, "cv": 0.6})
    assert title == "cv restores hidden values better than random"
    assert "cv is ahead on 12 of 12 labs; one by one, 12 clearly better and 0 clearly" in text
    assert "over seeds and subjects; p < 0.0001 after Holm" in text


def test_it_says_that_cv_loses_where_it_loses():
    title, text = headline_of({"random": 0.6, "cv": 0.7})
    assert title == "random restores hidden values better than cv"
    assert "cv minus random: -0." in text


def test_it_names_no_winner_without_a_difference():
    title, _ = headline_of({"random": 0.6, "cv": 0.6})
    assert title == "No clear difference between cv and random"


def test_it_leaves_out_no_model():
    errors = {"random": 0.6, "cv": 0.7, "variance": 0.8, "entropy": 0.6, "adaptive": 0.5}
    title, text = headline_of(errors)
    assert title == (
        "adaptive restores hidden values better than random; random restores hidden values better "
        "than cv and variance; no clear difference between entropy and random"
    )
    assert all(f"Pooled R2 of {name} minus random" in text for name in errors if name != "random")


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_fewer_than_three_runs_it_says_undecided_and_why(seeds):
    title, text = headline_of({"random": 0.7, "cv": 0.6, "variance": 0.9}, seeds=seeds)
    assert title == (
        f"Undecided: cv and variance against random, with {seeds} run"
        f"{' (seed)' if seeds == 1 else 's (seeds)'} a policy where 3 are needed"
    )
    assert f"random has {seeds}" in text
    assert "over subjects; undecided)" in text
    assert "luck of training" in text
    assert "clearly" not in text
    assert "luck of training" not in headline_of({"random": 0.7, "cv": 0.6})[1]


def test_with_enough_runs_and_one_subject_it_says_that_subjects_are_too_few(monkeypatch):
    monkeypatch.setattr(made_results, "NUM_SUBJECTS", 1)
    title, text = headline_of({"random": 0.7, "cv": 0.6, "variance": 0.9})
    assert title == "Undecided: cv and variance against random, with too few subjects"
    assert "Nothing is decided between cv and random: values of too few subjects" in text
    assert "3 are needed" not in title
    assert "A claim about a policy needs" not in text
    # Where runs are too few as well, more of them are the first thing to get.
    title, text = headline_of({"random": 0.7, "cv": 0.6}, seeds={"random": 3, "cv": 2})
    assert title.endswith("with 2 to 3 runs (seeds) a policy where 3 are needed")
    assert "cv has 2." in text


def test_it_says_how_many_runs_there_are_where_policies_have_unequal_numbers():
    errors = {"random": 0.7, "cv": 0.6, "variance": 0.9, "entropy": 0.5}
    seeds = {"random": 5, "cv": 2, "variance": 1, "entropy": 3}
    title, text = headline_of(errors, seeds=seeds)
    assert title == (
        "entropy restores hidden values better than random; undecided: cv and variance against "
        "random, with 1 to 5 runs (seeds) a policy where 3 are needed"
    )
    assert "cv has 2 and variance has 1" in text


def test_without_random_cv_is_tested_against_its_control():
    for errors in (("cv", "shuffled_cv"), ("adaptive", "cv", "shuffled_cv", "variance")):
        results = make_results(dict(zip(errors, (0.6, 0.7, 0.75, 0.8), strict=False)))
        first = results.pairs[0]
        assert (first.first, first.second, first.family) == ("cv", "shuffled_cv", "primary")
        assert [pair.family for pair in results.pairs[1:]] == ["further"] * len(results.pairs[1:])
        assert first.p_adjusted == first.p  # alone in its family
        assert results.reference == "shuffled_cv"
        assert "cv minus shuffled_cv" in results.headline.sentences[1]
        assert "after Holm" in results.headline.sentences[1]


def test_what_seeds_alone_make_stands_beside_what_policies_make():
    assert "nothing but their seed" in headline_of({"random": 0.7, "cv": 0.6})[1]
    assert "nothing but their seed" not in headline_of({"random": 0.7, "cv": 0.6}, seeds=1)[1]


def test_it_says_where_labs_contradict_the_pooled_figure():
    # A little better on eleven codes, far worse on one.
    scale = np.full(NUM_CODES, 0.55)
    scale[0] = 1.5
    title, text = headline_of({"random": 0.6, "cv": scale})
    assert title == "random restores hidden values better than cv"
    assert "cv is ahead on 11 of 12 labs, so that most labs say the opposite" in text


def test_it_says_when_interpolation_beats_the_models():
    _, text = headline_of({"random": 0.95, "cv": 0.9})
    assert "Linear interpolation, which needs no training" in text
    assert "cv -0." in text
    assert "ahead on 0 of 12 labs" in text


def test_it_says_in_one_sentence_what_r2_is_about():
    _, text = headline_of({"mine": 0.5})
    assert text.startswith("R2 is the share of the squared error of guessing each lab's mean")


def test_without_a_lab_to_count_there_is_no_sentence_about_none_of_none():
    few = replace(SETTINGS, min_scored=10**6)
    _, text = headline_of({"random": 0.7, "cv": 0.6}, settings=few)
    assert "cv minus random" in text
    assert "ahead on" not in text
    assert "0 of 0" not in text


def test_one_model_alone_is_judged_against_interpolation():
    title, text = headline_of({"mine": 0.5})
    assert title.startswith("mine restores hidden values with a pooled R2 of 0.7")
    assert "minus it: mine +0." in text
