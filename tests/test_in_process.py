"""``scaling.num_workers=0`` needs neither ray, mlflow, deepspeed nor polars."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.planted import planted_labels, write_labels

PROGRAM = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "mlflow", "deepspeed", "polars"}:
            raise ImportError(f"{name} is blocked in this test")

sys.meta_path.insert(0, Blocked())
from cvmae.command_line import run_job
from cvmae.statistics.fit import fit_statistics
from cvmae.evaluate.evaluate import evaluate
from cvmae.infer.embed_set import embed
from cvmae.infer.export import export
from cvmae.infer.impute_set import impute
from cvmae.sweep.driver import sweep
from cvmae.train.finetune import finetune
from cvmae.train.pretrain import pretrain

root, labels, out = sys.argv[1:]
common = ["--base", "tiny", "--data.root", root, "--scaling.num_workers", "0",
          "--data.min_count", "2"]
runs = [
    (fit_statistics, ["--output_dir", f"{out}/statistics"]),
    (pretrain, ["--data.statistics", f"{out}/statistics", "--output_dir", f"{out}/cv"]),
    (finetune, ["--finetune.checkpoint", f"{out}/cv", "--finetune.labels", labels,
                "--finetune.epochs", "1", "--output_dir", f"{out}/labels"]),
    (sweep, ["--sweep.policies", "random", "cv", "--output_dir", f"{out}/sweep"]),
    (
        evaluate,
        ["--evaluate.checkpoints", f"cv={out}/cv", f"again={out}/cv", "--evaluate.min_scored", "2",
         "--evaluate.bootstrap_samples", "20", "--output_dir", f"{out}/evaluation"],
    ),
    (embed, ["--infer.checkpoint", f"{out}/cv", "--output_dir", f"{out}/embeddings"]),
    (impute, ["--infer.checkpoint", f"{out}/cv", "--output_dir", f"{out}/imputed"]),
    (export, ["--infer.checkpoint", f"{out}/sweep", "--output_dir", f"{out}/best"]),
]
for verb, flags in runs:
    sys.argv = ["job", *common, *flags]
    run_job(verb)
"""


@pytest.mark.slow
def test_all_verbs_run_with_the_cluster_packages_blocked(hospital, tmp_path):
    labels = write_labels(tmp_path / "high.parquet", planted_labels(hospital))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, hospital, labels, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "cv" / "metrics.parquet").is_file()
    assert (tmp_path / "embeddings" / "report.json").is_file()
    assert (tmp_path / "imputed" / "report.json").is_file()
    assert (tmp_path / "best" / "MODEL_CARD.md").is_file()
    assert (tmp_path / "labels" / "predictions.parquet").is_file()
    assert (tmp_path / "evaluation" / "report.html").is_file()
    assert list(Path(tmp_path / "sweep" / "trials").iterdir())
