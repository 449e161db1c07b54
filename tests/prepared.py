"""Data as the verbs prepare it: opened once, then fitted."""

from cvmae.config import Config
from cvmae.meds.dataset import open_dataset
from cvmae.statistics import fit as fitting
from cvmae.statistics.fitted import FittedData, TrainingData


def fit(config: Config) -> FittedData:
    """Open the data set and fit it, as `fit_statistics` does."""
    return fitting.fit(config, open_dataset(config.data.root, ["train"]))


def load_or_fit(config: Config) -> FittedData:
    """Return what was fitted before to the data set, or fit it."""
    return fitting.load_or_fit(config, open_dataset(config.data.root))


def training_data(config: Config) -> TrainingData:
    """Return what a run is trained on, fitted anew."""
    dataset = open_dataset(config.data.root)
    return TrainingData(source=dataset.source, fitted=fitting.fit(config, dataset))
