"""Does a model directory give the same vectors in two versions of Sentence-Transformers?

    python bench/compat.py MODEL OTHER_PYTHON

Encodes texts here and in the other interpreter; prints the worst cosine between them and the norms of cut vectors.
Exits with 1 where a cosine is below 0.9999 or a cut vector is not of unit length.
"""

import json
import subprocess
import sys

TEXTS = [
    "How do I rotate the keys?",
    "title: none | text: Keys are rotated monthly.",
    "naïve café 東京",
    "x" * 2000,
    "a",
]
PROGRAM = """
import json, sys
import numpy as np, sentence_transformers
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[2])
model = SentenceTransformer(sys.argv[1], device="cpu")
cut = SentenceTransformer(sys.argv[1], device="cpu", truncate_dim=128)
print(json.dumps({
    "version": sentence_transformers.__version__,
    "query": model.encode(texts, prompt_name="query").tolist(),
    "document": model.encode(texts, prompt_name="document").tolist(),
    "norms": np.linalg.norm(cut.encode(texts, normalize_embeddings=True), axis=1).tolist(),
    "max_seq_length": model.max_seq_length,
}))
"""


def encode(python: str, model: str) -> dict:
    done = subprocess.run([python, "-c", PROGRAM, model, json.dumps(TEXTS)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    import numpy as np

    model, other = sys.argv[1:3]
    here, there = encode(sys.executable, model), encode(other, model)
    worst = 1.0
    for side in ("query", "document"):
        a, b = np.array(here[side]), np.array(there[side])
        cosine = float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())
        worst = min(worst, cosine)
        print(f"{side:<9} worst cosine {cosine:.7f}")
    lengths = [result["max_seq_length"] for result in (here, there)]
    norms = here["norms"] + there["norms"]
    print(f"versions  {here['version']} and {there['version']}, max_seq_length {lengths[0]} and {lengths[1]}")
    print(f"norms of 128-d vectors: {min(norms):.6f} to {max(norms):.6f}")
    sys.exit(worst < 0.9999 or not 0.999 < min(norms) <= max(norms) < 1.001)


if __name__ == "__main__":
    main()
