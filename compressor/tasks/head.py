"""What a classifier's head chooses between, as config.json says, read without loading torch.

A head with one output makes no choice: its arg-max is class 0 for every input, so accuracy and
agreement would be perfect whatever becomes of the weights. A head whose labels hold independently
of each other is no choice of one of them either. Both look like classifiers to transformers, and
are refused here by what the checkpoint says of itself, as are labels that contradict each other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from compressor.runtime.activations import ACTIVATIONS as ACTIVATIONS
from compressor.runtime.activations import Activation as Activation
from compressor.runtime.activations import HeadProblem as HeadProblem
from compressor.runtime.activations import activation_named
from compressor.runtime.activations import read_activation as read_activation
from compressor.runtime.examples import ConfigFile as ConfigFile
from compressor.words import counted, few_of

# How the names of architectures end whose outputs no task reads, and what they give.
_OTHER_HEADS: Mapping[str, str] = {
    "ForTokenClassification": "labels every token (token classification)",
    "ForQuestionAnswering": "marks a span of a text (question answering)",
    "ForMultipleChoice": "chooses between texts (multiple choice)",
    "ForCausalLM": "writes text (a language model)",
    "LMHeadModel": "writes text (a language model)",
    "DoubleHeadsModel": "writes text (a language model)",
    "EncoderDecoderModel": "writes text (a language model)",
    "ForConditionalGeneration": "writes text (an encoder with a decoder)",
    "ForMaskedLM": "fills in masked words (it was pretrained, not fine-tuned)",
    "ForPreTraining": "was pretrained, not fine-tuned",
    "ForNextSentencePrediction": "tells whether a sentence follows (it was pretrained)",
    "ForMaskedImageModeling": "fills in masked patches (it was pretrained, not fine-tuned)",
    "ForObjectDetection": "finds objects in an image",
    "Segmentation": "labels the pixels of an image",
    "ForDepthEstimation": "estimates the depth of an image",
    "ForAudioClassification": "labels sound",
    "ForAudioFrameClassification": "labels the frames of a sound",
    "ForVideoClassification": "labels videos",
    "ForXVector": "gives vectors of speakers by layers of its own",
    "ForCTC": "transcribes speech",
    "ForSpeechSeq2Seq": "transcribes speech",
}
_PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
# The last layer of heads in transformers: one row for each label.
_LAST_LAYERS = (
    "classifier.weight",
    "classifier.out_proj.weight",
    "classifier.linear_out.weight",
    "classifier.1.weight",
    "classification_head.out_proj.weight",
    "cls_classifier.weight",
    "logits_proj.weight",
    "score.weight",
)
# In the keys of every head's weights, and of hardly any encoder's.
_HEAD_WORDS = re.compile(r"classif|score|logits|head|summary|predict|output_layer")


class HasShape(Protocol):
    """A tensor of a weight file, as far as its shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its sizes."""


def other_head(architectures: Sequence[str]) -> str | None:
    """Return what a checkpoint of these architectures gives, where no task is for it."""
    for architecture in architectures:
        for ending, gives in _OTHER_HEADS.items():
            if architecture.endswith(ending):
                return f"{architecture} {gives}"
    return None


def is_headless(architectures: Sequence[str], tensors: Collection[str]) -> bool:
    """Return whether this is surely an encoder alone; `tensors` are the keys of its weights."""
    is_encoder = bool(architectures) and all(name.endswith("Model") for name in architectures)
    return is_encoder and len(tensors) > 0 and not any(map(_HEAD_WORDS.search, tensors))


def read_labels(config: ConfigFile) -> tuple[str, ...]:
    """Return the label names in the order of the logits; transformers' own where there are none.

    Raises `HeadProblem` where the keys of config.json contradict each other or a name stands twice.
    """
    names, count = config.get("id2label"), config.get("num_labels")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise HeadProblem(f"num_labels must be a whole number, 1 or more, got {count!r}")
    if names is None:
        ids = _ids(config)
        labels = tuple(f"LABEL_{index}" for index in range(2 if count is None else count))
        if ids and not set(ids) <= set(labels):
            raise HeadProblem(
                f"label2id names {few_of(list(ids))}, but id2label is missing, and then "
                f"transformers calls the classes {few_of(labels)}; write id2label, {{number: "
                f"name}}, beside it"
            )
        return labels
    if not isinstance(names, Mapping) or not names:
        raise HeadProblem(
            f"id2label must give each class a name, such as {{'0': 'no', '1': 'yes'}}, got "
            f"{str(names)[:40]}"
        )
    absent = next((index for index in range(len(names)) if str(index) not in names), None)
    if absent is not None:
        raise HeadProblem(
            f"id2label has no entry for class '{absent}'; it must number the classes "
            f"0..{len(names) - 1}"
        )
    labels = tuple(str(names[str(index)]) for index in range(len(names)))
    _require_agreement(labels, count, _ids(config))
    return labels


def _require_agreement(labels: tuple[str, ...], count: int | None, ids: ConfigFile) -> None:
    if count not in (None, len(labels)):
        raise HeadProblem(
            f"num_labels is {count}, but id2label names {len(labels)} ({few_of(labels)}); remove "
            f"num_labels, or name every class"
        )
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice is not None:
        places = [index for index, name in enumerate(labels) if name == twice]
        raise HeadProblem(
            f"id2label calls classes {few_of(list(map(str, places)))} all '{twice}'; give each "
            f"class a name of its own"
        )
    # Names that id2label does not know are what transformers leaves there, LABEL_0 and so on.
    for index, name in enumerate(labels):
        if name in ids and ids[name] not in (index, str(index)):
            raise HeadProblem(
                f"id2label says that class {index} is '{name}', label2id that it is class "
                f"{ids[name]}; make both say the same"
            )


def _ids(config: ConfigFile) -> ConfigFile:
    ids = config.get("label2id")
    return ids if isinstance(ids, Mapping) else {}


def require_choice(
    config: ConfigFile,
    tensors: Mapping[str, HasShape],
    *,
    about: ConfigFile | None = None,
    scoring: str | None = None,
) -> None:
    """Raise `HeadProblem` unless the head chooses one of several labels.

    `tensors` are those of the weight files, by their keys; `about` is the content of
    config_sentence_transformers.json, where there is one. `scoring` is the task for heads that give
    one number, where there is one.
    """
    problem_type = _problem_type(config)
    labels = read_labels(config)
    if has_label_set(config):
        raise HeadProblem(f"problem_type is multi_label_classification: {_SEVERAL}")
    if len(labels) == 1:
        ranks = is_cross_encoder(config, about)
        what = "a reranker of sentence-transformers, a CrossEncoder" if ranks else "one output"
        named = "id2label names one label" if config.get("id2label") else "num_labels is 1"
        raise HeadProblem(f"{named} ({what}): {_numbers('one number', scoring)}")
    if problem_type == "regression":
        raise HeadProblem(f"problem_type is regression: {_numbers('numbers', None)}")
    activation = activation_named(config, about)
    if activation.endswith("Sigmoid"):
        raise HeadProblem(
            f"sentence-transformers puts a sigmoid on each of its {len(labels)} outputs "
            f"({activation}): several labels can hold for one input; write problem_type: "
            f"multi_label_classification into config.json if that is meant, or remove the "
            f"activation for a choice of one label"
        )
    _require_rows(config, tensors, labels)


def require_tags(config: ConfigFile, tensors: Mapping[str, HasShape]) -> tuple[str, ...]:
    """Return the tags that the head chooses between for each token, in the order of its logits.

    Raises `HeadProblem` unless it chooses one of several; arguments are those of `require_choice`.
    """
    problem_type = config.get("problem_type")
    if problem_type not in (None, "single_label_classification"):
        raise HeadProblem(
            f"problem_type is {problem_type!r}, and tags are a choice of one for each word; give a "
            f"checkpoint that was trained to choose one"
        )
    saved_for = [str(name) for name in config.get("architectures") or ()]
    if others := [name for name in saved_for if name.endswith("ForSequenceClassification")]:
        raise HeadProblem(
            f"architectures is {', '.join(others)}, whose head gives one label for a whole text "
            f"and none for its words; give a checkpoint that ends with ForTokenClassification"
        )
    labels = read_labels(config)
    if len(labels) == 1:
        raise HeadProblem(
            f"id2label names one label ({labels[0]}), which every word would get; give a "
            f"checkpoint that chooses between several"
        )
    _require_rows(config, tensors, labels)
    return labels


def gives_one_number(config: ConfigFile) -> bool:
    """Return whether config.json names one label; what contradicts itself names none.

    >>> gives_one_number({"num_labels": 1}), gives_one_number({"id2label": {"0": "a", "1": "b"}})
    (True, False)
    """
    try:
        return len(read_labels(config)) == 1
    except HeadProblem:
        return False


def require_number(
    config: ConfigFile,
    tensors: Mapping[str, HasShape],
    *,
    about: ConfigFile | None = None,
) -> None:
    """Raise `HeadProblem` unless the head gives one number, and it is clear which one is meant.

    Arguments as for `require_choice`.
    """
    problem_type = _problem_type(config)
    labels = read_labels(config)
    if len(labels) > 1:
        raise HeadProblem(
            f"the head has {counted(len(labels), 'label')} ({few_of(labels)}), and a score is one "
            f"number; set model.task: text-classification for a choice between them, or give a "
            f"checkpoint with num_labels 1"
        )
    if problem_type == "single_label_classification":
        raise HeadProblem(
            "problem_type is single_label_classification, and there is one label to choose from; "
            "write regression if the number is the logit, or remove it if it is the sigmoid of it"
        )
    prompt = (about or {}).get("default_prompt_name")
    prompts = (about or {}).get("prompts")
    if prompt is not None and not (isinstance(prompts, Mapping) and prompts.get(prompt) == ""):
        raise HeadProblem(
            f"config_sentence_transformers.json puts the prompt {prompt!r} before every text, "
            f"which an artifact does not; write the prompt into the rows and set "
            f"default_prompt_name to null"
        )
    read_activation(config, about)
    _require_rows(config, tensors, labels)


def require_span(config: ConfigFile, tensors: Mapping[str, HasShape]) -> None:
    """Raise `HeadProblem` unless the head gives two numbers for each token: start and end."""
    labels = read_labels(config)
    if len(labels) != 2:
        raise HeadProblem(
            f"the head has {counted(len(labels), 'label')} ({few_of(labels)}), and a span has two, "
            f"its start and its end; remove num_labels and id2label, or give a checkpoint that was "
            f"trained to mark spans"
        )
    head = tensors.get("qa_outputs.weight")
    if head is not None and head.shape[0] != 2:
        raise HeadProblem(
            f"qa_outputs.weight among the weights has {counted(head.shape[0], 'row')}, and a span "
            f"needs two, for its start and its end; give a checkpoint that was trained to mark "
            f"spans"
        )


def _problem_type(config: ConfigFile) -> str | None:
    found = config.get("problem_type")
    if found is not None and found not in _PROBLEM_TYPES:
        raise HeadProblem(f"problem_type is {found!r}, known are {', '.join(_PROBLEM_TYPES)}")
    return found


def _require_rows(
    config: ConfigFile, tensors: Mapping[str, HasShape], labels: Sequence[str]
) -> None:
    """Raise `HeadProblem` where the last layer of the head has not a row for each label."""
    rows = _head_rows(tensors)
    if rows is not None and rows[1] != len(labels):
        source = "id2label" if config.get("id2label") else "num_labels"
        if source == "num_labels" and config.get("num_labels") is None:
            source = "without id2label transformers' default"
        raise HeadProblem(
            f"{rows[0]} among the weights has {counted(rows[1], 'row')}, one for each label, but "
            f"{source} names {counted(len(labels), 'label')} ({few_of(labels)}); take both files "
            f"from the same save, or name every class in id2label"
        )


def has_label_set(config: ConfigFile) -> bool:
    """Return whether config.json says that each label holds or not, whatever the others do.

    It may name one label alone, which then holds or not. A reranker that sentence-transformers
    wrote gives a score all the same.

    >>> has_label_set({"problem_type": "multi_label_classification", "num_labels": 1})
    True
    """
    if config.get("problem_type") != "multi_label_classification":
        return False
    return not (is_cross_encoder(config, None) and gives_one_number(config))


def require_label_set(config: ConfigFile, tensors: Mapping[str, HasShape]) -> None:
    """Raise `HeadProblem` unless each label has a logit of its own; arguments as above."""
    problem_type = config.get("problem_type")
    if not has_label_set(config):
        said = "config.json has no problem_type"
        if problem_type is not None:
            said = f"problem_type is {problem_type!r}"
        if gives_one_number(config):
            raise HeadProblem(
                f"{said}, so nothing says that the one number is the logit of a label that holds "
                f"or not; write problem_type: multi_label_classification into config.json if the "
                f"model was trained so, or set model.task: text-scoring for a score"
            )
        raise HeadProblem(
            f"{said}, so nothing says that several labels can hold for one input; write "
            f"problem_type: multi_label_classification into config.json if the model was trained "
            f"so, or set model.task: text-classification for a choice of one label"
        )
    _require_rows(config, tensors, read_labels(config))


def _numbers(what: str, scoring: str | None) -> str:
    gives = (
        f"its head gives {what} for an input, and no choice between labels, so that no prediction "
        f"could be right or wrong"
    )
    if scoring is not None:
        return f"{gives}; set model.task: {scoring}, or give a classifier of two labels or more"
    return f"{gives}, and there is no task for such scores; give a classifier of two labels or more"


_SEVERAL = (
    "several labels can hold for one input, and this task chooses one; set model.task: "
    "multi-label-classification for texts, or give a classifier that was trained to choose one "
    "label "
    "(problem_type single_label_classification)"
)


def is_cross_encoder(config: ConfigFile, about: ConfigFile | None) -> bool:
    """Return whether sentence-transformers wrote the checkpoint as a CrossEncoder."""
    if (about or {}).get("model_type") == "CrossEncoder":
        return True
    own = config.get("sentence_transformers")
    return "sbert_ce_default_activation_function" in config or (
        isinstance(own, Mapping) and "activation_fn" in own
    )


def _head_rows(tensors: Mapping[str, HasShape]) -> tuple[str, int] | None:
    """Return name and number of rows of the head's last layer; None where none has its name."""
    for name in _LAST_LAYERS:
        # Also (labels, channels, 1, 1) of a head that is a convolution.
        if name in tensors and len(tensors[name].shape) >= 2:
            return name, tensors[name].shape[0]
    return None
