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
    XMOD,
)
from compressor.models.families.clip import CLIP, CLIP_VISION, SIGLIP, SIGLIP_VISION, TEXT
from compressor.models.families.deberta import DEBERTA, DEBERTA_V2
from compressor.models.families.dinov2 import DINOV2
from compressor.models.families.dinov3 import DINOV3
from compressor.models.families.distilbert import DISTILBERT
from compressor.models.families.esm import ESM
from compressor.models.families.gemma import GEMMA, GEMMA_2
from compressor.models.families.gpt2 import GPT2
from compressor.models.families.llama import LLAMA
from compressor.models.families.modernbert import MODERNBERT
from compressor.models.families.mpnet import MPNET
from compressor.models.families.not_prunable import (
    BIG_BIRD,
    CANINE,
    CONVBERT,
    CONVOLUTIONS,
    DECODER_FROM_LAST_TOKEN,
    FNET,
    FUNNEL,
    GATED_POSITIONS,
    LONGFORMER,
    MOBILEBERT,
    MRA,
    NYSTROMFORMER,
    SQUEEZEBERT,
    UNKNOWN,
    WINDOWS,
    XLNET,
    YOSO,
)
from compressor.models.families.rotary import EUROBERT, GTE, JINA_EMBEDDINGS_V3
from compressor.models.families.speech import SPECTROGRAM_TRANSFORMER, WAV2VEC2, WHISPER
from compressor.models.families.t5 import T5
from compressor.models.families.vit import VIT

__all__ = ["FAMILIES", "EncoderParts", "Family", "family_of"]

FAMILIES: Mapping[str, Family] = {
    "albert": ALBERT,
    "audio-spectrogram-transformer": SPECTROGRAM_TRANSFORMER,
    "beit": BEIT,
    "bert": BERT,
    "bert-generation": NOT_SIMULATED,
    "big_bird": BIG_BIRD,
    "bigbird_pegasus": BIG_BIRD,
    "camembert": ROBERTA,
    "canine": CANINE,
    "clip": CLIP,
    "clip_text_model": TEXT,
    "clip_vision_model": CLIP_VISION,
    "convbert": CONVBERT,
    "convnext": CONVOLUTIONS,
    "convnextv2": CONVOLUTIONS,
    "data2vec-text": ROBERTA,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA_V2,
    "deit": VIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "dinov3_vit": DINOV3,
    "distilbert": DISTILBERT,
    "electra": BERT,
    "ernie": BERT,
    "esm": ESM,
    "eurobert": EUROBERT,
    "fnet": FNET,
    "funnel": FUNNEL,
    "gemma": GEMMA,
    "gemma2": GEMMA_2,
    "gemma3_text": GEMMA_2,
    "gpt2": GPT2,
    "gte": GTE,
    "helium": LLAMA,
    "hubert": WAV2VEC2,
    "jina_embeddings_v3": JINA_EMBEDDINGS_V3,
    "llama": LLAMA,
    "layoutlm": BERT,
    "longformer": LONGFORMER,
    "mbart": DECODER_FROM_LAST_TOKEN,
    "megatron-bert": MEGATRON_BERT,
    "mobilebert": MOBILEBERT,
    "mobilenet_v2": CONVOLUTIONS,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "mra": MRA,
    "mt5": T5,
    "mistral": LLAMA,
    "nomic_bert": GTE,
    "nystromformer": NYSTROMFORMER,
    "plbart": DECODER_FROM_LAST_TOKEN,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "rembert": BERT,
    "resnet": CONVOLUTIONS,
    "roberta": ROBERTA,
    "roberta-prelayernorm": ROBERTA_NORMS_FIRST,
    "roformer": BERT,
    "siglip": SIGLIP,
    "siglip_text_model": TEXT,
    "siglip_vision_model": SIGLIP_VISION,
    "splinter": NOT_SIMULATED,
    "squeezebert": SQUEEZEBERT,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "t5": T5,
    "vit": VIT,
    "wav2vec2": WAV2VEC2,
    "wavlm": GATED_POSITIONS,
    "whisper": WHISPER,
    "xlm-roberta": ROBERTA,
    "xlm-roberta-xl": XLM_ROBERTA_XL,
    "xlnet": XLNET,
    "xmod": XMOD,
    "yoso": YOSO,
}


def family_of(model_type: object) -> Family:
    """Return what is known of a model type; of one that is not in the table, next to nothing."""
    return FAMILIES.get(str(model_type), UNKNOWN)
