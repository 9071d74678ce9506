"""Asks a network that has read radiology reports whether a film shows a finding, or none.

Tiu et al., Nature Biomedical Engineering 2022 (CheXzero): image and text embeddings of a CLIP
(Radford et al. 2021, arXiv:2103.00020) that was trained on films and their reports; for every
finding the softmax over the similarities with a positive and a negative prompt. Nothing is
learnt here. The weights are the user's, a local folder in the format of `transformers`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["ZeroShot", "ZeroShotConfig", "probability"]

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's pictures, red to blue, in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
BEGIN, END = 256, 257  # around the bytes of a prompt, for the network of the tests
RANDOM_SEED = 0


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig:
    """The network, and what it is asked."""

    weights: str = ""
    """Folder with a CLIP: config.json, model.safetensors and its tokenizer's files. Never fetched,
    never pickle."""
    image_size: int = 224
    """Side of the film, in pixels, as the network wants it."""
    findings: tuple[str, ...] = (
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Enlarged Cardiomediastinum",
        "Fracture",
        "Lung Lesion",
        "Lung Opacity",
        "Pleural Effusion",
        "Pleural Other",
        "Pneumonia",
        "Pneumothorax",
    )
    """What is asked for, one pair of prompts each."""
    positive: str = "{finding}"
    """The prompt that a film with the finding is like."""
    negative: str = "no {finding}"
    """The prompt that a film without it is like."""
    score: Literal["max", "mean"] = "max"
    """The score is the largest probability of the findings, or their mean."""
    random_layers: int = 0
    """Tests only: so many layers of random weights, which know nothing, and no `weights`."""


class ZeroShot(WithoutRecord):
    """The probability of the likeliest finding, by an image and its report's words."""

    name: ClassVar[str] = "zero-shot"
    summary: ClassVar[str] = "Finding or no finding, asked of a CLIP that has read reports"
    paper: ClassVar[str] = "Tiu et al. 2022 (CheXzero)"
    notes: ClassVar[Notes] = Notes(
        paper="A CLIP trained on films and their reports embeds the film and, for every finding, "
        'the prompts "{finding}" and "no {finding}". The softmax over both cosine similarities '
        "is the probability of that finding.",
        program="Averages the probabilities of several trained networks.",
        ours="One network, from a folder that the user has: none comes with the package. The "
        "similarities are multiplied by the network's own temperature. What the paper does not "
        "need, one score a film, is the largest of the probabilities, or their mean.",
    )
    Config: ClassVar[type] = ZeroShotConfig
    PRESETS: ClassVar[Mapping[str, ZeroShotConfig]] = {
        "tiny": ZeroShotConfig(
            image_size=32, findings=("Edema", "Pneumonia"), score="mean", random_layers=2
        ),
        "small": ZeroShotConfig(),
        "paper": ZeroShotConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.REPORT_PRETRAINED

    def __init__(self, config: ZeroShotConfig, stats: EhrStats) -> None:
        if not config.findings:
            raise UserError("findings: none; give one or more")
        for name in ("positive", "negative"):
            if "{finding}" not in getattr(config, name):
                raise UserError(f"{name}: {getattr(config, name)!r}: write {{finding}} in it")
        if config.score not in ("max", "mean"):
            raise UserError(f"score: {config.score!r}: give max or mean")
        self.config, self.stats = config, stats
        self.net: nn.Module | None = None
        self.learnt: dict[str, Tensor] = {}

    @property
    def network_calls(self) -> int:
        """One, of the image's side; the prompts are embedded once and for all."""
        return 1

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Reads the network and embeds the prompts; looks at no film. Raises UserError where
        the folder holds no such network."""
        model = self._read()
        c = self.config
        texts = [
            prompt.format(finding=finding)
            for finding in c.findings
            for prompt in (c.positive, c.negative)
        ]
        with torch.no_grad():
            embeddings = model.get_text_features(**self._tokens(texts)).pooler_output
            scale = model.logit_scale.exp()
        self.learnt = {
            "text": F.normalize(embeddings.float(), dim=1)
            .reshape(len(c.findings), 2, -1)
            .contiguous(),
            "scale": scale.float().reshape(1).clone(),
            "weights": self._digest(),
        }
        self.net = model
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Probabilities in 0 to 1, that of each finding as a part. No map."""
        if self.net is None:
            raise UserError("zero-shot: not fitted yet; fit it, or load a model")
        model: Any = self.net.eval()
        device = model.logit_scale.device
        mean, std = (self._colours(n).to(device) for n in ("image_mean", "image_std"))
        rgb = (((batch.image.to(device) + 1) / 2).expand(-1, 3, -1, -1) - mean) / std
        image = F.normalize(model.get_image_features(pixel_values=rgb).pooler_output.float(), dim=1)
        probabilities = probability(image.cpu(), self.learnt["text"], self.learnt["scale"])
        total = probabilities.amax(1) if self.config.score == "max" else probabilities.mean(1)
        names = (f"p.{finding}" for finding in self.config.findings)
        return Scores(
            score=total, components=dict(zip(names, probabilities.unbind(1), strict=True))
        )

    def state(self) -> dict[str, Tensor]:
        """The prompts' embeddings, and the SHA-256 of the network, which is no part of a model."""
        return dict(self.learnt)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave. Raises UserError where the folder holds another network."""
        self.learnt, self.net = dict(state), None
        if state:
            if not torch.equal(self._digest(), state["weights"]):
                raise UserError(
                    f"weights: {self.config.weights}: not the network that the model was made with"
                )
            self.net = self._read()

    @property
    def _files(self) -> list[Path]:
        """The files of the network's weights."""
        folder = Path(self.config.weights)
        paths = sorted(folder.glob("model*.safetensors")) if self.config.weights else []
        if not paths:
            raise UserError(
                f"weights: {self.config.weights!r}: give a folder with a CLIP's config.json, "
                "model.safetensors and tokenizer; none comes with nofinding"
            )
        return paths

    def _digest(self) -> Tensor:
        """The SHA-256 of the weights, 32 bytes; zeros for the network of the tests."""
        if self.config.random_layers:
            return torch.zeros(32, dtype=torch.uint8)
        whole = hashlib.sha256()
        for path in self._files:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return torch.tensor(list(whole.digest()), dtype=torch.uint8)

    def _read(self) -> Any:
        """The network, frozen; draws nothing from the global generator."""
        try:
            from transformers import CLIPModel
        except ImportError as error:
            raise UserError("zero-shot: needs transformers; install nofinding[language]") from error
        c = self.config
        with torch.random.fork_rng(devices=[]):
            if c.random_layers:
                torch.manual_seed(RANDOM_SEED)
                model: Any = CLIPModel(_random(c))
            else:
                assert self._files
                try:
                    model = CLIPModel.from_pretrained(
                        c.weights, local_files_only=True, use_safetensors=True, dtype=torch.float32
                    )
                except (OSError, ValueError, RuntimeError) as error:
                    first = str(error).strip().splitlines()[0]
                    raise UserError(f"weights: {c.weights}: no CLIP to be read: {first}") from error
        side = model.config.vision_config.image_size
        if side != c.image_size:
            raise UserError(f"image_size: {c.image_size}: the network in weights wants {side}")
        return model.requires_grad_(False).eval()

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The prompts as the network reads them, padded to one length."""
        if self.config.random_layers:
            rows = [[BEGIN, *text.encode(), END] for text in texts]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [END] * (longest - len(row)) for row in rows])
            mask = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])
            return {"input_ids": ids, "attention_mask": mask.long()}
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.config.weights, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"weights: {self.config.weights}: no tokenizer: {first}") from error
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _colours(self, name: str) -> Float[Tensor, "1 3 1 1"]:
        """Mean or spread of the pictures that the network was trained on, red to blue."""
        path = Path(self.config.weights) / "preprocessor_config.json"
        processor = None
        if self.config.weights and path.is_file():
            processor = json.loads(path.read_text(encoding="utf-8")).get(name)
        return torch.tensor(processor or {"image_mean": MEAN, "image_std": STD}[name]).view(
            1, 3, 1, 1
        )


def probability(
    image: Float[Tensor, "b d"], text: Float[Tensor, "k 2 d"], scale: Float[Tensor, "1"]
) -> Float[Tensor, "b k"]:
    """The softmax over a positive and a negative prompt, for each of k findings. Unit vectors."""
    return (scale * torch.einsum("bd,kpd->bkp", image, text)).softmax(dim=2)[:, :, 0]


def _random(config: ZeroShotConfig) -> Any:
    """The shape of a CLIP small enough for tests."""
    from transformers import CLIPConfig

    both = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": config.random_layers,
        "num_attention_heads": 2,
    }
    ends = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END}
    return CLIPConfig(
        text_config={**both, **ends, "vocab_size": END + 1},
        vision_config={**both, "image_size": config.image_size, "patch_size": 8},
        projection_dim=8,
    )
