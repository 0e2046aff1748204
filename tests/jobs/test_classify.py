import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression

from gecko.errors import GeckoError
from gecko.jobs.classify import _learn, check_labels, cross_validate, learn, learning_curve


@pytest.fixture(scope="module")
def blobs():
    """Vectors of three classes that overlap a little, forty of each."""
    rng = np.random.default_rng(1)
    centres = np.eye(3, 12)
    vectors = np.repeat(centres, 40, axis=0) + 0.5 * rng.normal(size=(120, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(["ant", "bee", "cow"], 40).tolist()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_heads_probabilities_are_logistic_regressions(blobs, classes):
    vectors, labels = blobs[0][: 40 * classes], blobs[1][: 40 * classes]
    gold = np.repeat(range(classes), 40)
    head = _learn(vectors, gold, tuple(sorted(set(labels))), 10.0)
    theirs = LogisticRegression(C=10.0, max_iter=1000).fit(vectors, gold).predict_proba(vectors)
    assert head.probabilities(vectors) == pytest.approx(theirs, abs=1e-6)


def test_what_is_said_of_new_texts_holds_on_new_texts(blobs):
    vectors, labels = blobs
    half = np.arange(120) % 2 == 0
    told = cross_validate(vectors[half], np.array(labels)[half].tolist()).figures()
    head = learn(vectors[half], np.array(labels)[half].tolist())
    given = np.array(head.labels)[head.probabilities(vectors[~half]).argmax(axis=1)]
    assert told["accuracy"] == pytest.approx(np.mean(given == np.array(labels)[~half]), abs=0.1)
    assert told["ci95"][0] < told["accuracy"] < told["ci95"][1]
    assert told["commonest"] == pytest.approx(1 / 3)


def test_labels_by_chance_are_right_by_chance(blobs):
    labels = np.random.default_rng(0).permutation(blobs[1]).tolist()
    told = cross_validate(blobs[0], labels).figures()
    assert told["accuracy"] < 0.5
    assert sum(row["n"] for row in told["confused"]) == round(120 * (1 - told["accuracy"]))
    assert [row["n"] for row in told["labels"]] == [40, 40, 40]


def test_a_label_of_two_texts_is_checked_and_one_of_a_single_text_is_not(blobs):
    vectors, labels = blobs
    labels = ["rare", "rare", "once", *labels[3:]]
    kept, single = check_labels(labels)
    assert dict(single) == {"once": 1}
    assert 2 not in kept
    found = cross_validate(vectors[kept], [labels[place] for place in kept])
    assert found.figures()["n"] == 119
    assert "rare" in found.labels
    assert not np.isnan(found.sure).any()


@pytest.mark.parametrize(("labels", "said"), [(["a"] * 5, "all are a"), (["a", "b", "c"], "no label has two texts")])
def test_one_class_is_no_classes(labels, said):
    with pytest.raises(GeckoError, match=said):
        check_labels(labels)


def test_more_labels_help(blobs):
    points = learning_curve(*blobs)
    assert [point["per_label"] for point in points] == [2, 4, 8, 16]
    assert points[-1]["accuracy"] > points[0]["accuracy"]


@pytest.fixture
def head(gecko, table, tiny_model, tmp_path):
    code, value, said = gecko(
        "classify", tiny_model, "--labelled", table, "--base", tiny_model, "--out", tmp_path / "head"
    )
    assert code == 0, said
    return tmp_path / "head", value


def test_the_verb_learns_measures_and_classifies(gecko, head, tmp_path):
    out, value = head
    figures = value["figures"]
    assert figures["n"] == 90
    assert figures["accuracy"] > 0.8
    assert figures["base"]["gain"] == 0
    page = (out / "classify.html").read_text()
    assert f"{100 * figures['accuracy']:.1f} % of texts" in page
    new = tmp_path / "new.txt"
    new.write_text("bear lion wolf fox\n\nhen ibis jay owl\nriver road tree house\n")
    code, value, said = gecko("classify", "--texts", new, "--out", out)
    assert code == 0, said
    rows = [json.loads(line) for line in (out / "classified.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["beasts", "birds", "places"]
    assert all(row["probability"] >= row["next_probability"] for row in rows)
    assert value["left_out"] == {"without text": 1}


def test_a_head_of_another_model_is_refused(gecko, head, tmp_path, tiny_model):
    out, _ = head
    other = tmp_path / "other"
    import shutil

    shutil.copytree(tiny_model, other)
    weights = next(other.rglob("model.safetensors"))
    arrays = load_file(weights)
    name = next(iter(arrays))
    save_file({**arrays, name: arrays[name] + 1}, weights, {"format": "pt"})
    code, _, said = gecko("classify", other, "--texts", tmp_path / "feedback.jsonl", "--out", out)
    assert code == 1
    assert "learnt with another model" in said


@pytest.mark.parametrize("how", ["none", "cut", "short"])
def test_a_broken_head_is_one_line(gecko, head, tmp_path, how):
    out, _ = head
    if how == "none":
        (out / "head.json").unlink()
    elif how == "cut":
        (out / "head.safetensors").write_bytes((out / "head.safetensors").read_bytes()[:50])
    else:
        arrays = load_file(out / "head.safetensors")
        save_file({**arrays, "bias": arrays["bias"][:1]}, out / "head.safetensors")
    code, _, said = gecko("classify", "--texts", tmp_path / "feedback.jsonl", "--out", out)
    assert code == 1
    assert "head" in said
    assert "learn it" in said
    assert "Traceback" not in said


def test_nothing_to_do_and_no_model_are_usage_errors(gecko, table, tmp_path):
    assert gecko("classify", "--out", tmp_path)[0] == 2
    assert gecko("classify", "--labelled", table, "--out", tmp_path)[0] == 2
