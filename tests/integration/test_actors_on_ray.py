"""Units worked off by processes that prepare once: here as in a pool of Ray."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cvmae.checkpoint import save_checkpoint
from cvmae.config import override
from cvmae.infer.embed import POOLINGS, embed_labels
from cvmae.infer.embed_set import embed
from cvmae.infer.impute_set import impute
from cvmae.meds.dataset import open_dataset
from cvmae.runtime.map_units import map_with
from cvmae.settings import ScalingConfig
from tests.integration.units import Doubler
from tests.small_model import labels_of

ray = pytest.importorskip("ray")
from cvmae.runtime.ray_actors import _Worker  # noqa: E402 (imports Ray)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]

TWO = ScalingConfig(num_workers=2)


def run(tmp_path, units, **given):
    setup = partial(Doubler, str(tmp_path), **given)
    return [value for value, _ in map_with(setup, units, TWO, "double")]


def lines(tmp_path, kind):
    return (tmp_path / kind).read_text("ascii").split()


def notes_left():
    from ray.experimental import internal_kv

    return internal_kv._internal_kv_list("cvmae_attempt_")


def test_every_unit_comes_in_order_and_processes_prepare_once(tmp_path):
    assert run(tmp_path, range(12)) == list(range(0, 24, 2))
    assert sorted(map(int, lines(tmp_path, "unit"))) == list(range(12))
    made = lines(tmp_path, "made")
    assert len(made) == len(set(made)) <= 2


def test_a_unit_whose_process_dies_is_worked_off_by_the_next(tmp_path):
    assert run(tmp_path, range(6), kills=3, times=2) == list(range(0, 12, 2))
    assert lines(tmp_path, "unit").count("3") == 3


def test_a_unit_that_kills_every_process_is_given_up_after_three_and_named(tmp_path):
    with pytest.raises(ChildProcessError, match=r"^unit 3 \(from 0\) took .* down 3 times"):
        run(tmp_path, range(6), kills=3)
    assert lines(tmp_path, "unit").count("3") == 3
    assert notes_left() == []


def test_what_a_unit_refuses_is_refused_once_and_in_its_words(tmp_path):
    with pytest.raises(ValueError, match=r"^2 is refused$"):
        run(tmp_path, range(6), refuses=2)
    assert lines(tmp_path, "unit").count("2") == 1
    assert notes_left() == []


@pytest.mark.parametrize(
    ("unready", "message", "most"),
    [
        ("dies", r"^the process that was to work on unit \d .* ended 3 times, .* loaded", 3 * 6),
        ("fails", r"^a process could not make ready .*\(RuntimeError: CUDA out of memory\): ", 2),
    ],
)
def test_a_process_that_cannot_make_ready_is_given_up_and_said(tmp_path, unready, message, most):
    with pytest.raises(ChildProcessError, match=message):
        run(tmp_path, range(6), unready=unready)
    assert len(lines(tmp_path, "made")) <= most
    assert notes_left() == []


@pytest.mark.parametrize("given", [{}, {"refuses": 1}, {"unready": "fails"}])
def test_an_actor_that_outlives_its_run_leaves_no_note(tmp_path, given):
    worker = _Worker(ray.put(partial(Doubler, str(tmp_path), **given)), "cvmae_attempt_over_")
    for number in range(2):
        worker({"number": number, "item": pickle.dumps(number)})
    assert notes_left() == []


def test_embeddings_are_those_of_the_calling_process_bit_for_bit(hospital, loaded):
    table = pq.read_table(Path(hospital) / "metadata" / "subject_splits.parquet")
    labels = labels_of(*((s, 10**18, 0) for s in table["subject_id"].to_pylist()))
    here, there = (
        embed_labels(
            loaded, open_dataset(hospital), labels, poolings=POOLINGS, scaling=s, unit_rows=500
        )
        for s in (ScalingConfig(num_workers=0), TWO)
    )
    assert here.has_rows_L.all()
    for pooling in POOLINGS:
        assert np.array_equal(here.embedding_LD[pooling], there.embedding_LD[pooling])


def test_the_files_of_a_job_are_the_same_bytes_on_ray_and_here(hospital, model_of, tmp_path):
    loaded = model_of(hospital)
    weights = {"model": loaded.model.state_dict(), "optimizer": {}}
    run = str(tmp_path / "run")
    save_checkpoint(
        run, config=loaded.config, fitted=loaded.fitted, progress=loaded.progress, **weights
    )
    written, printed = {}, set()
    for num_workers in (0, 2):
        out = str(tmp_path / str(num_workers))
        changes = {
            "output_dir": out,
            "infer.checkpoint": run,
            "data.unit_rows": 500,
            "scaling.num_workers": num_workers,
        }
        printed.add(embed(override(loaded.config, changes)).replace(out, ""))
        files = sorted(Path(out, "embeddings").iterdir())
        written[num_workers] = {file.name: file.read_bytes() for file in files}
    assert len(written[0]) > 3
    assert written[0] == written[2]
    assert len(printed) == 1


def test_imputed_files_and_their_report_are_the_same_bytes_on_ray_and_here(
    hospital, model_of, tmp_path
):
    loaded, written = model_of(hospital), {}
    weights = {"model": loaded.model.state_dict(), "optimizer": {}}
    run = str(tmp_path / "run")
    save_checkpoint(
        run, config=loaded.config, fitted=loaded.fitted, progress=loaded.progress, **weights
    )
    for num_workers in (0, 2):
        out = tmp_path / str(num_workers)
        changes = {
            "output_dir": out,
            "infer.checkpoint": run,
            "infer.level": 0.5,
            "data.unit_rows": 500,
            "scaling.num_workers": num_workers,
        }
        impute(override(loaded.config, changes))
        files = [*sorted((out / "imputed").iterdir()), out / "residuals.parquet"]
        written[num_workers] = {file.name: file.read_bytes() for file in files}
        written[num_workers]["report"] = (out / "report.json").read_bytes()
    assert len(written[0]) > 5
    assert written[0] == written[2]
