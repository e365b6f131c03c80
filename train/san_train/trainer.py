"""The training loop."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from san_deploy.artefact import Threshold
from san_deploy.datasets import labels
from san_deploy.errors import SanError, UsageError
from san_deploy.io.versions import versions
from san_deploy.matching import threshold as calibrate
from san_deploy.preprocess import RESIZE, resize_crop

from . import evaluate
from .attention import temperature
from .checkpoint import CheckpointInfo, load_tensors, load_weights, save_checkpoint
from .data import TrainingData, fingerprint, normalise
from .describe import resolve_mask
from .distill.lesson import Lesson
from .distill.views import TaughtViews
from .learner import Learner, loss_terms
from .loader.images import CropCache, Images
from .loader.processes import Loader
from .loader.worker import EpochDraws
from .models import Network, Outputs, backbone_of, build_model, std_of
from .ranks import Ranks
from .recipe import Recipe, learning_rate
from .run_state import (
    BEST,
    MODEL,
    STATE,
    RunState,
    append_log,
    forget_log_after,
    load_state,
    part,
    write_config,
)
from .sampler import IdentitySampler

#: Of one person's pairs, those that have to reach the threshold; below it a network is called weak.
_WEAK = 0.6
#: Seconds from which an epoch's line says how long the others will take.
_LONG = 60
#: Views by which a lesson's targets are turned onto a network's axes.
_TURNED_BY = 1024
#: Bytes of decoded crops that are kept, by all the loader's processes.
_KEPT = 3 << 30
#: Draws for crops, and for views of a lesson.
_OF_CROPS, _OF_VIEWS = 2, 12


@dataclass(frozen=True)
class Compute:
    """Where and how a run computes; not part of the recipe.

    Attributes:
        device: a torch device.
        precision: `fp32` or `bf16` (autocast; weights and masks stay FP32).
        workers: processes that augment; 0 augments in this one, see `loader.processes.Loader`.
        ranks: this process among those that train together.
    """

    device: torch.device
    precision: str = "fp32"
    workers: int = 0
    ranks: Ranks = field(default_factory=Ranks)


class Training:
    """One run: `run()` trains from where the folder stands to the last epoch.

    Args:
        recipe: what to do.
        data: on what.
        out: the run's folder; its files appear whole.
        compute: where.
        pretrained: gives torchvision's state dict for a backbone of some depth; or None.
        start: weights of a whole network to start from (a checkpoint of ours), or None.
        say: prints a line for people.
        progress: wraps the steps of an epoch with a progress bar.
        views: of the training crops, with a teacher's answers; for a recipe that is `distilled`.
        origin: what `config.json` says of the run beside its recipe and data: where its first weights are from.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        out: Path,
        compute: Compute,
        *,
        pretrained: Callable[[int], dict[str, Tensor]] | None = None,
        start: Path | None = None,
        say: Callable[[str], None] = print,
        progress: Callable[[int, str], Any] | None = None,
        views: TaughtViews | None = None,
        origin: dict[str, Any] | None = None,
    ) -> None:
        self.recipe, self.data, self.out, self.compute = recipe, data, Path(out), compute
        self.say, self.progress, self.origin = say, progress, dict(origin or {})
        torch.manual_seed(recipe.seed)
        try:
            model = build_model(recipe.arch, recipe.settings)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if pretrained is not None:
            _load_pretrained(model, pretrained, recipe.arch)
        if start is not None:
            load_weights(model, load_tensors(start)[0], start)
        self.learner = Learner(model, max(data.classes) + 1, logit_scale=recipe.logit_scale).to(
            compute.device
        )
        self.lesson: Lesson | None = None
        if views is not None:
            self.lesson = Lesson(
                views,
                data.crops,
                data.domain,
                recipe.distill,
                channels=getattr(model, "map_channels", ()),
                embedding_dim=sum(model.head_dims),
            ).to(compute.device)
            self.learner.add_module("lesson", self.lesson)
            if start is not None:
                self._turn(self.lesson)
        self.learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        self.average = copy.deepcopy(model).to(compute.device) if recipe.ema else None
        ranks = compute.ranks
        if ranks.world > 1 and compute.device.type == "cuda":
            self.learner = nn.SyncBatchNorm.convert_sync_batchnorm(self.learner)
        ranks.share(self.learner)
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(self._parameter_groups(), lr=recipe.lr)
        self.epoch = 0
        self.metrics: dict[str, float] = {}
        self.best = -1.0
        if recipe.share and len(recipe.share) != len(data.sources):
            raise UsageError(f"share has {len(recipe.share)} parts for {len(data.sources)} data sets")
        self.sampler = IdentitySampler(
            data.crops,
            num_ids=recipe.num_ids,
            num_instances=recipe.num_instances,
            seed=recipe.seed,
            domain=data.domain,
            share=recipe.share or None,
        )
        self.steps = recipe.steps or (self.lesson or self.sampler).steps()
        self._places = ranks.places(recipe.num_ids, recipe.num_instances)
        self._idle_said = False
        self._weak = ""
        self._validation: np.ndarray | None = None
        self._fingerprint = fingerprint(data)

    def _turn(self, lesson: Lesson) -> None:
        """The targets' axes onto those that the first weights have."""
        views = lesson.plain(_TURNED_BY)
        size_hw = self.learner.model.settings.size_hw
        images = np.stack(
            [resize_crop(np.ascontiguousarray(lesson.views.image(view)), size_hw) for view in views]
        )
        lesson.turn_onto(evaluate.embed(self.learner.model, images), views)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW leaves norms and biases undecayed; Adam's L2 of the paper takes everything."""
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for parameter in self.learner.parameters():
            if parameter.requires_grad:
                (free if self.recipe.optimizer == "adamw" and parameter.ndim < 2 else decayed).append(
                    parameter
                )
        return [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]

    @property
    def model(self) -> Network:
        """What is validated and saved: the average of the weights where the recipe keeps one."""
        return self.learner.model if self.average is None else self.average

    def run(self, *, until: int | None = None) -> dict[str, float]:
        """Train to the last epoch, or to epoch `until`.

        Returns:
            The last validation's figures; empty without validation people.

        Raises:
            SanError: the loss is not finite, a crop cannot be read, or the run's folder not written.
        """
        end = self.recipe.epochs if until is None else until
        try:
            with Loader(self._images(), self.compute.workers) as loader:
                return self._run(loader, end)
        except FileNotFoundError as error:
            # TensorBoard's file: what we write ourselves, and what is read, is a SanError already.
            raise SanError(f"{self.out} was removed while the run wrote into it") from error

    def _images(self) -> Images:
        if self.lesson is not None:
            return self.lesson.views.images
        limit = _KEPT // max(1, self.compute.workers)
        return CropCache([crop.path for crop in self.data.crops], limit_bytes=limit)

    def _run(self, loader: Loader, end: int) -> dict[str, float]:
        if not self.compute.ranks.first:
            while self.epoch < end:
                self._train_epoch(loader)
                self.epoch += 1
            return {}
        from torch.utils.tensorboard import SummaryWriter

        self.out.mkdir(parents=True, exist_ok=True)
        write_config(
            self.out,
            {
                "recipe": self.recipe.as_dict(),
                "data": self.data.sources,
                "precision": self.compute.precision,
                "world_size": self.compute.ranks.world,
                **self.origin,
            },
        )
        with SummaryWriter(str(self.out / "tensorboard"), purge_step=self.epoch + 1) as board:
            if not self.epoch:
                # So that Ctrl-C in the first epoch, or in a later one, always leaves something to resume.
                self._state(self.epoch).save(self.out / STATE)
            while self.epoch < end:
                started = time.perf_counter()
                terms = self._train_epoch(loader)
                self.epoch += 1
                record: dict[str, Any] = {
                    "epoch": self.epoch,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    **terms,
                    "seconds": time.perf_counter() - started,
                }
                last = self.epoch == end
                if last or self.epoch % self.recipe.validate_every == 0:
                    self.metrics = self.validate()
                    record |= self.metrics
                    self._save(last)
                # Before the state: what is killed between the two runs this epoch again and drops the line.
                append_log(self.out, record)
                self._state(self.epoch).save(self.out / STATE)
                for key, value in record.items():
                    if key != "epoch":
                        board.add_scalar(key, value, self.epoch)
                self.say(_line(record, self.recipe.epochs))
        if self._weak and self.epoch == self.recipe.epochs:
            self.say(self._weak)
        return self.metrics

    def _train_epoch(self, loader: Loader) -> dict[str, float]:
        recipe, device = self.recipe, self.compute.device
        mode = self.learner.model.mode
        mode.train, mode.tau = (
            recipe.mask,
            temperature(self.epoch, rate=recipe.tau_rate, floor=recipe.tau_floor),
        )
        if self._hard_masks():
            mode.train, mode.tau = recipe.hard_mask_kind, recipe.hard_mask_tau or mode.tau
        self.learner.train()
        draws = EpochDraws(
            self.learner.model.settings.size_hw,
            recipe.augmentation,
            recipe.seed,
            self.epoch,
            _OF_CROPS if self.lesson is None else _OF_VIEWS,
        )
        if self.lesson is not None:
            plan = self.lesson.plan(self.epoch, self.steps, recipe.seed)
            stream = loader.batches(plan, draws)
        else:
            plan = self.sampler.epoch(self.epoch, self.steps)
            stream = loader.batches(plan, draws, self._places)
        totals: dict[str, float] = {}
        bar = self.progress(self.steps, f"epoch {self.epoch + 1}") if self.progress else None
        try:
            for step, images in enumerate(stream):
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, self.epoch + step / self.steps)
                    if recipe.decay_beta1 and recipe.schedule == "hermans":
                        late = self.epoch >= recipe.decay_from * recipe.epochs
                        group["betas"] = (recipe.decay_beta1 if late else 0.9, 0.999)
                torch.manual_seed(_noise_seed(recipe.seed, self.epoch, step, self.compute.ranks.rank))
                batch = plan[step] if self.lesson is not None else [plan[step][i] for i in self._places]
                terms = self._step(normalise(images, device, std_of(self.model)), batch)
                for key, value in terms.items():
                    if not np.isfinite(value):
                        raise SanError(
                            f"the {key} loss is {value} in epoch {self.epoch + 1}, step {step + 1}",
                            do=f"lower lr, set clip, or train in fp32; --resume goes on from epoch {self.epoch}",
                        )
                    totals[key] = totals.get(key, 0.0) + value / self.steps
                if bar is not None:
                    bar.update(1)
        finally:
            if bar is not None:
                bar.close()
        return totals

    def _hard_masks(self) -> bool:
        """Whether the current epoch belongs to the last phase."""
        return self.epoch >= self.recipe.epochs - self.recipe.hard_mask_epochs

    def _step(self, x: Tensor, batch: Sequence[int]) -> dict[str, float]:
        """One batch: numbers of views where there is a lesson, else of crops."""
        recipe = self.recipe
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.compute.precision == "bf16"):
            out = self.learner.model.train_outputs(x)
        self._say_idle(out)
        terms: dict[str, Tensor] = {}
        label = x.new_empty(0)
        if self.lesson is not None:
            terms = self.lesson.terms(out, batch)
        else:
            label = torch.tensor([self.data.classes[i] for i in batch], device=x.device)
        ranks = self.compute.ranks
        terms |= loss_terms(self.learner, out, label, recipe, hard_masks=self._hard_masks(), ranks=ranks)
        total = torch.stack(list(terms.values())).sum()
        # Every rank has the triplet loss of the whole batch, and its own part of each other term.
        parts = [float(x.detach()) / (ranks.world if key == "triplet" else 1) for key, x in terms.items()]
        values = dict(zip(terms, ranks.add(parts, x.device), strict=True))
        self.optimizer.zero_grad(set_to_none=True)
        if np.isfinite(list(values.values())).all():
            total.backward()
            ranks.add_gradients(self.learner)
            if recipe.clip:
                nn.utils.clip_grad_norm_(self.learner.parameters(), recipe.clip)
            self.optimizer.step()
            self._update_average()
        return values | {"loss": sum(values.values())}

    def _say_idle(self, out: Outputs) -> None:
        """Say, once, that the TV penalty has nothing to work on."""
        if self.recipe.tv_weight and not out.attended and not self._idle_said:
            self._idle_said = True
            self.say("tv_weight has no effect: this network attends to no features.")

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        done = self.optimizer.state[self.optimizer.param_groups[0]["params"][0]]["step"]
        # A short memory at first, so that the average forgets the random initialisation.
        decay = min(self.recipe.ema, (1.0 + float(done)) / (10.0 + float(done)))
        current = self.learner.model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1.0 - decay)
            else:
                value.copy_(current[name])

    def embed_validation(self, mask: str | None = None) -> np.ndarray:
        """`(N, D)` unit embeddings of the validation crops; `mask` as in `evaluate.embed`."""
        if self._validation is None:
            self._validation = evaluate.load_crops(self.data.validation, self.model.settings.size_hw)
        return evaluate.embed(self.model, self._validation, mask=mask)

    def validate(self) -> dict[str, float]:
        """CMC and mAP on the people held out, as the deployed network sees them; empty where there are none."""
        if not self.data.validation:
            return {}
        return evaluate.rank(self.embed_validation(), self.data.validation).as_dict()

    def _calibrate(self) -> Threshold | None:
        """A threshold from the validation people; None, with the reason said, where they are too few."""
        person, camera, track = labels(self.data.validation)
        try:
            genuine, impostor = calibrate.tracklet_similarities(
                self.embed_validation(), person=person, camera=camera, track=track
            )
            source = f"{len(set(person.tolist()))} validation people of this training run"
            threshold = calibrate.choose_threshold(
                genuine, impostor, source=source, mask=resolve_mask(self.model, None)
            )
            self._weak = _of_weakness(threshold)
            return threshold
        except SanError as error:
            self.say(f"No threshold was calibrated: {error}")
            return None

    def _save(self, last: bool) -> None:
        info = CheckpointInfo(
            arch=self.recipe.arch,
            settings=self.model.settings.as_dict(),
            resize=RESIZE,
            epoch=self.epoch,
            recipe=self.recipe.as_dict(),
            metrics=self.metrics,
            data=self.data.sources,
            versions=versions("san-deploy", "torch", "numpy", "pillow"),
        )
        score = self.metrics.get("mean_ap", -1.0) + self.metrics.get("rank1", -1.0)
        # The later of two equals has seen more.
        better = self.data.validation and score >= self.best
        if self.data.validation and (last or better):
            info = replace(info, threshold=self._calibrate())
        if better:
            self.best = score
            save_checkpoint(self.out / BEST, self.model, info)
        save_checkpoint(self.out / MODEL, self.model, info)

    def _state(self, epoch: int) -> RunState:
        tensors = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        return RunState(
            epoch=epoch,
            best=self.best,
            metrics=self.metrics,
            recipe=self.recipe.as_dict(),
            data=self._fingerprint,
            precision=self.compute.precision,
            world_size=self.compute.ranks.world,
            tensors=tensors,
        )

    def resume(self, folder: Path | None = None, *, changed: Collection[str] = ()) -> None:
        """Continue the run that `out` holds. Bit for bit on a CPU: batches and noise derive from the epoch.

        Another number of processes keeps the batches; only the noise of the masks, drawn by each for its part, and
        batch norms that see a part each (on a CPU) are others.

        Args:
            folder: of another run whose state is taken over; this run then writes to its own `out`.
            changed: values of the recipe that may differ from that run's, for a last phase of another kind.

        Raises:
            SanError: no state, a damaged one, or one of another recipe.
        """
        path = (folder or self.out) / STATE
        now = self._state(0)
        state = load_state(path, now)
        state.refuse_other(path, now, changed=changed)
        self.epoch, self.best, self.metrics = state.epoch, state.best, state.metrics
        if self.compute.ranks.first:
            forget_log_after(self.out, self.epoch)
        load_weights(self.learner, part(state.tensors, "learner."), path)
        if self.average is not None:
            load_weights(self.average, part(state.tensors, "average."), path)
        self._load_optimizer(part(state.tensors, "optimizer."), path)

    def _load_optimizer(self, tensors: dict[str, Tensor], path: Path) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        try:
            for name, value in tensors.items():
                index, key = name.split(".", 1)
                state.setdefault(int(index), {})[key] = value
            self.optimizer.load_state_dict(
                {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise SanError(f"{path} is no state of this run", why=str(error), do="start a new run") from error


def _load_pretrained(model: Network, weights: Callable[[int], dict[str, Tensor]], arch: str) -> None:
    backbone = backbone_of(model)
    if backbone is None:
        raise UsageError(
            f"{arch} takes no pretrained weights",
            why="it has no ResNet that ImageNet weights are published for",
            do="leave --pretrained out",
        )
    from .pretrained import load_backbone

    load_backbone(backbone, weights(backbone.depth))


def _noise_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Of the masks' noise: it derives from the place in the run, so that a resumed run draws the same."""
    place = (seed * 1_000_003 + epoch) * 1_000_003 + step
    return (place + rank * 0x9E37_79B9_7F4A_7C15) & 0x7FFF_FFFF_FFFF_FFFF


def _of_weakness(threshold: Threshold) -> str:
    """What to say of a network that knows few pairs of one person from strangers; empty for a better one."""
    if threshold.true_match_rate is None or threshold.true_match_rate >= _WEAK:
        return ""
    return (
        f"This network is weak: at the threshold that {threshold.false_match_rate:.1%} of strangers' pairs reach, only "
        f"{threshold.true_match_rate:.0%} of one person's pairs do. Do not deploy it yet: train on more people, begin "
        "with weights (--pretrained imagenet), or learn from a teacher, which needs no names (--teacher FILE)."
    )


def _line(record: dict[str, Any], epochs: int) -> str:
    parts = [
        f"epoch {record['epoch']:3d}/{epochs}",
        f"loss {record['loss']:.3f}",
        f"{record['seconds']:.0f} s",
    ]
    left = (epochs - record["epoch"]) * record["seconds"]
    if left >= _LONG:
        parts[-1] += (
            f", about {left / 60:.0f} min to go" if left < 5400 else f", about {left / 3600:.1f} h to go"
        )
    if "rank1" in record:
        parts.append(f"crops rank-1 {100 * record['rank1']:.1f} mAP {100 * record['mean_ap']:.1f}")
        parts.append(f"tracklets rank-1 {100 * record['tracklet_rank1']:.1f}")
    return "  ".join(parts)
