"""What is printed and what the JSON holds: enough to repeat it, nothing rounded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from san_deploy.backends import open_backend
from san_deploy.datasets import Options, evaluation_set, read_dataset
from san_deploy.evaluation import TTA, EvalConfig, Expansion, Rerank, evaluate_set
from san_deploy.evaluation.output import as_dict, as_text, labels_sha256
from tests.san_deploy.evaluation.sets import crop_folder, cuhk03, market


def test_json_repeats_the_evaluation(tmp_path: Path, model: Path) -> None:
    """Everything that the run needs is taken from the JSON of the first."""
    options = Options(boxes="labelled", protocol="old", testset=1)
    dataset = read_dataset(cuhk03(tmp_path / "cuhk03"), options)
    backend = open_backend(model)
    choices = EvalConfig(views=TTA("flip"), draws=7, seed=5)
    first = evaluate_set(evaluation_set(dataset, "test"), backend, choices, batch=4)
    told = json.loads(
        json.dumps(
            as_dict(first, backend, options, model=model, split="test", batch=4, splits=dataset.rows()),
            allow_nan=False,
        )
    )
    data, protocol = told["data"], told["protocol"]
    assert Path(told["model"]["file"]) == model and told["model"]["sha256"] == backend.artefact.sha256
    again_set = evaluation_set(
        read_dataset(Path(data["root"]), Options(**data["options"])), data["split_asked_for"]
    )
    assert labels_sha256(again_set) == data["labels_sha256"]
    again = evaluate_set(
        again_set,
        open_backend(Path(told["model"]["file"])),
        EvalConfig(
            views=TTA(protocol["views"]["name"]),
            tracklets=protocol["tracklets"],
            expansion=protocol["expansion"],
            rerank=protocol["rerank"],
            single_shot=protocol["single_shot"],
            draws=protocol["draws"],
            seed=protocol["seed"],
        ),
        batch=told["runtime"]["batch"],
    )
    assert {"cmc": list(again.crops.cmc), **again.crops.as_dict()} == told["figures"]["crops"]
    assert again.single_shot is not None
    assert json.loads(json.dumps(dataclasses.asdict(again.single_shot))) == told["figures"]["single_shot"]
    assert told["versions"]["numpy"] and told["versions"]["python"] and told["runtime"]["name"]
    assert "precision at the rank" in protocol["average_precision"] and "pessimistic" in protocol["ties"]
    assert [row["subset"] for row in data["evaluated"]] == ["query", "gallery"]


def test_labels_have_a_fingerprint(tmp_path: Path) -> None:
    chosen = evaluation_set(read_dataset(crop_folder(tmp_path / "crops")))
    crop = chosen.gallery[0]
    changed = [dataclasses.replace(crop, person=crop.person + 1), *chosen.gallery[1:]]
    assert labels_sha256(dataclasses.replace(chosen, gallery=changed)) != labels_sha256(chosen)
    elsewhere = evaluation_set(read_dataset(crop_folder(tmp_path / "moved")))
    assert labels_sha256(elsewhere) == labels_sha256(chosen)


def test_text_has_the_figures_and_what_they_are(tmp_path: Path, model: Path) -> None:
    chosen = evaluation_set(read_dataset(market(tmp_path / "market")))
    result = evaluate_set(chosen, open_backend(model), EvalConfig())
    lines = as_text(result, Options()).splitlines()
    assert lines[0].split() == ["rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP"]
    assert lines[1].startswith("crops") and lines[1].endswith("18 queries")
    shown = [float(cell) for cell in lines[1].split()[1:13:2]]
    crops = result.crops
    exact = [crops.rank1, crops.rank5, crops.rank10, crops.rank20, crops.mean_ap, crops.mean_inp]
    assert shown == [round(100 * value, 1) for value in exact]
    text = "\n".join(lines)
    assert "the query's own person by its own camera do not count" in text
    assert (
        "2 of 20 queries have no right answer and are left out: people without a crop in the gallery: 1"
        in text
    )


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (EvalConfig(views=TTA("ten-crop")), "ten-crop: sum of the embeddings of 10 views"),
        (EvalConfig(rerank=Rerank(k1=5, k2=2)), "k-reciprocal, k1 5, k2 2, lambda 0.3"),
        (EvalConfig(expansion=Expansion(count=3)), "of queries, by 3 neighbours, alpha 3"),
        (EvalConfig(single_shot=True, draws=3, seed=4), "3 draws made with seed 4"),
        (EvalConfig(tracklets=True), "tracklets, camera to camera"),
    ],
)
def test_text_tells_what_was_chosen(tmp_path: Path, model: Path, choices: EvalConfig, words: str) -> None:
    chosen = evaluation_set(read_dataset(crop_folder(tmp_path / "crops")))
    assert words in as_text(evaluate_set(chosen, open_backend(model), choices), Options())


def test_cameras_that_are_ignored_are_told(tmp_path: Path, model: Path) -> None:
    options = Options(no_camera=True)
    chosen = evaluation_set(read_dataset(crop_folder(tmp_path / "crops"), options))
    text = as_text(evaluate_set(chosen, open_backend(model), EvalConfig()), options)
    assert "cameras are ignored" in text and "cameras ignored" in chosen.name
