"""What fine-tuned encoders have predicted of a task, beside what probes predict of the same labels.

A fine-tuning chooses its epoch on tuning and predicts `held_out`; those predictions are read, and
nothing is computed again. They are of a task where the labels are the same to the last bit, and
count only if they cover every label that is scored: what a run has learnt from, it did not predict.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from meds.schema import LabelSchema, held_out_split

from cvmae.arrays import Bools
from cvmae.checkpoint import COST
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.downstream.probes import Probe
from cvmae.evaluate.models import load
from cvmae.evaluate.pretrainings import begun_with, run_folder_of
from cvmae.meds.labels import Labels
from cvmae.storage.folders import is_file, join, local_copy
from cvmae.train.finetune import LABELS_HASH, PREDICTIONS

__all__ = ["finetuned_with", "read_finetuned", "require_tasks"]

# Shape letters: L labels, P predictions.

SUBJECT, TIME = LabelSchema.subject_id_name, LabelSchema.prediction_time_name
CHANCE = "predicted_boolean_probability"


def finetuned_with(contestants: Sequence[Contestant], labels: Labels) -> list[Contestant]:
    """Return the fine-tuned runs that have learnt from these labels."""
    return [
        c
        for c in contestants
        if c.serves == "predictions"
        and load(c, "cpu").fitted.fingerprint.get(LABELS_HASH) == labels.digest
    ]


def require_tasks(contestants: Sequence[Contestant], tasks: Sequence[Labels], split: str) -> None:
    """Refuse fine-tuned runs whose predictions are not there, or of no task.

    Raises:
        ValueError: A run has learnt from other labels, or predictions of another split are asked.
        FileNotFoundError: A run has not ended.
    """
    learnt = {c for labels in tasks for c in finetuned_with(contestants, labels)}
    for contestant in contestants:
        if contestant.serves != "predictions":
            continue
        said = f"evaluate.checkpoints={contestant.name}={contestant.path}"
        if split != held_out_split:
            raise ValueError(
                f"{said} is fine-tuned, and has predicted {held_out_split} alone: leave it out, or "
                f"leave evaluate.split={split} out"
            )
        if contestant not in learnt:
            raise ValueError(
                f"{said} was fine-tuned with "
                f"{load(contestant, 'cpu').config.finetune.labels}, which holds other labels than "
                f"every task of evaluate.labels ({', '.join(labels.name for labels in tasks)}): "
                "leave it out, or give the labels that it learnt"
            )
        if not is_file(_predictions(contestant)):
            raise FileNotFoundError(
                f"{said}: no {PREDICTIONS} there; a fine-tuning writes it at its end: go on with "
                "jobs/finetune.py --resume"
            )


def read_finetuned(contestant: Contestant, labels: Labels, scored_L: Bools) -> Probe:
    """Return what a run has predicted of the labels that are scored; NaN of all others.

    Raises:
        ValueError: It has no prediction of some of them: they were not held out there.
    """
    with local_copy(_predictions(contestant)) as path:
        table = pq.read_table(path, columns=[SUBJECT, TIME, CHANCE])
    time_P = table[TIME].cast("timestamp[us]").cast("int64").to_pylist()
    rows = zip(table[SUBJECT].to_pylist(), time_P, table[CHANCE].to_pylist(), strict=True)
    chance_of = {(subject, time): chance for subject, time, chance in rows}
    asked = zip(labels.subject_id_L.tolist(), labels.time_us_L.tolist(), scored_L, strict=True)
    chance_L = np.array(
        [chance_of.get((s, t), np.nan) if scored else np.nan for s, t, scored in asked]
    )
    num_absent = int(np.isnan(chance_L[scored_L]).sum())
    if num_absent:
        raise ValueError(
            f"{contestant.name}={contestant.path} has no prediction of {num_absent} of the "
            f"{int(scored_L.sum())} labels of {labels.name} that are scored: it was fine-tuned on "
            "another division into splits, and may have learnt from them"
        )
    history = load(contestant, "cpu").progress.history
    chosen = min(history, key=lambda epoch: epoch[COST])
    return Probe(
        learner="fine-tuning",
        strength=float(chosen["epoch"]),
        tuning_loss=float(chosen["tuning_loss"]),
        predicted_L=chance_L,
        checkpoint=contestant.path,
        stamp=contestant.stamp,
        begun_with=begun_with(contestant.path, load(contestant, "cpu").config),
    )


def _predictions(contestant: Contestant) -> str:
    return join(run_folder_of(contestant.path), PREDICTIONS)
