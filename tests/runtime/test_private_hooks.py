"""Every private name of Ray and torch that is used: here an upgrade shows that one is gone."""

import os
import time
from types import SimpleNamespace

import pytest
import torch

from cvmae.runtime import torch_hooks


def test_tensors_are_added_to_others_pair_by_pair():
    totals = [torch.ones(2), torch.ones(3)]
    torch_hooks.add_each(totals, [torch.full((2,), 2.0), torch.full((3,), 3.0)])
    assert [total.tolist() for total in totals] == [[3.0] * 2, [4.0] * 3]


def test_compiling_knows_the_settings_that_let_it_serve_all_sizes(monkeypatch):
    duck = torch.fx.experimental._config.use_duck_shape
    limit = torch._dynamo.config.recompile_limit
    try:
        torch._dynamo.config.recompile_limit = 8
        torch_hooks.compile_for_all_sizes()
        assert torch.fx.experimental._config.use_duck_shape is False
        assert torch._dynamo.config.recompile_limit == 64
    finally:
        torch.fx.experimental._config.use_duck_shape = duck
        torch._dynamo.config.recompile_limit = limit


def test_the_actor_of_a_trial_is_where_tune_keeps_it():
    trial_class = pytest.importorskip("ray.tune.experiment.trial").Trial
    from cvmae.runtime.ray_hooks import trial_actor

    trial = trial_class("pretrain", stub=True)
    assert trial_actor(trial) is None
    trial.temporary_state.ray_actor = "actor"
    assert trial_actor(trial) == "actor"


def test_ray_train_leaves_signals_to_a_method_that_is_replaced():
    """And knows a call that stops the workers of its controller."""
    trainer = pytest.importorskip("ray.train.torch").TorchTrainer
    from ray.train.v2._internal.execution.controller import TrainController

    assert callable(trainer._register_sigint_handler)
    assert callable(TrainController.abort)


def test_the_address_of_the_own_ray_is_handed_on_only_while_it_is_asked_for(monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE, get_env_vars_to_propagate

    from cvmae.runtime.ray_hooks import own_ray_named

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = SimpleNamespace(gcs_address="10.0.0.1:1234")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: own)
    with own_ray_named():
        assert get_env_vars_to_propagate()["RAY_ADDRESS"] == "10.0.0.1:1234"
    assert "RAY_ADDRESS" not in os.environ
    assert "RAY_ADDRESS" not in ENV_VARS_TO_PROPAGATE
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with own_ray_named():
        assert get_env_vars_to_propagate()["RAY_ADDRESS"] == "10.0.0.1:1234"
    assert os.environ["RAY_ADDRESS"] == "auto"
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")  # by another, whose it stays
    with own_ray_named():
        pass
    assert "RAY_ADDRESS" in ENV_VARS_TO_PROPAGATE
    ENV_VARS_TO_PROPAGATE.discard("RAY_ADDRESS")


@pytest.mark.parametrize("client", [None, SimpleNamespace(internal_kv_del=lambda *_: 1 / 0)])
def test_a_note_is_dropped_without_complaint_where_ray_is_out_of_reach(client, monkeypatch):
    internal_kv = pytest.importorskip("ray.experimental.internal_kv")
    from cvmae.runtime.ray_hooks import drop_note

    monkeypatch.setattr(internal_kv, "global_gcs_client", client)
    drop_note("a note")


def test_a_node_is_drained_by_a_call_and_for_a_reason_that_ray_has(monkeypatch):
    raylet = pytest.importorskip("ray._raylet")
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    from cvmae.runtime.ray_hooks import drain_node

    told = []
    client = SimpleNamespace(drain_node=lambda *given: told.append(given))
    assert callable(raylet.InnerGcsClient.drain_node)  # what the client hands its calls to
    monkeypatch.setattr(raylet, "GcsClient", lambda address: told.append(address) or client)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    drain_node("10.0.0.1:6379", "abcd", 60)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert told == ["10.0.0.1:6379", ("abcd", reason, "preemption", 1_060_000)]


@pytest.mark.ray
def test_notes_and_attempts_are_seen_by_the_processes_of_a_cluster(shared_ray):
    ray = pytest.importorskip("ray")
    from cvmae.runtime.ray_hooks import drop_note, has_note, put_note, task_attempt

    put_note("a note")
    see = ray.remote(num_cpus=0)(lambda: (has_note("a note"), task_attempt()))
    assert ray.get(see.remote()) == (True, 0)
    drop_note("a note")
    assert ray.get(see.remote()) == (False, 0)


@pytest.mark.ray
def test_the_queue_between_train_and_tune_says_nothing_on_its_way_out(shared_ray, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.tune.integration import ray_train
    from ray.util.queue import Queue

    from cvmae.runtime.ray_hooks import quiet_report_callback

    with pytest.raises(RuntimeError, match="Tune session"):
        quiet_report_callback()
    queue = Queue(1, actor_options={"num_cpus": 0})
    callback = SimpleNamespace(_training_actor_item_queue=queue)
    monkeypatch.setattr(ray_train, "TuneReportCallback", lambda: callback)
    assert quiet_report_callback() is callback
    deadline = time.monotonic() + 60  # its calls overtake each other
    while words := ray.get(queue.actor.__ray_call__.remote(lambda actor: _what_is_ignored())):
        assert time.monotonic() < deadline, words
    queue.shutdown(force=True)


def _what_is_ignored() -> str:
    """Return what Python says where an exception cannot be raised any more."""
    import contextlib
    import io

    class Last:
        def __del__(self) -> None:
            raise SystemExit(1)

    with contextlib.redirect_stderr(io.StringIO()) as said:
        Last()
    return said.getvalue()
