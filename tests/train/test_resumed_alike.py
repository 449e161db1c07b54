"""A run is resumed where all ranks see it stand, or not at all."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from cvmae.checkpoint import Progress
from cvmae.train import loop
from tests.ranks import on_ranks


def resume_on_rank(number: int, folder: Path, seen: list[int]) -> None:
    """Take up a run of which each rank sees another step; note what is said."""
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=number, world_size=len(seen))
    loop.has_checkpoints = lambda run: True
    loop.load_state = lambda run: (Progress(global_step=seen[number]), {}, {})
    loop.clear_rubbish = lambda run: None
    taken = []
    engine = SimpleNamespace(
        device=torch.device("cpu"), load_state=lambda *state: taken.append(state)
    )
    try:
        run = SimpleNamespace(output_dir="run")
        said = str(loop._resume(run, engine, lambda *epoch: None).global_step)
    except RuntimeError as error:
        said = str(error)
    (folder / f"rank{number}").write_text(f"{len(taken)} {said}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([15, 15, 15], "1 15"),
        # A sum would hide it from rank 2; its state must not be dealt out to the others.
        (
            [10, 20, 15],
            "0 rank {} would resume at step {}, others 10 to 20: output_dir='run' must be a folder",
        ),
    ],
)
def test_ranks_that_see_different_checkpoints_resume_none(tmp_path, seen, said):
    on_ranks(resume_on_rank, (tmp_path, seen), world=len(seen))
    for number, step in enumerate(seen):
        text = (tmp_path / f"rank{number}").read_text()
        assert text.startswith(said.format(number, step))
