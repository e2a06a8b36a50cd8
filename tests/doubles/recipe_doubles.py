"""The whole recipe at the size of a toy."""

from __future__ import annotations

from pathlib import Path

from evaluate_doubles import write_task
from language_doubles import prose
from training_doubles import toy_rows, write_lines

RECIPE = """
[run]
folder = "{folder}/run"
device = "cpu"
threads = 1

[decoder]
steps = 2
batch_size = 4
window = 16
vocab_size = 560

[decoder.shape]
num_layers = 2
model_dim = 16
ffn_dim = 24
num_heads = 2
num_kv_heads = 1
head_dim = 8
window = 8

[[decoder.sources]]
path = "{folder}/prose.jsonl"

[adapt]

[pretrain]
steps = 2
batch_size = 4
window = 16
teacher = "decoder"

[pretrain.head]
projection_dim = 24
embedding_dim = 16
widths = [16, 8]

[[pretrain.sources]]
path = "{folder}/prose.jsonl"

[prepare]

[[prepare.sources]]
path = "{folder}/pairs.jsonl"
name = "toys"

[prefinetune]
steps = 2
batch_size = 8
max_tokens = 64

[[prefinetune.sources]]
path = "@prepare"

[mine]

[[mine.sources]]
path = "@prepare"
name = "toys"

[search_mixture]
random = 1
rounds = 1
keep = 2
apart = 0.0
dev = "{folder}/tasks"

[search_mixture.trial]
steps = 1
batch_size = 8
max_tokens = 64

[[search_mixture.trial.sources]]
path = "@mine/data/toys"
weight = 3

[[search_mixture.trial.sources]]
path = "{folder}/pairs.jsonl"
weight = 1
name = "other"

[finetune-a]
kind = "finetune"
mixture = "search_mixture"
steps = 2
batch_size = 8
num_negatives = 1
max_tokens = 64

[[finetune-a.sources]]
path = "@mine/data/toys"

[[finetune-a.sources]]
path = "{folder}/pairs.jsonl"
name = "other"
num_negatives = 0

[finetune-b]
like = "finetune-a"
mixture_number = 2

[merge]
models = ["finetune-a", "finetune-b"]
method = "greedy"
dev = "{folder}/tasks"
"""


def make(folder: Path) -> Path:
    rows = toy_rows(24)
    write_lines(folder / "pairs.jsonl", toy_rows(36))
    write_lines(folder / "prose.jsonl", prose())
    documents = [{"id": f"d{i}", "title": "", "text": r["positive"]} for i, r in enumerate(rows)]
    write_task(
        folder / "tasks/Animals",
        type="retrieval",
        metric="ndcg_at_10",
        files={
            "corpus.jsonl": documents,
            "queries.jsonl": [{"id": f"q{i}", "text": row["query"]} for i, row in enumerate(rows)],
            "qrels.tsv": "query-id\tcorpus-id\tscore\n"
            + "".join(f"q{i}\td{i}\t1\n" for i in range(24)),
        },
    )
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(folder=folder))
    return path
