"""A film is abnormal where it is more like a finding's prompt than like its negation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from methods.test_contract import SCORED, STATS
from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.methods.language.zero_shot import ZeroShot, ZeroShotConfig, probability

transformers = pytest.importorskip("transformers", reason="nofinding[language]")
WORDS = ("edema</w>", "no</w>", "pneumonia</w>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights with a tokenizer that knows three words, as a user has one."""
    path = tmp_path_factory.mktemp("clip")
    ends = {"<|startoftext|>": 256, "<|endoftext|>": 257}
    vocabulary = {**{f"{c}": i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}}
    vocabulary |= {f"{c}</w>": 30 + i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    vocabulary |= {word: 100 + i for i, word in enumerate(WORDS)} | ends
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(path)
    tiny = ZeroShot(ZeroShot.PRESETS["tiny"], STATS)
    tiny._read().save_pretrained(path)
    return path


def config(folder: Path) -> ZeroShotConfig:
    return replace(ZeroShot.PRESETS["tiny"], random_layers=0, weights=str(folder))


def films() -> Films:
    return Films(SCORED, STATS, 32)


def test_the_probability_is_the_softmax_over_both_prompts() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.8, 0.6]]])
    result = probability(image, text, torch.tensor([2.0]))
    sigmoid = torch.tensor([[2.0, -0.4], [-2.0, 0.4]]).sigmoid()  # scale x (positive - negative)
    torch.testing.assert_close(result, sigmoid)


def test_positive_prompts_come_first_and_swapping_them_turns_the_score(folder: Path) -> None:
    batch = films().batch(range(4))
    one = ZeroShot(config(folder), STATS).fit(films())
    swapped = replace(config(folder), positive="no {finding}", negative="{finding}")
    other = ZeroShot(swapped, STATS).fit(films())
    scores, turned = one.score(batch), other.score(batch)
    torch.testing.assert_close(scores.score, 1 - turned.score)
    assert list(scores.components) == ["p.Edema", "p.Pneumonia"]
    torch.testing.assert_close(scores.score, torch.stack(list(scores.components.values())).mean(0))
    most = ZeroShot(replace(config(folder), score="max"), STATS).fit(films()).score(batch)
    torch.testing.assert_close(most.score, torch.stack(list(scores.components.values())).amax(0))


def test_it_is_what_transformers_own_forward_pass_says(folder: Path) -> None:
    batch = films().batch(range(3))
    scores = ZeroShot(config(folder), STATS).fit(films()).score(batch)
    model = transformers.CLIPModel.from_pretrained(folder, use_safetensors=True).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        ["Edema", "no Edema"], padding=True, return_tensors="pt"
    )
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    pixels = ((batch.image + 1) / 2 - mean) / std
    with torch.no_grad():
        logits = model(pixel_values=pixels, **tokens).logits_per_image
    torch.testing.assert_close(scores.components["p.Edema"], logits.softmax(1)[:, 0])


def test_a_model_knows_its_network_and_refuses_another(folder: Path, tmp_path: Path) -> None:
    fitted = ZeroShot(config(folder), STATS).fit(films())
    batch = films().batch(range(2))
    other = ZeroShot(config(folder), STATS)
    other.load_state(fitted.state())
    assert torch.equal(other.score(batch).score, fitted.score(batch).score)
    shutil.copytree(folder, tmp_path / "clip")
    data = bytearray((tmp_path / "clip" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "clip" / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(UserError, match="not the network that the model was made with"):
        ZeroShot(config(tmp_path / "clip"), STATS).load_state(fitted.state())


def test_pickles_and_programs_in_the_folder_are_not_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "clip")
    payload = json.loads((folder / "config.json").read_text())
    payload["auto_map"] = {"AutoModel": "evil.Model"}
    (tmp_path / "clip" / "config.json").write_text(json.dumps(payload))
    (tmp_path / "clip" / "evil.py").write_text("raise SystemExit('ran')")
    ZeroShot(config(tmp_path / "clip"), STATS).fit(films())
    model = transformers.CLIPModel.from_pretrained(folder)
    torch.save(model.state_dict(), tmp_path / "clip" / "pytorch_model.bin")
    (tmp_path / "clip" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="give a folder with a CLIP's config"):
        ZeroShot(config(tmp_path / "clip"), STATS).fit(films())


def test_what_is_missing_is_said_in_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="none comes with nofinding"):
        ZeroShot(ZeroShotConfig(), STATS).fit(films())
    with pytest.raises(UserError, match="image_size: 64: the network in weights wants 32"):
        ZeroShot(replace(config(folder), image_size=64), STATS).fit(films())
    with pytest.raises(UserError, match=r"negative: 'healthy': write \{finding\} in it"):
        ZeroShot(ZeroShotConfig(negative="healthy"), STATS)
    with pytest.raises(UserError, match="not fitted yet"):
        ZeroShot(config(folder), STATS).score(films().batch([0]))
