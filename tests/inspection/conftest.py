"""Int8 files of the tiny BERT, made by this package and by other tools, once for all tests."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir
import pytest
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from transformers.exporters.configs import ExportFormat
from transformers.exporters.quantizers.quantizer_onnxruntime import (
    OnnxRuntimeDynamicConfig,
    OnnxRuntimeQuantizer,
)

from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.progress import SILENT

TEXTS = ["a good film", "the plot was very dull and bad", "fine", "it is boring"]


class Calibration(CalibrationDataReader):
    def __init__(self, batches: Iterator[dict[str, Any]]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


@pytest.fixture(scope="session")
def tiny(tiny_bert_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_bert_dir)


@pytest.fixture(scope="session")
def plain(
    tiny: TorchModel, exported_standard_bert: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    """Return the tiny BERT in float32, with the tokenizer beside it."""
    folder = tmp_path_factory.mktemp("plain")
    tiny.preprocessor.save_pretrained(folder)
    shutil.copyfile(exported_standard_bert.path, folder / "model.onnx")
    return OnnxModel(folder / "model.onnx", threads=1)


@pytest.fixture(scope="session")
def ours(
    tiny: TorchModel, exported_bert: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    context = PassContext(
        splits={},
        load_baseline=lambda: tiny,
        device=torch.device("cpu"),
        seed=0,
        work_dir=folder / "int8",
        progress=SILENT,
        note=lambda _: None,
    )
    return apply_pass(QuantizeDynamic(min_elements=0), exported_bert, context).path


@pytest.fixture(scope="session")
def others(
    tiny: TorchModel, plain: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return files by name of the tool and its settings."""
    folder = tmp_path_factory.mktemp("others")
    logging.getLogger().setLevel(logging.ERROR)  # the quantizers log advice through the root
    files = {}
    dynamic = {
        "dynamic": {"weight_type": QuantType.QInt8, "per_channel": True},
        "dynamic, 7 bits": {
            "weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True
        },
        "dynamic, unsigned": {"weight_type": QuantType.QUInt8},
    }  # fmt: skip
    for name, settings in dynamic.items():
        files[name] = folder / f"{name}.onnx"
        quantize_dynamic(plain.path, files[name], **settings)
    batch = tiny.task.encode(tiny.preprocessor, TEXTS)
    for name, activations in (("static", QuantType.QUInt8), ("static, signed", QuantType.QInt8)):
        files[name] = folder / f"{name}.onnx"
        quantize_static(
            plain.path,
            files[name],
            Calibration(iter([plain.feed(batch)])),
            quant_format=QuantFormat.QDQ,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
    program = quantizer.quantize(onnx_ir.load(plain.path), {}, ExportFormat.ONNX)
    files["transformers"] = folder / "transformers.onnx"
    onnx_ir.save(program, files["transformers"])
    return files
