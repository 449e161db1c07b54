"""One vector for each label: what a frozen model makes of a subject's rows until that time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.checkpoint import Loaded
from cvmae.infer.histories import Moments, history_batches
from cvmae.infer.matching import require_common_code
from cvmae.infer.pooling import POOLINGS, Pooling, pool, refuse_pooling, width_of
from cvmae.meds.dataset import Dataset, Source
from cvmae.meds.labels import Labels
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.splits import is_among
from cvmae.meds.units import Unit, plan_units
from cvmae.model.vomae import build_model
from cvmae.runtime.map_units import map_with
from cvmae.settings import DataConfig, ScalingConfig

__all__ = [
    "POOLINGS",
    "Embeddings",
    "Pooling",
    "embed_labels",
    "embed_moments",
    "embed_tasks",
    "may_hold",
    "ready",
    "refuse_not_finite",
    "untrained",
    "why_not_finite",
]

# Shape letters: L labels, D entries of an embedding.

ASKED = "asked"  # the subjects that are read, whatever their split
DEFAULT_UNIT_ROWS = DataConfig().unit_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """A vector for each label, in the order of the labels; zeros where nothing was known."""

    embedding_LD: dict[Pooling, Float32s] = field(repr=False)
    has_rows_L: Bools = field(
        repr=False
    )  # False: the subject has no measurement at or before the label's time


def untrained(model: Loaded, seed: int) -> Loaded:
    """Return the same model with the weights that training would have begun with.

    Args:
        model: Gives settings, vocabulary and statistics; it stays as it is.
        seed: Of the initial weights.
    """
    fresh = build_model(
        model.config.model,
        model.fitted.statistics.num_codes,
        seed,
        model.config.mask.target,
    )
    return replace(model, model=fresh.to(model.model.mask_token.device).eval())


def embed_labels(
    model: Loaded,
    dataset: Dataset,
    labels: Labels,
    *,
    poolings: Sequence[Pooling],
    scaling: ScalingConfig,
    unit_rows: int = DEFAULT_UNIT_ROWS,
) -> Embeddings:
    """Embed the subject of each label from its rows at or before the label's time.

    Args:
        model: What `cvmae.checkpoint.load_model` returns, or `untrained` of it.
        dataset: Any MEDS data set with codes of the model's vocabulary.
        labels: Of subjects of any split, or of none.
        poolings: See `cvmae.infer.pooling.pool`.
        scaling: Where units are embedded; on Ray, `start_ray` comes first.
        unit_rows: Rows that one read covers, about.

    Raises:
        ValueError: Nothing in the data set is known to the model, a row cannot be read, what
            comes out is not finite, or see `refuse_pooling`.
    """
    ((embeddings,),) = embed_tasks(
        [model], dataset, [labels], poolings=poolings, scaling=scaling, unit_rows=unit_rows
    )
    return embeddings


def embed_tasks(
    models: Sequence[Loaded],
    dataset: Dataset,
    tasks: Sequence[Labels],
    *,
    poolings: Sequence[Pooling],
    scaling: ScalingConfig,
    unit_rows: int = DEFAULT_UNIT_ROWS,
) -> list[list[Embeddings]]:
    """Embed the labels of several tasks by several models, in one pass over the data.

    Returns:
        For each model, what `embed_labels` returns of each task.
    """
    for model in models:
        refuse_pooling(model, poolings)
    subject_S = np.unique(np.concatenate([labels.subject_id_L for labels in tasks]))
    source = Source(root=dataset.root, members={ASKED: subject_S})
    units = [unit for unit in plan_units(dataset, unit_rows) if may_hold(unit, subject_S)]
    vocabularies = {m.fitted.statistics.members: m.fitted.statistics for m in models}
    for statistics in vocabularies.values():
        require_common_code(source, units, statistics, ASKED, scaling)
    results = [
        [_nothing(model, labels.num_labels, poolings) for labels in tasks] for model in models
    ]
    on_gpu = scaling.num_workers > 0 and scaling.use_gpu
    setup = partial(
        _UnitEmbedder,
        models=models,
        tasks=[Moments(subject_id_L=t.subject_id_L, time_us_L=t.time_us_L) for t in tasks],
        source=source,
        poolings=poolings,
        device="cuda" if on_gpu else "",
    )
    for parts in map_with(setup, units, scaling, "embed"):
        for own_results, own_parts in zip(results, parts, strict=True):
            for result, (index_L, part) in zip(own_results, own_parts, strict=True):
                _fill(result, index_L, part)
    return results


class _UnitEmbedder:
    """Embeds units with models that are prepared once a process."""

    def __init__(
        self,
        *,
        models: Sequence[Loaded],
        tasks: Sequence[Moments],
        source: Source,
        poolings: Sequence[Pooling],
        device: str,
    ) -> None:
        self._models = [ready(model, device) for model in models]
        self._tasks, self._source, self._poolings = tasks, source, poolings

    def __call__(self, unit: Unit) -> list[list[tuple[Ints, Embeddings]]]:
        """Return, for each model and task, which labels are of subjects here, and their vectors."""
        read: dict[tuple[tuple[str, ...], ...], Measurements] = {}
        results = []
        for model in self._models:
            statistics = model.fitted.statistics
            if statistics.members not in read:
                rows, _ = read_unit(self._source, unit, statistics.lookup, ASKED)
                read[statistics.members] = rows
            measurements = read[statistics.members]
            own = [self._embed(model, measurements, moments) for moments in self._tasks]
            for _, embeddings in own:
                refuse_not_finite(
                    embeddings,
                    model,
                    f"the model of {model.config.output_dir}, rows of {unit.pieces[0].path}",
                )
            results.append(own)
        return results

    def _embed(
        self, model: Loaded, measurements: Measurements, moments: Moments
    ) -> tuple[Ints, Embeddings]:
        subject_S = np.sort(measurements.subject_id_S)
        index_L = np.flatnonzero(is_among(subject_S, moments.subject_id_L))
        own = moments.take(index_L)
        return index_L, embed_moments(model, measurements, own, self._poolings)


def ready(model: Loaded, device: str) -> Loaded:
    """Prepare a model in the process that uses it.

    Args:
        model: As it was loaded.
        device: Where it is to be; '': where it is.
    """
    return replace(model, model=model.model.to(device)) if device else model


def embed_moments(
    model: Loaded,
    measurements: Measurements,
    moments: Moments,
    poolings: Sequence[Pooling],
) -> Embeddings:
    """Embed subjects of one unit at given times; see `history_batches`."""
    # What comes out must not depend on how many cores a machine has.
    torch.set_num_threads(model.config.train.num_threads)
    embeddings = _nothing(model, moments.num_moments, poolings)
    for history in history_batches(
        measurements,
        moments,
        model.fitted.statistics,
        sequence_length=model.config.data.sequence_length,
        num_asked=max(width_of(model, p) for p in poolings) - model.config.model.width,
    ):
        pooled = pool(model, history, poolings)
        has_rows_B = np.ones(len(history.moment_B), np.bool_)
        part = Embeddings(embedding_LD=pooled, has_rows_L=has_rows_B)
        _fill(embeddings, history.moment_B, part)
    return embeddings


def refuse_not_finite(embeddings: Embeddings, model: Loaded, where: str) -> None:
    """Refuse embeddings that are no numbers, of which nothing can be learnt.

    Args:
        embeddings: Of some labels.
        model: Which has made them.
        where: Which model it is, and of what the labels are.

    Raises:
        ValueError: One of them is NaN or infinite.
    """
    if all(np.isfinite(own_LD).all() for own_LD in embeddings.embedding_LD.values()):
        return
    raise ValueError(f"{where}: embeddings are NaN or infinite; {why_not_finite(model)}")


def why_not_finite(model: Loaded) -> str:
    """Say why a model makes numbers that are not finite, and what to do."""
    if all(bool(weight.isfinite().all()) for weight in model.model.parameters()):
        return (
            "its weights are finite, so values there are none or too large: look at them with "
            "jobs/validate.py"
        )
    return (
        "its weights are not finite, as after a training that diverged: give an earlier "
        "checkpoint of the run (checkpoints/step_*)"
    )


def _nothing(model: Loaded, num_labels: int, poolings: Sequence[Pooling]) -> Embeddings:
    return Embeddings(
        embedding_LD={p: np.zeros((num_labels, width_of(model, p)), np.float32) for p in poolings},
        has_rows_L=np.zeros(num_labels, np.bool_),
    )


def _fill(embeddings: Embeddings, index_L: Ints, part: Embeddings) -> None:
    embeddings.has_rows_L[index_L] = part.has_rows_L
    for pooling, embedding_LD in embeddings.embedding_LD.items():
        embedding_LD[index_L] = part.embedding_LD[pooling]


def may_hold(unit: Unit, subject_S: Ints) -> bool:
    """Tell whether a unit may hold rows of a subject, who ascend."""
    return any(
        np.searchsorted(subject_S, piece.first_subject)
        < np.searchsorted(subject_S, piece.last_subject, side="right")
        for piece in unit.pieces
    )
