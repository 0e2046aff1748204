"""What each column and rung of the data sets means, for their cards."""

from __future__ import annotations

FRET_COLUMNS = {
    "row_id": "hash of seed, task and query; the same row has the same id in every run",
    "task": "the retrieval intent, in the teacher's words",
    "query": "the query the teacher wrote for the seed",
    "lang": "language of the query (ISO 639-1; und: not told)",
    "seed_id": "passage the query was written from",
    "positive_id": "passage that answers the query, as the teacher ranked",
    "negative_id": "hard negative; empty where no safe one was found",
    "candidates": "the seed and the query's nearest passages with every score and rank; the choice can be made again",
    "relabelled": "whether the positive is another passage than the seed",
    "teacher": "who wrote the query",
    "rung": "what the ranking is made of",
    "prompt_version": "version of the prompts the query was written with",
    "input_tokens": "tokens that the teachers read for the row",
    "output_tokens": "tokens that they wrote",
    "note": "what is wrong with the scores, such as calls that failed; empty if nothing",
    "ranker": "who ranked the candidates",
}

CANDIDATE_COLUMNS = {
    "passage_id": "the passage",
    "miner_score": "its cosine with the query, by the miner",
    "miner_rank": "its rank by that; ranks begin at 1",
    "ql": "log-probability of the query given the passage, or what stands for it on the rung; null without a score",
    "ql_rank": "rank by it",
    "rc": "relevance, 0 to 3; null without a score",
    "rc_rank": "rank by it",
    "rrf": "fused score",
    "rank": "rank by that, the order that decides",
}

PASSAGE_COLUMNS = {
    "passage_id": "hash of title and text",
    "source_id": "its id in the corpus, or its file and place",
    "title": "title, with the headings it stands under",
    "text": "the passage",
    "source": "file or data set it comes from",
    "lang": "language (ISO 639-1; und: not told, zxx: no words)",
}

UNIFIED_COLUMNS = {
    "row_id": "id of the FRet row, or hash of the record",
    "task": "task string, as written before the query",
    "query": "the query, not rendered",
    "positive": "the text it is to be near, rendered",
    "negatives": "hard negatives, rendered; may be empty",
    "symmetric": "whether both sides are rendered as queries",
    "source": "data set it comes from; fret: the FRet rows",
    "candidates": "ranked texts with the ranker's scores, where training reads them; else empty",
}

RUNGS = {
    "ql+rc": "QL is the log-probability of the query, RC the expected grade over the labels' log-probabilities",
    "ql+rc-topk": "the same, RC from the labels among the likeliest tokens only",
    "rc+listwise": "RC from the labels among the likeliest tokens; the order of QL is the model's own",
    "graded+listwise": "RC is a grade the model wrote; the order of QL is the model's own",
    "cross-encoder": "scores of a cross-encoder",
    "statistical": "counts and cosines, no language model",
    "none": "not ranked; the seed is the positive",
}
