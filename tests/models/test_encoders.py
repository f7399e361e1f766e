"""The contract of every encoder, over the registry's tiny presets."""

import inspect
import json
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.encoder_clips import FEWER_BLOCKS, OTHER_SIZE, REFUSED_SHAPE, random_clip
from support.zero_gradient import zero_gradient
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from islr.config_files import read_tree, shipped_configs
from islr.errors import UserError
from islr.models import MODELS, Classifier, Encoder, InputSpec, create_model, list_models, to_input
from islr.models.convnets.convnet import ConvNet
from islr.models.describe import describe
from islr.models.weights import export_encoder, load_encoder, read_metadata

TINY = list_models("*_tiny")
TRACED = sorted(set(TINY) - {"r2plus1d_tiny"})  # which is of one class with `r3d_tiny`


@cache
def _built(name: str) -> Encoder:
    return create_model(name)


def _shortened(name: str) -> Encoder:
    """An encoder of the preset's class with as few blocks as show each kind of them."""
    fewer = FEWER_BLOCKS.get(name, {})
    preset: Any = MODELS[name]
    encoder: Encoder = replace(preset, sizes={**preset.sizes, **fewer})(**preset.defaults)
    if isinstance(encoder, ConvNet) and not fewer:
        encoder.layers = encoder.layers[:3]  # the stem and two layers
    return encoder.eval()


@pytest.fixture
def encoder(name: str) -> Encoder:
    """The tiny preset with fresh weights, in evaluation mode."""
    return deepcopy(_built(name)).eval()


def _note_size(sizes: list[int], x: Tensor) -> Tensor:
    sizes.append(x.numel())
    return x


def _training(encoder: Encoder) -> Encoder:
    """Training mode; BatchNorm stays as in evaluation, where it differs by nature."""
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, BatchNorm):
            module.eval()
    return encoder


@pytest.mark.parametrize("name", TINY)
class TestContract:
    def test_shapes_match_what_is_declared(self, name: str, encoder: Encoder) -> None:
        assert (encoder.architecture, isinstance(encoder, Encoder)) == (name, True)
        clip = random_clip(encoder.input_spec)
        with torch.no_grad():
            layers = encoder.forward_layers(clip)
            assert encoder(clip).shape == (2, encoder.dim)
        assert [layer.shape[2] for layer in layers] == encoder.layer_dims
        assert all(layer.shape[0] == 2 and layer.ndim == 3 for layer in layers)

    def test_is_tiny_and_described_without_its_weights(self, name: str, encoder: Encoder) -> None:
        found = describe(name)
        assert found.parameters == sum(parameter.numel() for parameter in encoder.parameters()) < 1_000_000
        assert found.macs > 1e6
        assert found.macs > found.parameters / 100
        assert found.source

    def test_every_parameter_has_a_layer_and_every_layer_parameters(self, name: str, encoder: Encoder) -> None:
        model = Classifier(encoder, num_classes=3)
        layers = {model.layer_of(parameter) for parameter, _ in model.named_parameters()}
        assert layers == set(range(model.num_layers))
        assert model.layer_of("head.weight") == model.layer_of("norm.bias") == len(model.encoder.layer_dims) + 1

    def test_gradient_reaches_every_parameter(self, name: str, encoder: Encoder) -> None:
        model = Classifier(encoder, num_classes=3, head_init_scale=1.0)
        model.train()(random_clip(model.encoder.input_spec)).square().sum().backward()
        for parameter, value in model.named_parameters():
            assert value.grad is not None, parameter
            if not parameter.endswith(zero_gradient(model.encoder)):
                assert value.grad.abs().max() > 1e-12, parameter

    def test_first_blocks_stay_as_they_are_while_the_others_train(self, name: str, encoder: Encoder) -> None:
        model = Classifier(encoder, num_classes=3, head_init_scale=1.0)
        blocks = len(encoder.layer_dims) // 2
        encoder.freeze(blocks)
        frozen = {key for key, _ in encoder.named_parameters() if encoder.layer_of(key) <= blocks}
        owners = {key.rpartition(".")[0] for key in frozen} - {""}
        start = {key: value.clone() for key, value in encoder.state_dict().items()}
        model.train()(random_clip(encoder.input_spec)).square().sum().backward()
        assert {key for key, value in encoder.named_parameters() if value.grad is None} == frozen
        for key, value in encoder.state_dict().items():
            if key.rpartition(".")[0] in owners:
                assert torch.equal(value, start[key]), key
        assert not any(encoder.get_submodule(owner).training for owner in owners)
        others = {key.rpartition(".")[0] for key, value in encoder.named_parameters() if value.requires_grad}
        assert all(encoder.get_submodule(owner).training for owner in others)
        inside = {part: encoder.get_submodule(part) for part in encoder.frozen_parts}
        assert not any(module.training for part in inside.values() for module in part.modules())
        with pytest.raises(UserError, match="blocks: 1 to"):
            encoder.freeze(len(encoder.layer_dims))

    @torch.no_grad()
    def test_export_and_load_give_the_same_encoder(self, name: str, encoder: Encoder, tmp_path: Path) -> None:
        export_encoder(encoder, tmp_path / "encoder.safetensors", {"recipe": "none"})
        loaded = load_encoder(tmp_path / "encoder.safetensors").eval()
        clip = random_clip(encoder.input_spec)
        assert torch.equal(loaded(clip), encoder(clip))
        assert loaded.input_spec == encoder.input_spec
        assert read_metadata(tmp_path / "encoder.safetensors")["recipe"] == "none"

    @torch.no_grad()
    def test_loads_for_another_input_size(self, name: str, encoder: Encoder, tmp_path: Path) -> None:
        export_encoder(encoder, tmp_path / "encoder.safetensors", {})
        other = load_encoder(tmp_path / "encoder.safetensors", **OTHER_SIZE[name]).eval()
        assert other.input_spec != encoder.input_spec
        assert other(random_clip(other.input_spec)).shape == (2, encoder.dim)
        stored = encoder.state_dict()
        same = {key: value for key, value in other.state_dict().items() if value.shape == stored[key].shape}
        assert same
        assert all(torch.equal(value, stored[key]) for key, value in same.items())

    @torch.no_grad()
    def test_clips_of_a_batch_do_not_see_each_other(self, name: str, encoder: Encoder) -> None:
        clip = random_clip(encoder.input_spec, batch=3)
        alone = torch.cat([encoder(one[None]) for one in clip])
        assert torch.allclose(encoder(clip), alone, atol=1e-5)

    @torch.no_grad()
    def test_training_mode_differs_by_what_is_declared(self, name: str, encoder: Encoder) -> None:
        clip = random_clip(encoder.input_spec)
        norms = [module for module in encoder.modules() if isinstance(module, BatchNorm)]
        assert encoder.batch_norm == bool(norms)
        for norm in norms:
            norm.track_running_stats = False  # so that the first pass changes nothing that the last one uses
        if encoder.batch_norm:
            assert not torch.allclose(encoder.train()(clip), encoder.eval()(clip))
        assert torch.equal(_training(encoder)(clip), encoder.eval()(clip))
        for argument in inspect.signature(MODELS[name]).parameters:
            if argument.startswith("drop"):
                dropped = create_model(name, **{argument: 0.9})
                dropped.load_state_dict(encoder.state_dict())
                assert torch.equal(dropped.eval()(clip), encoder(clip))
                torch.manual_seed(0)
                assert not torch.allclose(_training(dropped)(clip), encoder(clip))

    def test_checkpointing_changes_memory_alone(self, name: str, encoder: Encoder) -> None:
        clip = random_clip(encoder.input_spec)
        gradients = []
        for encoder.checkpointing in (False, True):
            encoder.zero_grad()
            encoder(clip).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
        for plain, again in zip(*gradients, strict=True):
            assert torch.allclose(plain, again, rtol=1e-4, atol=1e-5 * plain.abs().max().item())

    def test_checkpointing_keeps_less(self, name: str, encoder: Encoder) -> None:
        encoder.train()
        clip = random_clip(encoder.input_spec)
        kept = []
        for encoder.checkpointing in (False, True):
            sizes: list[int] = []
            with torch.autograd.graph.saved_tensors_hooks(partial(_note_size, sizes), lambda x: x):
                encoder(clip)
            kept.append(sum(sizes))
        assert kept[1] < 0.7 * kept[0]

    @torch.no_grad()
    def test_bfloat16_is_near_float32(self, name: str, encoder: Encoder) -> None:
        clip = random_clip(encoder.input_spec, batch=1)
        full = encoder(clip)
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(clip)
        assert (half.float() - full).norm() < 0.1 * full.norm()

    def test_refuses_a_clip_of_another_shape(self, name: str, encoder: Encoder) -> None:
        shape = REFUSED_SHAPE.get(name) or create_model(name, **OTHER_SIZE[name]).input_spec.clip_shape
        with pytest.raises(UserError, match="takes clips of shape"):
            encoder(torch.zeros(2, *shape))


