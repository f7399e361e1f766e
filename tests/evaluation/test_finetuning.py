"""Fine-tuning options: mixing, repeats, freezing, class balance, patience, averaged weights, the published presets."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_runs import FINETUNE, write_config
from torch import Tensor, nn

from islr.config import load_config
from islr.config_files import shipped_configs
from islr.data.manifest import Manifest
from islr.errors import Interrupted, UserError
from islr.evaluation import finetune
from islr.evaluation.finetune import FinetuneConfig, run_finetune
from islr.evaluation.results import load_results
from islr.evaluation.scoring import Scores, score
from islr.models import create_model
from islr.training import engine
from islr.training.checkpoint import latest_checkpoint
from islr.training.classification import Classification
from islr.training.tracking import read_metrics

PRESETS = sorted(name for name in shipped_configs() if name.startswith("finetune/"))


def _config(folder: Path, corpus: Path, name: str, **changes: Any) -> FinetuneConfig:
    path = write_config(FINETUNE, folder / f"{name}.yaml", corpus / "manifest.csv", folder / name, **changes)
    return load_config(FinetuneConfig, path)


class TestFreezing:
    def test_partial_runs_leave_the_first_blocks_as_they_were(self, mini_corpus: Path, tmp_path: Path) -> None:
        config = _config(
            tmp_path,
            mini_corpus,
            "partial",
            mode="partial",
            frozen_blocks=2,
            class_balance="loss",
            encoder={"name": "r3d_tiny", "arguments": {"frames": 4, "size": 32}},
        )
        torch.manual_seed(config.run.seed)
        start = create_model("r3d_tiny", frames=4, size=32)
        run_finetune(config)
        tuned = load_file(tmp_path / "partial" / "classifier.safetensors")
        moved = {name for name, value in start.state_dict().items() if not torch.equal(tuned[f"encoder.{name}"], value)}
        trained = {name for name, _ in start.named_parameters() if start.layer_of(name) > 2}
        assert trained <= moved
        assert {start.layer_of(name) for name in moved} == {3, 4}  # running statistics among them
        saved = latest_checkpoint(tmp_path / "partial")
        assert saved is not None
        assert len(saved["optimizer"]["state"]) == len(trained) + 4  # and the head with its norm

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"mode": "partial"}, "go together"),
            ({"frozen_blocks": 2}, "go together"),
            ({"mode": "partial", "frozen_blocks": 99}, "blocks: 1 to"),
        ],
    )
    def test_impossible_parts_are_refused(
        self, changes: dict[str, Any], message: str, mini_corpus: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match=message):
            run_finetune(_config(tmp_path, mini_corpus, "bad", **changes))
        assert not (tmp_path / "bad").exists()


class TestPatience:
    OPTIM = FINETUNE["optim"] | {"epochs": 6, "batch_size": 12, "ema": None}

    def _scored(self, monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
        """Selection scores by epoch, whatever the weights are."""

        def numbers(scores: Scores, manifest: Manifest) -> dict[str, float]:
            self.looks += 1
            return {"score": values[self.looks - 1]}

        self.looks = 0
        monkeypatch.setattr(finetune, "_selection_numbers", numbers)

    def test_training_ends_when_the_score_has_not_risen(
        self, mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._scored(monkeypatch, [0.1, 0.3, 0.3, 0.2, 0.9, 0.9])
        config = _config(tmp_path, mini_corpus, "early", patience=2, optim=self.OPTIM)
        run_finetune(config)
        assert self.looks == 4
        for record in load_results(tmp_path / "early" / "result.json"):
            assert (record.provenance.epoch_chosen, record.provenance.epochs_trained) == (2, 4)
        assert "stopped after epoch 4, none was better since 2" in capsys.readouterr().err

    def test_a_stopped_and_resumed_run_chooses_the_same_epoch(
        self, mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = [0.1, 0.3, 0.3, 0.2, 0.9, 0.9]
        self._scored(monkeypatch, values)
        config = _config(tmp_path, mini_corpus, "cut", patience=2, optim=self.OPTIM)
        plain = engine.seed_step

        def interrupting(seed: int, step: int, rank: int) -> None:
            if step in stops:
                stops.remove(step)
                os.kill(os.getpid(), signal.SIGTERM)
            plain(seed, step, rank)

        monkeypatch.setattr(engine, "seed_step", interrupting)
        stops = {1, 3}  # at the end of the epoch that is best, and of the last; an epoch is a step
        for _ in range(2):
            with pytest.raises(Interrupted):
                run_finetune(config)
        results = run_finetune(config)
        assert (results[0].provenance.epoch_chosen, results[0].provenance.epochs_trained) == (2, 4)


def test_trials_are_chosen_on_selection_clips_and_recorded(
    mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rates; the second is better on the selection clips, and best after its first epoch."""
    values = iter([0.2, 0.1, 0.6, 0.5, 0.6, 0.5])
    scored: list[dict[str, Tensor]] = []

    def numbers(*args: Any) -> dict[str, float]:
        return {"loss": 1.0, "top1": (value := next(values)), "score": value}

    def looked(classifier: nn.Module, *args: Any, **options: Any) -> Scores:
        scored.append({name: value.detach().clone() for name, value in classifier.named_parameters()})
        return score(classifier, *args, **options)

    monkeypatch.setattr(finetune, "_selection_numbers", numbers)
    monkeypatch.setattr(finetune, "score", looked)
    optim = FINETUNE["optim"] | {"epochs": 2, "warmup_epochs": 0, "ema": None, "layer_decay": 1.0}
    trials = [{"lr": 1e-4}, {"lr": 1e-3, "layer_decay": 1.0}]
    results = run_finetune(_config(tmp_path, mini_corpus, "tried", optim=optim | {"layer_decay": 0.9}, trials=trials))
    record = results[0].provenance
    assert record.trained == 2
    assert record.trials == [
        {"lr": "0.0001", "selection_score": "0.2000", "chosen": "no"},
        {"lr": "0.001", "layer_decay": "1", "selection_score": "0.6000", "chosen": "yes"},
    ]
    assert (record.epoch_chosen, record.epochs_trained) == (1, 2)
    last = latest_checkpoint(tmp_path / "tried" / "trial-2")
    assert last is not None
    assert all(torch.equal(value, last["module"][f"classifier.{name}"]) for name, value in scored[-1].items())
    run_finetune(_config(tmp_path, mini_corpus, "alone", optim=optim))
    tried, alone = (load_file(tmp_path / name / "classifier.safetensors") for name in ("tried", "alone"))
    assert all(
        torch.equal(value, alone[name]) for name, value in tried.items()
    )  # a trial is the run that it stands for
    assert [result.metric for result in results].count("top1_last_epoch") == 1
    assert (tmp_path / "tried" / "metrics.jsonl").read_bytes() == (
        tmp_path / "tried" / "trial-2" / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("trials", [[{}], [{"lr": 1e-3}, {"lr": 1e-3}]])
def test_trials_that_try_nothing_are_refused(mini_corpus: Path, tmp_path: Path, trials: list[dict[str, float]]) -> None:
    with pytest.raises(UserError, match="each of trials changes a value of optim"):
        _config(tmp_path, mini_corpus, "idle", trials=trials)


def test_averaged_weights_are_what_is_judged_kept_and_scored(
    mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept classifier is the exponential average of the steps' weights, recomputed here."""
    decay = 0.7
    optim = FINETUNE["optim"] | {"epochs": 1, "ema": decay, "warmup_epochs": 0}
    averages: list[dict[str, Tensor]] = []
    judged: list[dict[str, Tensor]] = []
    plain = engine.AveragedModel.update_parameters

    def noted(self: Any, model: nn.Module) -> None:
        weights = {name: value.detach().clone() for name, value in model.named_parameters()}
        last = averages[-1] if averages else weights
        averages.append({name: decay * last[name] + (1 - decay) * value for name, value in weights.items()})
        plain(self, model)

    def looked(classifier: nn.Module, *args: Any, **options: Any) -> Scores:
        judged.append({name: value.detach().clone() for name, value in classifier.named_parameters()})
        return score(classifier, *args, **options)

    monkeypatch.setattr(engine.AveragedModel, "update_parameters", noted)
    monkeypatch.setattr(finetune, "score", looked)
    record = run_finetune(_config(tmp_path, mini_corpus, "ema", optim=optim))[0].provenance
    assert (record.epoch_chosen, record.epochs_trained) == (1, 1)
    kept = load_file(tmp_path / "ema" / "classifier.safetensors")
    assert len(judged) == 2  # once on the selection clips, once on the test clips
    for name, value in averages[-1].items():
        name = name.removeprefix("classifier.")
        for seen in (judged[0][name], judged[1][name], kept[name]):
            assert torch.allclose(seen, value, atol=1e-6), name


def test_an_interrupted_run_with_every_option_ends_with_the_same_bits(
    mini_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "class_balance": "sampling",
        "patience": 2,
        "classification": {"mixup": 0.8, "cutmix": 1.0, "mix_prob": 0.8, "repeats": 2, "dropout": 0.1},
        "video": {"randaugment": {"layers": 4}, "erasing": {"probability": 0.5}},
        "optim": FINETUNE["optim"] | {"epochs": 3},
    }
    configs = [_config(tmp_path, mini_corpus, name, **changes) for name in ("whole", "cut")]
    run_finetune(configs[0])
    plain = engine.seed_step
    stops = {1, 4}

    def interrupting(seed: int, step: int, rank: int) -> None:
        if step in stops:
            stops.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        plain(seed, step, rank)

    monkeypatch.setattr(engine, "seed_step", interrupting)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run_finetune(configs[1])
    run_finetune(configs[1])
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    losses = [[row["loss"] for row in found if row["kind"] == "train"] for found in rows]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == len(losses[0]) == 9
    files = [tmp_path / name / "classifier.safetensors" for name in ("whole", "cut")]
    kept, again = (load_file(file) for file in files)
    assert all(torch.equal(value, again[name]) for name, value in kept.items())
    resolved = (tmp_path / "whole" / "config.yaml").read_text()
    assert all(key in resolved for key in ("randaugment", "erasing", "class_balance", "patience", "repeats"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_their_model_and_never_mirror(name: str) -> None:
    path = shipped_configs()[name]
    config = load_config(FinetuneConfig, path)
    with torch.device("meta"):
        encoder = create_model(config.encoder.name, **config.encoder.arguments)
    Classification(encoder, 2000, config.classification)
    assert not config.video.flip
    assert not config.pose.mirror
    assert not config.optim.batch_size % config.optim.accumulate
    comment = path.read_text(encoding="utf-8").split("task:")[0].split("base:")[0]
    for word in ("Command:", "Hardware:", "Expect:", "Source:", "Departs:"):
        assert word in comment, f"{name} says no {word}"


@pytest.mark.parametrize(
    ("option", "refused"),
    [
        ("classification.mix_prob=0.5", "mix_prob acts only with mixup or cutmix"),
        ("classification={mixup: 0.8, switch_prob: 0.3}", "switch_prob acts only with both mixup and cutmix"),
        ("balance_beta=0.9", "balance_beta acts only with class_balance: loss"),
        ("held_out=0.2", "held_out acts only with select_on: train_held_out"),
        ("pose.jitter=0.1", "pose augments pose clips; .* takes video"),
    ],
)
def test_an_option_that_cannot_act_is_refused(option: str, refused: str, mini_corpus: Path, tmp_path: Path) -> None:
    path = write_config(FINETUNE, tmp_path / "f.yaml", mini_corpus / "manifest.csv", tmp_path / "f")
    with pytest.raises(UserError, match=refused):
        run_finetune(load_config(FinetuneConfig, path, [option]))
