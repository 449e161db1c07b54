"""The data of a run as MLflow describes an input: name, fingerprint, counts, no subject."""

import hashlib
import json
from typing import Any

from meds.schema import DataSchema

from cvmae.config import without_password
from cvmae.meds.files import dataset_name
from cvmae.statistics.fitted import TrainingData

__all__ = ["describe_dataset"]

# Of the columns that are read, with MLflow's names of their types.
COLUMNS = {
    DataSchema.subject_id_name: "long",
    DataSchema.time_name: "datetime",
    DataSchema.code_name: "string",
    DataSchema.numeric_value_name: "float",
}


def describe_dataset(data: TrainingData) -> dict[str, str]:
    """Return name, digest, source, schema and profile of the data that a run is trained on.

    The digest is that of the fingerprint, so a copy elsewhere has the same one; the profile holds
    the fingerprint itself, the counts of each split, and the size of the vocabulary.
    """
    fitted, root = data.fitted, data.source.root
    facts = json.dumps(fitted.fingerprint, sort_keys=True)
    scheme, separator, _ = root.partition("://")
    counts: dict[str, Any] = {
        "fingerprint": fitted.fingerprint,
        "num_codes": fitted.statistics.num_codes,
        "splits": fitted.report.get("splits", {}),
    }
    columns = [{"type": type_, "name": name} for name, type_ in COLUMNS.items()]
    return {
        "name": dataset_name(root),
        "digest": hashlib.sha256(facts.encode()).hexdigest()[:8],  # as long as MLflow's own
        "source_type": scheme if separator else "local",
        "source": json.dumps({"uri": without_password(root)}),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps(counts),
    }
