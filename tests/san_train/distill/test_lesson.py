"""What a student is told, and that it learns it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("tensorboard")

import torch
from san_train.data import gather
from san_train.distill.lesson import Lesson, _whitening, neighbours, targets
from san_train.distill.settings import DistillSettings, ViewSettings
from san_train.distill.teacher import open_teacher
from san_train.distill.views import TaughtViews, make_views, open_views
from san_train.models.outputs import Head, Outputs
from san_train.recipe import Recipe, from_dict, resolve
from san_train.trainer import Compute, Training

from san_deploy.datasets import read_dataset
from san_deploy.errors import SanError, UsageError

SMALL = [
    "settings.width=0.125", "settings.embedding_dim=8", "settings.size_hw=[64, 32]", "epochs=2", "steps=2",
    "distill.batch=6", "hard_mask_epochs=2", "warmup=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def lesson_data(crop_folder: Path, toy_teacher: Path, tmp_path_factory: pytest.TempPathFactory):
    data = gather([read_dataset(crop_folder)], validation_people=0, seed=0)
    folder = tmp_path_factory.mktemp("lesson") / "views"
    make_views(
        data.crops, data.domain, [open_teacher(toy_teacher)], folder, settings=ViewSettings(each=3), seed=0
    )
    return data, open_views(folder, data.crops)


def test_a_data_set_without_views_is_missed(lesson_data) -> None:
    """Views of one data set serve a run of two only where nothing is asked of the second."""
    data, views = lesson_data
    crops = [*data.crops, replace(data.crops[0], path=Path("other.png"))]
    domain = [*data.domain, 1]

    def lesson(*share: float) -> Lesson:
        return Lesson(views, crops, domain, DistillSettings(share=share), channels=(), embedding_dim=8)

    for share in ((), (0.5, 0.5), (0.0, 1.0)):
        with pytest.raises(SanError, match="no view of data set 2"):
            lesson(*share)
    assert len(lesson(1.0, 0.0).plan(0, 3, 0)) == 3


def test_a_camera_adds_nothing_to_a_centred_target(lesson_data) -> None:
    data, views = lesson_data
    camera = np.array([data.crops[crop].camera for crop in views.crop])
    wanted = targets(views, camera, 8, centred=camera, weight=np.ones(len(views)), shared=0.0, whiten=0)
    assert wanted.shape == (len(views), 8) and np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-4)
    plain = targets(
        views,
        camera,
        8,
        centred=np.zeros(len(views)).astype(str),
        weight=np.ones(len(views)),
        shared=0.0,
        whiten=0,
    )

    def gap(rows: np.ndarray) -> float:
        first = [rows[views.first & (camera == name)].mean(0) for name in ("cam1", "cam2")]
        return float(np.linalg.norm(first[0] - first[1]))

    assert gap(wanted) < 0.5 * gap(plain)


def test_a_shared_target_is_the_mean_over_cameras(lesson_data) -> None:
    data, views = lesson_data
    camera = np.array([data.crops[crop].camera for crop in views.crop])
    one = np.zeros(len(views)).astype(str)
    dim = views.rows[0].shape[1]
    wanted = targets(views, camera, dim, centred=one, weight=np.ones(len(views)), shared=1.0, whiten=0)
    # The literal form: means of means, one persona after the other.
    less = views.rows[0] - views.rows[0][views.first].mean(0)
    means = {}
    for persona in np.unique(views.persona):
        shown = views.persona == persona
        means[persona] = np.mean([less[shown & (camera == c)].mean(0) for c in np.unique(camera[shown])], 0)
    literal = np.stack([means[persona] for persona in views.persona])
    literal /= np.linalg.norm(literal, axis=1, keepdims=True)
    # Axes are turned, angles are not.
    assert np.allclose(wanted @ wanted.T, literal @ literal.T, atol=1e-4)


def test_whitening_takes_out_what_differs_between_cameras(lesson_data) -> None:
    data, views = lesson_data
    camera = np.array([data.crops[crop].camera for crop in views.crop])
    one = np.zeros(len(views)).astype(str)
    # A camera's tint as a teacher sees it, another for each persona's share of it.
    tint = np.random.default_rng(1).standard_normal(views.rows[0].shape[1])
    tinted = views.rows[0] + np.where(camera == "cam1", 1, -1)[:, None] * tint * 0.8
    views = replace(views, rows=(tinted.astype(np.float32),))

    def apart(whiten: float) -> float:
        """One persona before two cameras, as a part of two personas before one."""
        rows = targets(
            views, camera, tint.size, centred=one, weight=np.ones(len(views)), shared=0.0, whiten=whiten
        )
        same = views.persona[:, None] == views.persona[None, :]
        other_camera = camera[:, None] != camera[None, :]
        distance = 1 - rows @ rows.T
        return float(distance[same & other_camera].mean() / distance[~same & ~other_camera].mean())

    assert apart(0.1) < 0.6 * apart(0)
    # The literal form on the deviations themselves: with next to no ridge their covariance becomes a multiple of 1.
    deviations = np.random.default_rng(2).standard_normal((400, 5)) @ np.diag([1, 2, 3, 4, 5.0])
    white = deviations @ _whitening(deviations.astype(np.float32), np.ones(400), 1e-9)
    assert np.allclose(white.T @ white / 400, np.eye(5), atol=1e-3)


def test_targets_turn_onto_the_axes_of_a_network(lesson_data) -> None:
    data, views = lesson_data
    settings = DistillSettings(maps=0)
    lesson = Lesson(views, data.crops, data.domain, settings, channels=(), embedding_dim=8)
    some = lesson.plain(30)
    assert views.first[some].all() and len(some) <= 30
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    lesson.turn_onto((lesson.target[some] @ axes).astype(np.float32), some)
    assert np.allclose(lesson.turn.numpy(), axes, atol=1e-4)
    # A network that answers by its own axes has nothing to learn.
    perfect = torch.from_numpy((lesson.target[[0, 4, 9]] @ axes).astype(np.float32))
    terms = lesson.terms(Outputs((Head(perfect, perfect),), [], []), [0, 4, 9])
    assert float(terms["row"]) == pytest.approx(0, abs=1e-4)


def test_views_of_a_persona_come_together_from_different_cameras(lesson_data) -> None:
    data, views = lesson_data
    settings = DistillSettings(batch=8, together=2)
    lesson = Lesson(views, data.crops, data.domain, settings, channels=(), embedding_dim=8)
    for batch in lesson.plan(0, 5, seed=0):
        assert len(batch) == 8
        of = views.persona[batch]
        assert all((of == name).sum() % 2 == 0 for name in set(of.tolist()))
    first = int(np.flatnonzero(views.first)[0])
    other = lesson._companions(first, 1, np.random.default_rng(0))[0]
    assert data.crops[views.crop[other]].camera != data.crops[views.crop[first]].camera


def test_terms_vanish_for_a_student_that_answers_as_the_teacher(lesson_data) -> None:
    data, views = lesson_data
    settings = DistillSettings(maps=0, shared=0.0)
    lesson = Lesson(views, data.crops, data.domain, settings, channels=(), embedding_dim=8)
    batch = [0, 5, 9, 12]
    perfect = torch.from_numpy(lesson.target[batch])
    terms = lesson.terms(Outputs((Head(perfect, perfect * 3),), [], []), batch)
    assert set(terms) == {"row", "similarity", "neighbours"}
    assert all(abs(float(value)) < 1e-5 for value in terms.values())
    other = torch.randn(4, 8, requires_grad=True)
    total = sum(lesson.terms(Outputs((Head(other, other),), [], []), batch).values())
    total.backward()
    assert float(total) > 0.5 and torch.isfinite(other.grad).all()
    assert float(neighbours(perfect @ perfect.T, perfect @ perfect.T)) == pytest.approx(0, abs=1e-6)


def test_batches_take_their_share_of_each_data_set(lesson_data) -> None:
    data, views = lesson_data
    domain = [crop.person % 2 for crop in data.crops]
    settings = DistillSettings(share=(1.0, 0.0), batch=5)
    lesson = Lesson(views, data.crops, domain, settings, channels=(), embedding_dim=8)
    plan = lesson.plan(0, 3, seed=0)
    assert plan == lesson.plan(0, 3, seed=0) != lesson.plan(1, 3, seed=0)
    assert all(domain[views.crop[number]] == 0 for batch in plan for number in batch)


def run(data, views: TaughtViews, out: Path, *more: str) -> Training:
    recipe = resolve("distill", [*SMALL, *more])
    return Training(recipe, data, out, Compute(torch.device("cpu")), views=views, say=lambda line: None)


def test_training_learns_the_answers_and_resumes_bit_for_bit(lesson_data, tmp_path: Path) -> None:
    data, views = lesson_data
    whole = run(data, views, tmp_path / "whole", "epochs=4", "steps=12", "lr=3e-3", "distill.batch=12")
    whole.run()
    log = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert {"row", "similarity", "neighbours", "maps", "mask_margin", "rank1"} <= set(log[-1])
    assert log[-1]["row"] < log[0]["row"]

    run(data, views, tmp_path / "cut", "epochs=4", "steps=12", "lr=3e-3", "distill.batch=12").run(until=2)
    again = run(data, views, tmp_path / "cut", "epochs=4", "steps=12", "lr=3e-3", "distill.batch=12")
    again.resume()
    again.run()
    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not any("lesson" in name for name in whole.model.state_dict())


def test_recipes_of_a_teacher() -> None:
    recipe = resolve("distill", ["distill.row=1", "views.each=3", "augmentation.kernels=0.2"])
    assert from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    old = {
        key: value
        for key, value in Recipe().as_dict().items()
        if key not in ("distill", "views", "distilled")
    }
    assert from_dict(json.loads(json.dumps(old))) == Recipe()
    for wrong in ("distill.row=-1", "views.flip=3", "identity_weight=1", "distill=1", "views.none=1"):
        with pytest.raises(UsageError):
            resolve("distill", [wrong])