@pytest.mark.parametrize("name", TRACED)
def test_compiles_as_one_graph(name: str) -> None:
    encoder = _shortened(name)
    clip = random_clip(encoder.input_spec)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(clip), encoder(clip), atol=1e-6)


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'mvit_tiny'\?.*pose_transformer_base"):
        create_model("mvit_tinny")
    with pytest.raises(UserError, match="no argument 'frame'; did you mean 'frames'"):
        create_model("mvit_tiny", frame=8)
    assert set(list_models("mvit*")) == {name for name in MODELS if name.startswith("mvit")}


def test_pixels_are_normalised_by_the_spec() -> None:
    spec = InputSpec(1, 1, (0.5, 0.25, 0.0), (0.5, 1.0, 2.0), "video")
    clip = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    assert torch.allclose(to_input(clip, spec).flatten(), torch.tensor([1.0, -0.25, 0.1]))


def test_batch_norm_head_removes_what_clips_have_in_common() -> None:
    encoder = create_model("pose_transformer_tiny", frames=4)
    clip = random_clip(encoder.input_spec, batch=8)
    model = Classifier(encoder, 3, norm="batch").train()
    model(clip)
    normalised = model.norm(encoder(clip))
    assert normalised.mean(dim=0).abs().max() < 1e-4
    assert {model.layer_of(name) for name, _ in model.named_parameters()} == set(range(model.num_layers))
    with pytest.raises(UserError, match="norm='group' is unknown"):
        Classifier(encoder, 3, norm="group")  # type: ignore[arg-type]


def test_registered_names_build_and_so_do_shipped_configs() -> None:
    encoders = [read_tree(path).get("encoder") for path in shipped_configs().values()]
    named = {(one["name"], json.dumps(one.get("arguments", {}))) for one in encoders if one}
    assert named
    for name, arguments in named | {(name, "{}") for name in set(list_models()) - set(TINY)}:
        with torch.device("meta"):
            encoder = create_model(name, **json.loads(arguments))
        assert isinstance(encoder, Encoder)
        assert encoder.source
        assert encoder.architecture == name
