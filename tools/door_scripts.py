"""What other programs run to open an artifact, for `check_doors.py`.

Each script gets the artifact, its task, a file of rows and a file to write: `{"version": ...,
"rows": [...]}`, what the program gives for each row.
"""

from __future__ import annotations

_START = """
import json, sys
import numpy as np
folder, task, given, written = sys.argv[1:]
given = json.load(open(given))
texts = given["texts"]
def finish(version, rows):
    plain = lambda value: value.item() if hasattr(value, "item") else str(value)
    json.dump({"version": version, "rows": rows}, open(written, "w"), default=plain)
"""

# Model inputs in, the graph's numbers out.
ONNXRUNTIME = (
    _START
    + """
import onnxruntime
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
rows = []
for batch in given["feeds"]:
    feed = {k: np.array(v["data"], np.int64).reshape(v["dims"]) for k, v in batch.items()}
    rows.append(session.run([given["output"]], feed)[0].ravel().tolist())
finish(onnxruntime.__version__, rows)
"""
)

OPENVINO = (
    _START
    + """
import openvino
compiled = openvino.Core().compile_model(
    folder + "/model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)
rows = []
for batch in given["feeds"]:
    feed = {k: np.array(v["data"], np.int64).reshape(v["dims"]) for k, v in batch.items()}
    rows.append(compiled(feed)[given["output"]].ravel().tolist())
finish(openvino.__version__.split("-")[0], rows)
"""
)

NODE = """
import fs from 'fs';
const [name, folder, task, given, written] = process.argv.slice(2);
const { feeds, output } = JSON.parse(fs.readFileSync(given));
const ort = await import(name);
const isWeb = name.endsWith('web');
if (isWeb) ort.env.wasm.numThreads = 1;
const model = folder + '/model.onnx';
const session = await ort.InferenceSession.create(
  isWeb ? new Uint8Array(fs.readFileSync(model)) : model,
  { executionProviders: [isWeb ? 'wasm' : 'cpu'] },
);
const rows = [];
for (const batch of feeds) {
  const feed = {};
  for (const [key, { dims, data }] of Object.entries(batch))
    feed[key] = new ort.Tensor('int64', BigInt64Array.from(data.map(BigInt)), dims);
  rows.push(Array.from((await session.run(feed))[output].data));
}
fs.writeFileSync(written, JSON.stringify({ rows }));
"""

# Texts in, predictions out.
RUNTIME = (
    _START
    + """
import compressor_runtime
predict = compressor_runtime.load_artifact(folder, threads=1)
options = {"aggregation": "none"} if task == "token-classification" else {}
found = predict(list(map(tuple, texts)) if task == "text-scoring" else texts, **options)
rows = found.tolist() if hasattr(found, "tolist") else found
finish(compressor_runtime.__version__, rows)
"""
)

TRANSFORMERS_JS = """
import fs from 'fs';
import path from 'path';
import {
  AutoModelForSequenceClassification, AutoTokenizer, env, pipeline,
} from '@huggingface/transformers';
const [folder, task, given, written] = process.argv.slice(2);
const { texts } = JSON.parse(fs.readFileSync(given));
env.localModelPath = path.dirname(folder) + '/';
env.allowRemoteModels = false;
const name = path.basename(folder);
const options = { dtype: 'q8' };
const rows = [];
if (task === 'text-scoring') {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModelForSequenceClassification.from_pretrained(name, options);
  for (const [text, text_pair] of texts) {
    const { logits } = await model(tokenizer(text, { text_pair, truncation: true }));
    rows.push(1 / (1 + Math.exp(-logits.data[0])));
  }
} else {
  const kinds = {
    'sentence-embedding': 'feature-extraction', 'multi-label-classification': 'text-classification',
  };
  const kind = kinds[task] ?? task;
  const run = await pipeline(kind, name, options);
  for (const text of texts) {
    if (task === 'sentence-embedding')
      rows.push(Array.from((await run(text, { pooling: 'mean', normalize: true })).data));
    else if (task === 'text-classification') {
      const [{ label, score }] = await run(text);
      rows.push({ label, score });
    } else if (task === 'multi-label-classification')
      rows.push(await run(text, { top_k: null }));
    else rows.push(await run(text));
  }
}
fs.writeFileSync(written, JSON.stringify({ rows }));
"""

SENTENCE_TRANSFORMERS = (
    _START
    + """
import sentence_transformers
options = {
    "backend": "onnx", "device": "cpu", "model_kwargs": {"provider": "CPUExecutionProvider"},
}
if task == "sentence-embedding":
    rows = sentence_transformers.SentenceTransformer(folder, **options).encode(texts).tolist()
else:
    rows = sentence_transformers.CrossEncoder(folder, **options).predict(texts).tolist()
finish(sentence_transformers.__version__, rows)
"""
)

FASTEMBED = (
    _START
    + """
import fastembed
from fastembed.common.model_description import ModelSource, PoolingType
name, source = "local/artifact", ModelSource(hf="local/artifact")
if task == "sentence-embedding":
    fastembed.TextEmbedding.add_custom_model(
        model=name, pooling=PoolingType.DISABLED, normalization=False, sources=source,
        dim=given["width"], model_file="model.onnx",
    )
    model = fastembed.TextEmbedding(name, specific_model_path=folder)
    rows = [vector.tolist() for vector in model.embed(texts)]
else:
    from fastembed.rerank.cross_encoder import TextCrossEncoder
    TextCrossEncoder.add_custom_model(model=name, sources=source, model_file="onnx/model.onnx")
    model = TextCrossEncoder(name, specific_model_path=folder)
    logits = [list(model.rerank(query, [passage]))[0] for query, passage in texts]
    rows = (1 / (1 + np.exp(-np.array(logits)))).tolist()
finish(fastembed.__version__, rows)
"""
)

OPTIMUM = (
    _START
    + """
from importlib.metadata import version
import torch
from optimum import onnxruntime
from transformers import AutoTokenizer, pipeline
tokenizer = AutoTokenizer.from_pretrained(folder)
kind = {
    "sentence-embedding": "FeatureExtraction", "text-classification": "SequenceClassification",
    "text-scoring": "SequenceClassification", "token-classification": "TokenClassification",
    "multi-label-classification": "SequenceClassification",
}[task]
load = getattr(onnxruntime, "ORTModelFor" + kind).from_pretrained
model = load(folder, file_name="model_quantized.onnx", provider="CPUExecutionProvider")
rows = []
if task == "text-classification":
    rows = pipeline(task, model=model, tokenizer=tokenizer)(texts, truncation=True)
elif task == "multi-label-classification":
    run = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    rows = run(texts, truncation=True)
elif task == "token-classification":
    rows = pipeline(task, model=model, tokenizer=tokenizer)(texts)
elif task == "text-scoring":
    for query, passage in texts:
        batch = tokenizer(query, passage, truncation=True, return_tensors="pt")
        rows.append(torch.sigmoid(model(**batch).logits)[0, 0].item())
else:
    for text in texts:
        batch = tokenizer(text, truncation=True, return_tensors="pt")
        states = model(**batch).last_hidden_state
        rows.append(torch.nn.functional.normalize(states.mean(dim=1))[0].tolist())
finish(version("optimum-onnx"), rows)
"""
)

TRITON = (
    _START
    + """
from importlib.metadata import version
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
config = model_config_pb2.ModelConfig()
text_format.Parse(open(given["config"]).read(), config)
finish(version("tritonclient"), [[item.name for item in config.input],
                                 [item.name for item in config.output]])
"""
)
