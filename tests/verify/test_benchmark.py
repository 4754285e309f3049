from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import EnvironmentMismatch
from compressor.models import onnx_model
from compressor.models.onnx_model import OnnxModel
from compressor.models.provider_options import ProviderSettings
from compressor.onnx_graph.onnx_file import save_graph
from compressor.progress import Silent
from compressor.runtime.session import PROVIDERS
from compressor.verify import benchmark as module
from compressor.verify import timing
from compressor.verify.benchmark import benchmark, default_threads
from compressor.verify.timing import TimingPlan, is_noisy


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Return two graphs: `final` multiplies two columns, `baseline` a thousand times more."""
    return {
        "baseline": write_product(tmp_path / "baseline.onnx", width=2000),
        "final": write_product(tmp_path / "final.onnx", width=2),
    }


def write_product(path: Path, *, width: int) -> Path:
    constants = {
        "wide": np.ones((2, width), np.float32),
        "narrow": np.ones((width, 3), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "wide"], ["hidden"]),
            helper.make_node("Exp", ["hidden"], ["exponential"]),
            helper.make_node("MatMul", ["exponential", "narrow"], ["logits"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    save_graph(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def batch(size: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((size, 2), np.float32)}


def for_both(size: int) -> dict[str, dict[str, np.ndarray]]:
    return {"baseline": batch(size), "final": batch(size)}


def time_models(
    models, *, batches=None, warmup_runs=1, num_runs=5, seed=0, provider="cpu", **settings
):
    return benchmark(
        models,
        provider=provider,
        batches=[(1, None, for_both(1))] if batches is None else batches,
        plan=TimingPlan(warmup_runs, num_runs, threads=1, seed=seed),
        **settings,
    )


class Recorder(Silent):
    """Keeps the details that a bar showed."""

    def __init__(self):
        self.details = []

    @contextmanager
    def bar(self, description, total):
        yield lambda amount=1, detail="": self.details.append(detail)


def test_progress_says_what_was_measured_so_far(models):
    progress = Recorder()
    found = time_models(models, batches=[(4, 16, for_both(4))], num_runs=3, progress=progress)
    medians = {item.model: f"{item.model} {item.p50_ms:.3g} ms" for item in found}
    assert len(progress.details) == 3
    assert progress.details[-1] == f"batch 4 x 16: {medians['baseline']}, {medians['final']}"


def test_latencies_say_how_they_were_taken(models):
    found = time_models(models, batches=[(1, None, for_both(1)), (4, 16, for_both(4))])
    assert [
        (item.model, item.provider, item.batch_size, item.sequence_length, item.num_runs)
        for item in found
    ] == [
        ("baseline", "cpu", 1, None, 5),
        ("final", "cpu", 1, None, 5),
        ("baseline", "cpu", 4, 16, 5),
        ("final", "cpu", 4, 16, 5),
    ]
    assert {item.threads for item in found} == {1}
    assert all(0 < item.p50_ms <= item.p95_ms for item in found)


def test_smaller_model_is_faster(models):
    baseline, final = time_models(models, batches=[(256, None, for_both(256))], num_runs=15)
    assert final.p50_ms < baseline.p50_ms


def test_percentiles_are_those_of_the_runs(models, monkeypatch: pytest.MonkeyPatch):
    # Each reading of the clock comes twice: runs of 1, 2, ... 20 ms, for one model.
    ends = np.cumsum(np.arange(1, 21)) * 1_000_000
    starts = ends - np.arange(1, 21) * 1_000_000
    clock = iter(np.stack([starts, ends], axis=1).ravel().tolist())
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: next(clock))
    [found] = time_models({"final": models["final"]}, num_runs=20)
    assert found.p50_ms == pytest.approx(10.5)
    assert found.p95_ms == pytest.approx(19.05)  # between the 19th and the 20th value
    assert found.p99_ms == pytest.approx(19.81)


def test_models_take_turns_in_shuffled_order_after_the_warm_up(models, monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(
        module, "_prepare", lambda model, inputs, number: lambda: calls.append(model.path.stem)
    )
    time_models(models, warmup_runs=2, num_runs=30)
    assert calls[:4] == ["baseline", "baseline", "final", "final"]
    rounds = [tuple(calls[start : start + 2]) for start in range(4, len(calls), 2)]
    assert len(rounds) == 30
    assert set(rounds) == {("baseline", "final"), ("final", "baseline")}


def test_each_model_runs_its_own_inputs(models, monkeypatch):
    prepared = {}
    monkeypatch.setattr(
        module,
        "_prepare",
        lambda model, inputs, number: prepared.setdefault(model.path.stem, inputs) and print,
    )
    own = {"baseline": batch(3), "final": batch(3)}
    time_models(models, batches=[(3, None, own)], num_runs=1)
    assert prepared == own
    assert prepared["final"] is own["final"]


def test_order_is_the_same_for_the_same_seed(models, monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(
        module, "_prepare", lambda model, inputs, number: lambda: calls.append(model.path.stem)
    )
    time_models(models, num_runs=20, seed=3)
    time_models(models, num_runs=20, seed=3)
    assert calls[: len(calls) // 2] == calls[len(calls) // 2 :]


def test_bound_inputs_and_outputs_give_the_same_run(models):
    # The path of GPUs, with the CPU as the device.
    model = OnnxModel(models["final"])
    bound = module._bind(model.session, batch(3), "cpu")
    first = bound()
    np.testing.assert_array_equal(first.numpy(), model.predict(batch(3)))
    assert bound() is first  # in one place, as a CUDA graph needs it


def test_nothing_of_a_gpu_is_measured_on_the_cpu(models):
    found = time_models(models, settings=ProviderSettings(cuda_graph=True))
    assert {(item.cuda_graph, item.peak_memory_bytes) for item in found} == {(False, None)}


@pytest.fixture
def as_cuda(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Let the CPU stand for CUDA; returns what each session was told, in order."""
    told: list[dict[str, str]] = []
    options = onnx_model.provider_options

    def listen(provider, source, settings):
        found = options(provider, source, settings)
        told.append(found["CUDAExecutionProvider"])
        return {}

    bind = module._bind
    monkeypatch.setitem(PROVIDERS, "cuda", ("CPUExecutionProvider",))
    monkeypatch.setattr(onnx_model, "provider_options", listen)
    monkeypatch.setattr(
        module, "_bind", lambda session, feed, device, *rest: bind(session, feed, "cpu")
    )
    monkeypatch.setattr(module, "GpuMemory", Growing)
    monkeypatch.setattr(module, "check_provider", lambda provider: None)
    return told


