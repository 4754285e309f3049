"""Certificates: bounds on the drop of a score from paired examples, with a stated confidence."""

from compressor.certificate.bootstrap import (
    MetricFunction,
    f1_macro,
    matthews_correlation,
)
from compressor.certificate.certify import (
    certify_agreement,
    certify_metric,
    certify_paired,
    certify_slices,
    enough_examples,
)
from compressor.certificate.numbers import (
    certify_correlation,
    certify_each,
    certify_mean,
    certify_quantile,
)
from compressor.certificate.power import (
    chance_for_accuracy,
    chance_for_agreement,
    examples_for_accuracy,
    examples_for_agreement,
)
from compressor.certificate.ranks import spearman
from compressor.certificate.recalls import Limited, certify_recalls, limits_of
from compressor.certificate.score_bound import (
    holm,
    noninferiority_p_value,
    tango_upper_bound,
)
from compressor.certificate.scores import certify_drop, certify_scores, hits_of, rows_to_certify
from compressor.certificate.sums import certify_sums

__all__ = [
    "Limited",
    "MetricFunction",
    "certify_agreement",
    "certify_correlation",
    "certify_drop",
    "certify_each",
    "certify_mean",
    "certify_metric",
    "certify_paired",
    "certify_quantile",
    "certify_recalls",
    "certify_scores",
    "certify_slices",
    "certify_sums",
    "chance_for_accuracy",
    "chance_for_agreement",
    "enough_examples",
    "examples_for_accuracy",
    "examples_for_agreement",
    "f1_macro",
    "hits_of",
    "holm",
    "limits_of",
    "matthews_correlation",
    "noninferiority_p_value",
    "rows_to_certify",
    "spearman",
    "tango_upper_bound",
]
