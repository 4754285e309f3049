"""The four splits of a run: train, calibration, search, certification."""

from compressor.data.check import (
    check_files,
    check_labels,
    check_present,
    check_split,
    most_rows,
)
from compressor.data.describe import describe_splits, fingerprint, rows_as_json
from compressor.data.repeats import repeated
from compressor.data.settings import SPLIT_NAMES, DataSettings, SplitSource
from compressor.data.splits import (
    CALIBRATION_ROWS,
    Dataset,
    calibration_cut,
    check_plan,
    cut_sizes,
    load_splits,
    plan_cuts,
)

__all__ = [
    "CALIBRATION_ROWS",
    "SPLIT_NAMES",
    "DataSettings",
    "Dataset",
    "SplitSource",
    "calibration_cut",
    "check_files",
    "check_labels",
    "check_plan",
    "check_present",
    "check_split",
    "cut_sizes",
    "describe_splits",
    "fingerprint",
    "load_splits",
    "most_rows",
    "plan_cuts",
    "repeated",
    "rows_as_json",
]
