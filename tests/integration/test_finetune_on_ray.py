"""Fine-tuning on Ray: the losses of one process, its predictions, and MLflow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cvmae.checkpoint import read_progress
from cvmae.config import override
from cvmae.train.finetune import finetune
from tests.train.planted import make_planted

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.mark.survival
def test_two_workers_lose_what_one_process_loses_and_predict_the_same(tmp_path):
    config = make_planted(tmp_path, num_subjects=100)
    alone = override(config, {"output_dir": str(tmp_path / "alone")})
    on_ray = override(config, {"output_dir": str(tmp_path / "on_ray"), "scaling.num_workers": 2})
    told = [finetune(run).partition("\npredictions")[0] for run in (alone, on_ray)]
    ours, theirs = (read_progress(run.output_dir).history for run in (on_ray, alone))
    assert [e["step"] for e in ours] == [e["step"] for e in theirs]
    for name in ("train_loss", "tuning_loss", "tuning_auroc"):
        # Gradients summed in another order: about 1e-6 a step, amplified by AdamW.
        np.testing.assert_allclose(
            [e[name] for e in ours], [e[name] for e in theirs], rtol=1e-3, err_msg=name
        )
    assert told[0].split(" (")[0] == told[1].split(" (")[0]
    predicted = [
        pl.read_parquet(Path(run.output_dir, "predictions.parquet")) for run in (alone, on_ray)
    ]
    names = ["subject_id", "prediction_time", "boolean_value"]
    assert predicted[0].select(names).equals(predicted[1].select(names))
    np.testing.assert_allclose(
        *(found["predicted_boolean_probability"].to_numpy() for found in predicted), rtol=1e-3
    )
    assert Path(on_ray.output_dir, "mlflow.db").is_file()
    # What has ended ends again, without a worker.
    assert finetune(replace(on_ray, resume=on_ray.output_dir)).startswith(told[1])
