"""A small HTTP service for one artifact: predictions, embeddings and rankings as JSON.

`run.py` starts it, `app.py` is the application, `batcher.py` joins requests into batches,
`few_lines.py` keeps its log short.
"""
