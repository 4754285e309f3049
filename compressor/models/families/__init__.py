"""Families of architectures: one explicit table from a model type to what is known of it."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.models.families.albert import ALBERT
from compressor.models.families.base import EncoderParts, Family
from compressor.models.families.beit import BEIT
from compressor.models.families.bert import BERT, NOT_SIMULATED, ROBERTA
from compressor.models.families.bert_norms_first import (
    MEGATRON_BERT,
    ROBERTA_NORMS_FIRST,
    XLM_ROBERTA_XL,
)
from compressor.models.families.deberta import DEBERTA, DEBERTA_V2
from compressor.models.families.dinov2 import DINOV2
from compressor.models.families.distilbert import DISTILBERT
from compressor.models.families.esm import ESM
from compressor.models.families.llama import LLAMA
from compressor.models.families.modernbert import MODERNBERT
from compressor.models.families.mpnet import MPNET
from compressor.models.families.not_prunable import (
    AFTER_PADDING,
    BIG_BIRD,
    CONVBERT,
    FNET,
    GPT2,
    UNKNOWN,
)
from compressor.models.families.rotary import EUROBERT, GTE, JINA_EMBEDDINGS_V3
from compressor.models.families.vit import VIT

__all__ = ["FAMILIES", "EncoderParts", "Family", "family_of"]

FAMILIES: Mapping[str, Family] = {
    "albert": ALBERT,
    "beit": BEIT,
    "bert": BERT,
    "bert-generation": NOT_SIMULATED,
    "big_bird": BIG_BIRD,
    "bigbird_pegasus": BIG_BIRD,
    "camembert": ROBERTA,
    "convbert": CONVBERT,
    "data2vec-text": ROBERTA,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA_V2,
    "deit": VIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "ernie": BERT,
    "esm": ESM,
    "eurobert": EUROBERT,
    "fnet": FNET,
    "gpt2": GPT2,
    "gte": GTE,
    "jina_embeddings_v3": JINA_EMBEDDINGS_V3,
    "llama": LLAMA,
    "longformer": AFTER_PADDING,
    "megatron-bert": MEGATRON_BERT,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "mistral": LLAMA,
    "nomic_bert": GTE,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "rembert": NOT_SIMULATED,
    "roberta": ROBERTA,
    "roberta-prelayernorm": ROBERTA_NORMS_FIRST,
    "roformer": BERT,
    "splinter": NOT_SIMULATED,
    "vit": VIT,
    "xlm-roberta": ROBERTA,
    "xlm-roberta-xl": XLM_ROBERTA_XL,
    "xmod": AFTER_PADDING,
}


def family_of(model_type: object) -> Family:
    """Return what is known of a model type; of one that is not in the table, next to nothing."""
    return FAMILIES.get(str(model_type), UNKNOWN)
