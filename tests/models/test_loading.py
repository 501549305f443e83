"""Files of weights: what they hold is checked before anything is made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import shrunk
from safetensors.torch import load, save

import config
import evaluate
import generate
from soundgan import models
from soundgan.errors import UserError
from soundgan.models.loading import (
    WEIGHTS,
    load_run,
    packed,
    read_weights,
    refuse_noise,
    trained,
    unpacked,
)
from soundgan.run_folder import write_config

ABOUT = {"recipe": "sn-wgan-gp", "epoch": 3, "step": 12}


@pytest.fixture(params=["sn-wgan-gp", "cgan", "best"])
def run(request, tmp_path) -> Path:
    """A run's folder with random weights: config.json and generator.safetensors."""
    cfg = shrunk(config.RECIPES[request.param], tmp_path / "data", tmp_path / "outputs")
    cfg.run_dir.mkdir(parents=True)
    write_config(cfg, ["a", "b"])
    torch.manual_seed(0)
    generator, _ = models.build(cfg, 2)
    weights = {k: v.contiguous() for k, v in generator.state_dict().items()}
    (cfg.run_dir / "generator.safetensors").write_bytes(packed(weights, ABOUT))
    return cfg.run_dir


def path_of(run: Path) -> Path:
    return run / WEIGHTS["last"]


def refused(run: Path, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_run(run)
    text = str(error.value)
    assert text.startswith(str(run))
    assert "\n" not in text
    assert len(text) < 500


def rewrite(run: Path, about: dict | None = None, **edits: torch.Tensor) -> None:
    """Other weights, as another program writes them: with no checksum."""
    weights = load(path_of(run).read_bytes()) | edits
    path_of(run).write_bytes(save(weights, about))


def some_weight(run: Path) -> tuple[str, torch.Tensor]:
    weights = load(path_of(run).read_bytes())
    name = next(name for name, v in sorted(weights.items()) if v.dim() > 1)
    return name, weights[name]


def test_what_was_packed_is_loaded(run):
    cfg, classes, generator = load_run(run)
    assert classes == ["a", "b"]
    assert not generator.training
    torch.manual_seed(0)
    expected = models.build(cfg, 2)[0].state_dict()
    state = generator.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert trained(run) == ABOUT
    content = path_of(run).read_bytes()
    weights, about = unpacked(content)
    assert packed(weights, about) == content  # equal runs, equal files


def test_every_flipped_bit_is_found(run):
    """All of the header, and places all over the weights."""
    content = path_of(run).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    source = torch.Generator().manual_seed(0)
    places = [*range(0, start, 5), *torch.randint(start, len(content), (60,), generator=source)]
    for number, place in enumerate(map(int, places)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << number % 8
        path_of(run).write_bytes(flipped)
        with pytest.raises(UserError, match=r"generator\.safetensors is damaged"):
            load_run(run)
        with pytest.raises(UserError, match=r"generator\.safetensors is damaged"):
            trained(run)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1, -1000])
def test_a_cut_file_is_found(run, length):
    content = path_of(run).read_bytes()
    path_of(run).write_bytes(content[:length])
    refused(run, "is damaged or of another run")
    path_of(run).write_bytes(content + bytes(100))
    refused(run, "is damaged or of another run")


def test_weights_of_another_program_are_checked_one_by_one(run):
    name, weight = some_weight(run)
    rewrite(run)
    assert trained(run) == {"recipe": "", "epoch": 0, "step": 0}
    load_run(run)
    rewrite(run, {"format": "pt", "author": "somebody"})
    load_run(run)
    for value in (float("nan"), float("inf"), -float("inf"), 1e20, -2e6):
        spoilt = weight.clone()
        spoilt.view(-1)[-1] = value
        rewrite(run, **{name: spoilt})
        refused(run, f"{name} is not of numbers from -1e")
    rewrite(run, **{name: weight.view(torch.int32)})
    refused(run, f"{name} is torch.int32 .*, where torch.float32 .* is needed")
    rewrite(run, **{name: weight.double()})
    refused(run, "is damaged or of another run")
    rewrite(
        run,
        **{name: weight.mT.contiguous() if weight.shape[0] != weight.shape[1] else weight[None]},
    )
    refused(run, f"{name} is torch.float32")
    rewrite(run, more=torch.zeros(1))
    refused(run, "more is not of its network")
    weights = load(path_of(run).read_bytes())
    del weights["more"], weights[name]
    path_of(run).write_bytes(save(weights | {"x": weight}))
    refused(run, "of its network|is missing")


