"""Families whose heads, neurons and layers cannot go, and what else is known of them."""

from __future__ import annotations

from compressor.models.families.base import Family

UNKNOWN = Family("where its heads and neurons sit is not known")
# It multiplies by one and a ten-thousandth of the mask, and transformers 5 masks by the least
# number of a float, not by -10,000 as it was trained with.
YOSO = Family(UNKNOWN.encoder, reads_padding="let padding weigh on all tokens in transformers 5")
CONVBERT = Family(
    "its heads share an output with convolutions over the same tokens",
    int8_simulated=True,
    reads_padding="convolve over tokens and padding alike",
)
MOBILEBERT = Family(
    "its layers have several feed-forward networks, and a layer is pruned as an attention and one "
    "feed-forward network around one width"
)
SQUEEZEBERT = Family(
    "its layers are convolutions in groups, of which each has to stay as wide as the others, and "
    "units are found in linear layers alone"
)
GATED_POSITIONS = Family("gates of its attention are as wide as the number of heads (WavLM)")
WINDOWS = Family("its stages differ in width, and biases of its windows in their number of heads")
CONVOLUTIONS = Family("its layers are convolutions, which have no heads and no neurons")
BIG_BIRD = Family(
    "its attention takes blocks in place of all tokens where a text is long", is_block_sparse=True
)
FNET = Family(
    "its layers mix tokens by a Fourier transform and have no heads",
    reads_padding="take no attention mask",
)
# Positions as RoBERTa's, and projections of its own for the tokens that see all others.
LONGFORMER = Family(
    "its attention has windows, and projections of its own for tokens that see all others",
    first_position="after_padding",
    not_exported="pad texts to their windows and gather tokens by what the mask holds",
)
CANINE = Family(
    UNKNOWN.encoder, not_exported="hash characters and have no one table of tokens (vocab_size)"
)
# Positions of the other kind of attention are computed as tensors, of any number of tokens.
FUNNEL = Family(
    UNKNOWN.encoder,
    not_exported="lay out positions for one number of tokens, which they halve from block to block",
    unless=("attention_type", "factorized"),
)
MRA = Family(
    UNKNOWN.encoder, not_exported="have an attention that is zero without a kernel for GPUs"
)
# It looks for the last token in a way that drops the axis of a batch of one.
DECODER_FROM_LAST_TOKEN = Family(
    UNKNOWN.encoder,
    not_exported="have a decoder that begins with the last token, found in another way for one "
    "text than for several",
)
# transformers 5 builds none without its convolution, and says so of the null itself.
NYSTROMFORMER = Family(
    UNKNOWN.encoder,
    reads_padding="convolve over tokens and padding alike",
    unless=("conv_kernel_size", None),
)
# Its weights of queries, keys, values and positions have three axes and lie in no linear layer.
XLNET = Family(
    "its attention has parameters of three axes, and units are found in linear layers alone"
)
