"""What peers do with the same files, each from its own package; run in their environment.

    python loaders.py NAME SETTINGS.json

prints JSON: CPU seconds and measurements of each pass over the data. Nothing of cvmae is
imported here, and every peer only where it is measured, so that none can slow another.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SEQUENCE_LENGTH = 512
BATCH = 64
RATIO = 0.25


def meds_torch_data(settings: dict[str, Any], strategy: str) -> Callable[[], int]:
    """Load batches as its users train: its data loader, in this process.

    Sequences of single measurements (SM), at most 512, padded to the longest of a batch of 64.
    """
    import torch
    from meds_torchdata import (  # type: ignore[import-not-found]
        MEDSPytorchDataset,
        MEDSTorchDataConfig,
    )

    torch.set_num_threads(1)
    overlap = {"step_through_overlap": 0} if strategy == "step_through" else {}
    config = MEDSTorchDataConfig(
        tensorized_cohort_dir=settings["tensorized"],
        max_seq_len=SEQUENCE_LENGTH,
        seq_sampling_strategy=strategy,
        static_inclusion_mode="omit",
        batch_mode="SM",
        **overlap,
    )
    dataset = MEDSPytorchDataset(config, split="train")
    loader = dataset.get_dataloader(batch_size=BATCH, shuffle=True, num_workers=0)

    def epoch() -> int:
        return sum(int((batch.code != batch.PAD_INDEX).sum()) for batch in loader)

    return epoch


def meds_reader(settings: dict[str, Any]) -> Callable[[], int]:
    """Iterate over the events of every subject into lists; neither masks nor batches."""
    from meds_reader import SubjectDatabase  # type: ignore[import-not-found]

    database = SubjectDatabase(settings["database"], num_threads=1)
    subjects = settings["train_subjects"]

    def epoch() -> int:
        total = 0
        for subject_id in subjects:
            times, codes, values = [], [], []
            for event in database[subject_id].events:
                times.append(event.time)
                codes.append(event.code)
                values.append(event.numeric_value)
            total += len(values)
        return total

    return epoch


def pandas_groupby(settings: dict[str, Any]) -> Callable[[], int]:
    """Read, group by subject, cut windows, standardise, mask by rng.choice, pad to tensors.

    The straightforward way: one subject after another.
    """
    import numpy as np
    import pandas as pd
    import torch

    torch.set_num_threads(1)
    codes = pd.DataFrame(settings["codes"]).set_index("code")
    rng = np.random.default_rng(0)

    def sequences() -> Iterator[list[Any]]:
        for path in settings["train_shards"]:
            columns = ["subject_id", "time", "code", "numeric_value"]
            frame = pd.read_parquet(path, columns=columns)
            frame = frame.join(codes, on="code", how="inner")
            frame["z"] = (frame["numeric_value"] - frame["mean"]) / frame["std"]
            for _, subject in frame.groupby("subject_id", sort=False):
                names = ("index", "time", "z", "weight")
                whole = [subject[name].to_numpy() for name in names]
                for begin in range(0, len(subject), SEQUENCE_LENGTH):
                    yield masked(*(array[begin : begin + SEQUENCE_LENGTH] for array in whole))

    def masked(index: Any, time: Any, z: Any, weight: Any) -> list[Any]:
        hidden = np.zeros(len(index), bool)
        count = min(round(RATIO * len(index)), len(index) - 1)
        hidden[rng.choice(len(index), count, replace=False, p=weight / weight.sum())] = True
        minutes = (time - time[0]) / np.timedelta64(1, "m")
        arrays = (index, minutes.astype(np.float32), z.astype(np.float32), hidden)
        return [torch.from_numpy(array.copy()) for array in arrays]

    def epoch() -> int:
        total, batch = 0, []
        for sequence in sequences():
            batch.append(sequence)
            total += len(sequence[0])
            if len(batch) == BATCH:
                padded(batch)
                batch = []
        padded(batch)
        return total

    def padded(batch: list[list[Any]]) -> list[Any]:
        pad = torch.nn.utils.rnn.pad_sequence
        return [pad(list(column), batch_first=True) for column in zip(*batch, strict=True)]

    return epoch


LOADERS: dict[str, Callable[[dict[str, Any]], Callable[[], int]]] = {
    "meds-torch-data, random crop": lambda settings: meds_torch_data(settings, "random"),
    "meds-torch-data, all windows": lambda settings: meds_torch_data(settings, "step_through"),
    "meds_reader": meds_reader,
    "pandas group-by": pandas_groupby,
}


def main(name: str, settings_file: str) -> None:
    """Take two passes over the data on one core, and print the second's figures as JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    epoch = LOADERS[name](json.loads(Path(settings_file).read_text(encoding="utf-8")))
    epoch()  # files and code are met for the first time
    begin = time.process_time()
    measurements = epoch()
    print(json.dumps({"cpu_s": time.process_time() - begin, "measurements": measurements}))


if __name__ == "__main__":
    main(*sys.argv[1:])