def test_a_variance_is_not_negative(tmp_path):
    cfg = shrunk(config.RECIPES["cgan"], tmp_path / "data", tmp_path / "outputs")
    network = models.build(cfg, 2)[0]
    state = {k: v.clone() for k, v in network.state_dict().items()}
    name = next(name for name in state if name.endswith("running_var"))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(state | {name: state[name] * 1e9}))
    read_weights(path, network)
    path.write_bytes(save(state | {name: -state[name]}))
    with pytest.raises(UserError, match=rf"{name} is not of numbers from 0 to"):
        read_weights(path, network)


def test_weights_that_make_no_numbers_together_are_refused(run):
    """Each of them may be a number, and what comes of them none."""
    cfg, _, generator = load_run(run)
    refuse_noise(generator, cfg, path_of(run))
    with torch.no_grad():
        next(generator.parameters()).fill_(float("inf"))
        generator.output = "relu"
        generator.output_range = (-float("inf"), float("inf"))
    with pytest.raises(UserError, match="what its weights make is NaN or Inf"):
        refuse_noise(generator, cfg, path_of(run))


@pytest.mark.parametrize("entry", ["[]", "3", "{", "{}", '{"recipe": 1}', '{"digest": "x"}'])
def test_what_weights_say_of_themselves_may_be_damaged(run, entry):
    rewrite(run, {"trained": entry})
    refused(run, "is damaged or of another run")


def test_weights_of_an_earlier_version_have_no_checksum(run):
    rewrite(run, {"trained": json.dumps(ABOUT)})
    load_run(run)
    assert trained(run) == ABOUT


def test_a_checksum_is_of_what_they_say_too(run):
    weights, _ = unpacked(path_of(run).read_bytes())
    said = json.loads(header(run)["__metadata__"]["trained"])
    rewrite(run, {"trained": json.dumps(said | {"epoch": 400})})
    refused(run, "a checksum differs")
    rewrite(run, {"train": json.dumps(said)})
    refused(run, "is damaged")
    path_of(run).write_bytes(packed(weights, ABOUT | {"kernel": 0.25}))
    assert trained(run)["kernel"] == 0.25


def header(run: Path) -> dict:
    content = path_of(run).read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_only_regular_files_are_opened(run):
    path_of(run).unlink()
    with pytest.raises(UserError, match=r"holds no generator\.safetensors yet"):
        load_run(run)
    os.mkfifo(path_of(run))
    refused(run, "is damaged or of another run")
    path_of(run).unlink()
    path_of(run).mkdir()
    refused(run, "is damaged or of another run")


def test_a_file_of_a_terabyte_is_not_read(run):
    with open(path_of(run), "wb") as file:
        file.truncate(10**12)
    refused(run, "bytes, and its network")


def test_a_config_of_a_large_network_asks_for_no_memory(run):
    """Its weights would have to be as large."""
    content = json.loads((run / "config.json").read_text())
    content["config"]["generator"]["latent_dim"] = 60_000
    (run / "config.json").write_text(json.dumps(content))
    refused(run, "too short for its network")


def test_classes_and_labels_belong_together(run):
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"classes": []}))
    refused(run, "config.json is damaged: conditional, or its classes")


@pytest.mark.parametrize("command", [generate.main, evaluate.main])
def test_commands_end_with_the_sentence(run, command, capsys):
    name, weight = some_weight(run)
    rewrite(run, **{name: weight * float("nan")})
    assert command([str(run)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"Error: {path_of(run)} is damaged or of another run")
    assert "\n" not in said
