"""Which precision a machine gets, and which errors mean that memory ran out."""

import pytest
import torch

from hdtalk.device import is_out_of_memory, resolve_precision


@pytest.mark.parametrize("avx512, amx", [(False, False), (True, False), (False, True)])
def test_bfloat16_is_taken_where_the_processor_multiplies_it(monkeypatch, avx512, amx):
    """Others compute in it too, by converting: slower than float32."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    expected = torch.bfloat16 if avx512 or amx else torch.float32
    assert resolve_precision("auto", torch.device("cpu")) == expected


def test_a_graphics_card_is_asked_for_itself_and_without_emulation(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or torch.no_grad())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_precision("auto", torch.device("cuda:1")) == torch.float32
    assert asked == [torch.device("cuda:1")]


def test_memory_also_runs_out_in_the_driver_and_its_libraries():
    for words in (
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
