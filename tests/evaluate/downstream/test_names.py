"""Names that differ in a blank alone stay apart, as files and as metrics."""

from cvmae.evaluate.downstream.candidates import UNTRAINED, Candidate
from cvmae.evaluate.downstream.downstream import _file
from cvmae.evaluate.downstream.results import ProbeRow, Score, Task
from cvmae.evaluate.downstream.scored import NO_INTERVAL
from cvmae.evaluate.downstream.tasks import Support
from cvmae.evaluate.to_runs import _of_task


def file_of(method, kind="model"):
    """The file of a method's first seed."""
    candidate = Candidate(
        method=method, kind=kind, features="mean", learner="logistic regression", probes=[]
    )
    return _file("task", candidate, 0)


def test_models_whose_names_differ_in_a_blank_have_files_of_their_own():
    assert file_of("cv-0.5") == "task/cv-0.5_mean_logistic-regression_0.parquet"
    assert file_of("cv 0.5") != file_of("cv-0.5")
    assert file_of("cv 0.5") == file_of("cv 0.5")
    assert " " not in file_of("cv 0.5")
    assert file_of(UNTRAINED, "untrained") != file_of("untrained-encoder")


def metrics_of(name):
    """The names of metrics of a task."""
    support = Support(
        name=name, kind="boolean", splits={}, num_without_split=0, not_learned="", not_scored=""
    )
    score = Score(value=0.7, interval=NO_INTERVAL, seeds=(0.7,), undefined="")
    row = ProbeRow(
        method="cv",
        kind="model",
        features="mean",
        learner="logistic regression",
        chosen=True,
        strengths=(1.0,),
        tuning_loss=0.5,
        scores={"auroc": score, "auprc": score},
        calibration=(),
        checkpoints=("run",),
    )
    task = Task(support=support, probes=(row,), differences=(), subgroups=())
    return {metric for _, metrics in _of_task(task, "held_out") for metric in metrics}


def test_tasks_whose_names_differ_in_a_blank_have_metrics_of_their_own():
    assert "held_out_a-b_auroc" in metrics_of("a-b")
    assert not metrics_of("a-b") & metrics_of("a b")
    assert not metrics_of("a-b") & metrics_of("a+b")
    assert not any(" " in name or "+" in name for name in metrics_of("a +b"))