class Growing:
    """A GPU on which 1000 bytes more are in use each time it is asked."""

    def __init__(self) -> None:
        self.used = 0

    def used_bytes(self) -> int:
        self.used += 1000
        return self.used


def test_memory_of_a_gpu_is_what_a_session_of_its_own_takes(models, as_cuda):
    grid = [(1, None, for_both(1)), (4, None, for_both(4))]
    found = time_models(models, batches=grid, provider="cuda")
    assert [item.peak_memory_bytes for item in found] == [1000] * 4
    alone, timed = as_cuda[:4], as_cuda[4:]
    assert [item.get("arena_extend_strategy") for item in alone] == ["kSameAsRequested"] * 4
    assert timed == [{"use_tf32": "1", "enable_cuda_graph": "0"}] * 2


def test_cuda_graphs_are_asked_for_and_said(models, as_cuda):
    found = time_models(models, provider="cuda", settings=ProviderSettings(cuda_graph=True))
    assert {item["enable_cuda_graph"] for item in as_cuda} == {"1"}
    assert all(item.cuda_graph for item in found)


def test_each_shape_has_a_graph_of_its_own(models, as_cuda, monkeypatch):
    numbers = []

    def bind(session, feed, device, options):
        numbers.append((len(feed["x"]), options.get_run_config_entry("gpu_graph_id")))
        return lambda: None

    monkeypatch.setattr(module, "_bind", bind)
    monkeypatch.setattr(
        module, "_memory", lambda *rest: {(n, i): 0 for n in models for i in (0, 1)}
    )
    grid = [(1, None, for_both(1)), (4, None, for_both(4))]
    time_models(models, batches=grid, provider="cuda", settings=ProviderSettings(cuda_graph=True))
    assert sorted(set(numbers)) == [(1, "1"), (4, "2")]


def test_engines_of_two_models_are_kept_apart(models, as_cuda, tmp_path: Path, monkeypatch):
    folders = {}
    monkeypatch.setattr(
        onnx_model,
        "provider_options",
        lambda provider, source, settings: folders.update({source.stem: settings.cache_dir}) or {},
    )
    time_models(models, provider="cuda", settings=ProviderSettings(cache_dir=tmp_path))
    assert folders == {"baseline": tmp_path / "baseline", "final": tmp_path / "final"}


def test_provider_that_is_not_there_is_an_error(models):
    with pytest.raises(EnvironmentMismatch, match="provider 'cuda' is not in this onnxruntime"):
        time_models(models, provider="cuda")


def test_nothing_to_time_is_an_error(models):
    with pytest.raises(ValueError, match="needs a model, a batch and a run"):
        time_models(models, batches=[])


def test_threads_that_share_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(module, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert default_threads() == 2


def test_every_logical_cpu_counts_where_the_topology_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert default_threads() == 3


@pytest.mark.parametrize(
    ("elapsed_ms", "noisy"),
    [
        ([1.0] * 20, False),
        ([1.0] * 19 + [9.0], False),  # one in twenty is the 95th percentile's own business
        ([1.0] * 18 + [9.0, 9.0], True),
        ([1.0] * 10 + [1.1] * 10, False),
        ([1.0] * 10 + [1.2] * 10, True),
        ([1.2] * 10 + [1.0] * 10, True),
        ([1.0, 1.2], False),  # too few to tell drift from chance
        ([5.0], False),
    ],
)
def test_a_busy_machine_is_noticed(elapsed_ms: list[float], noisy: bool):
    assert is_noisy(elapsed_ms) is noisy


def test_a_speed_up_to_choose_by_is_not_known_after_one_run(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    # Times that do not vary at all: what a machine that is busy would add is no part of the test.
    def steady(runs, num_rounds, **settings):
        times = {name: np.full(num_rounds, 2.0) for name in runs}
        return timing.Turns("cpu", times, times)

    monkeypatch.setattr(module, "take_turns", steady)
    baseline, final = time_models(models, num_runs=1, must_be_steady=True)
    assert baseline.num_runs == final.num_runs >= 6


def test_times_that_vary_too_much_to_choose_by_are_refused(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    random = np.random.default_rng(0)

    def noisy(runs, num_rounds, **settings):
        times = {name: random.lognormal(sigma=4.0, size=num_rounds) for name in runs}
        return timing.Turns("cpu", times, times)

    monkeypatch.setattr(module, "take_turns", noisy)
    with pytest.raises(
        EnvironmentMismatch,
        match=r"batch 1: times on the cpu clock vary too much .*after 600 runs; run again when",
    ):
        time_models(models, num_runs=50, must_be_steady=True)
