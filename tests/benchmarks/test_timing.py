"""Steps are timed between events of the device, which stand in here, and kernels are told apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timing
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def device_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU's clock: events read it, work is to set it forward."""
    clock = SimpleNamespace(ms=0.0, waited=0)

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock.ms

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    def synchronize(device: torch.device | None = None) -> None:
        clock.waited += 1

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    return clock


def test_cuda_steps_are_timed_by_events(device_clock: SimpleNamespace) -> None:
    taken = iter([2.0, 4.0, 3.0, 9.0])

    def work() -> None:
        device_clock.ms += next(taken)

    times = timing.back_to_back(work, 4, CUDA)
    assert times.each == (0.002, 0.004, 0.003, 0.009)
    assert times.median == 0.0035
    assert device_clock.waited == 2  # before the first and after the last, and not between
    assert times.mean == times.whole / 4


def test_steps_of_a_cpu_are_timed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.0, 13.0, 16.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    times = timing.back_to_back(lambda: None, 3, CPU)
    assert times == timing.Times((1.0, 2.0, 3.0), 6.0)
    assert (times.mean, times.median) == (2.0, 2.0)


def test_the_clock_of_a_gpu_is_raised_by_work(
    device_clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    ones = lambda *shape, device: made.append(device) or torch.zeros(2, 2)  # noqa: E731
    monkeypatch.setattr(torch, "ones", ones)
    timing.raise_clock(CPU, seconds=60.0)
    assert not made
    timing.raise_clock(CUDA, seconds=0.01)
    assert made == [CUDA]
    assert device_clock.waited > 0


def event(name: str, kind: DeviceType, count: int, us: float, note: bool = False) -> object:
    return SimpleNamespace(
        key=name,
        device_type=kind,
        count=count,
        is_user_annotation=note,
        self_device_time_total=us,
        self_cpu_time_total=us,
    )


def test_kernels_are_those_of_the_device(
    device_clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, done = [], []
    monkeypatch.delenv("TEARDOWN_CUPTI", raising=False)

    class Profile:
        def __init__(self, activities: list) -> None:
            asked.extend(activities)

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *_: object) -> None:
            assert timing.os.environ["TEARDOWN_CUPTI"] == "0"
            assert device_clock.waited == 1  # what was launched is seen to its end

        def key_averages(self) -> list:
            return [
                event("cudaGraphLaunch", DeviceType.CPU, 4, 1e6),
                event("vectorized_elementwise_kernel<FillFunctor>", DeviceType.CUDA, 40, 400.0),
                event("a note of a step", DeviceType.CUDA, 4, 1e6, note=True),
                event("sm90_xmma_dgrad_implicit_gemm_f32", DeviceType.CUDA, 8, 4000.0),
                event("multi_tensor_apply_kernel<FusedAdam>", DeviceType.CUDA, 4, 40.0),
            ]

    monkeypatch.setattr(timing, "torch_profile", Profile)
    found = timing.kernels(lambda: done.append(1), 4, CUDA)
    assert len(done) == 4
    assert asked == [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    assert [(k.name[:10], k.count, k.seconds) for k in found] == [
        ("sm90_xmma_", 2, 1e-3),
        ("vectorized", 10, 1e-4),
        ("multi_tens", 1, 1e-5),
    ]
    assert timing.by_kind(found) == {
        "their gradients": 1e-3,
        timing.REST: 1e-4,
        "optimiser": 1e-5,
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw", "convolutions"),
        ("void cudnn::winograd_nonfused::winogradForwardData4x4", "convolutions"),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_tf32f32", "their gradients"),
        ("cudnn::cnn::wgrad2d_grouped_direct_kernel", "their gradients"),
        ("at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<float>", "norms"),
        ("at::native::batch_norm_collect_statistics_kernel", "norms"),
        ("at::native::leaky_relu_kernel(at::TensorIteratorBase&)", "leaky_relu, relu"),
        ("nvjet_tst_128x64_64x9_1x2_h_bz_TNN", "products"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("at::native::direct_copy_kernel_cuda", "copies"),
        ("at::native::distribution_elementwise_grid_stride_kernel", timing.REST),
    ],
)
def test_kinds_of_kernels(name: str, kind: str) -> None:
    assert timing.kind_of_kernel(name) == kind


def test_operations_of_a_cpu_are_counted() -> None:
    a = torch.randn(40, 40)
    found = timing.kernels(lambda: torch.relu(a @ a), 3, CPU)
    counts = {kernel.name: kernel.count for kernel in found}
    assert counts["aten::mm"] == 1
    assert counts["aten::relu"] == 1
    assert all(kernel.seconds >= 0 for kernel in found)


def test_figures_name_the_processor_or_the_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    info = "vendor_id : X\nmodel name\t: A Processor 9\nmodel name\t: A Processor 9\n"
    monkeypatch.setattr(timing.Path, "exists", lambda _: True)
    monkeypatch.setattr(timing.Path, "read_text", lambda _: info)
    threads = torch.get_num_threads()
    assert timing.name_of(CPU) == f"A Processor 9, {threads} threads, torch {torch.__version__}"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert timing.name_of(CUDA) == f"NVIDIA H100, torch {torch.__version__}"
