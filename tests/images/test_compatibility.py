"""The table of what does not bear each other, case by case."""

import pytest

from hpc_kit.images.compatibility import problems

DGL_CPU = {"torch": "2.2.1", "dgl": "2.1.0", "torchdata": "0.7.1", "numpy": "1.26.4"}
DGL_CUDA = {"torch": "2.4.0+cu124", "dgl": "2.4.0+cu124", "numpy": "1.26.4", "nvidia-cuda-runtime-cu12": "12.4.99"}


def test_the_studys_versions_go_together():
    assert problems(DGL_CPU, "cpu") == []
    assert problems(DGL_CUDA, "cuda", "12.4", "525.60.13") == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"torch": "2.2.2"}, "no GraphBolt library for torch 2.2.2"),
        ({"torchdata": "0.11.0"}, "imports torchdata 0.7.1 and no other"),
        ({"torchdata": None}, "torchdata is None"),
        ({"numpy": "2.4.6"}, "take numpy<2"),
        ({"dgl": "2.5.0"}, "not in the table"),
        ({"torch": "2.2.1+cu121"}, "a build for CUDA in an image for the CPU"),
    ],
)
def test_traps_on_the_cpu(changed, words):
    versions = {name: version for name, version in (DGL_CPU | changed).items() if version}
    found = problems(versions, "cpu")
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dgl": "2.4.0"}, "is the build for the CPU that the default index has"),
        ({"dgl": "2.4.0+cu121"}, "built for different CUDA versions"),
        ({"torch": "2.4.1+cu124"}, "no GraphBolt library for torch 2.4.1+cu124"),
        ({"nvidia-cuda-runtime-cu12": "12.8.90"}, "the CUDA runtime is 12.8.90, not 12.4"),
    ],
)
def test_traps_with_cuda(changed, words):
    found = problems(DGL_CUDA | changed, "cuda", "12.4", "525.60.13")
    assert len(found) == 1 and words in found[0]


def test_torch_for_the_cpu_in_an_image_for_cuda():
    assert "a build for the CPU in an image for CUDA" in problems({"torch": "2.13.0+cpu"}, "cuda", "12.8")[0]


@pytest.mark.parametrize(
    ("cuda", "driver", "words"),
    [("13.0", "570.86.10", "CUDA 13.0 needs driver 580.65.06 or newer"), ("14.0", "900", "not known here")],
)
def test_driver_too_old_for_the_cuda(cuda, driver, words):
    assert words in problems({}, "cuda", cuda, driver)[0]
