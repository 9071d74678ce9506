"""The ONE training loop: EMA, mixed precision, resume, several processes. Knows no method."""

from nofinding.training.config import Loss, TrainConfig, Trained, TrainingRun
from nofinding.training.loop import train

__all__ = ["Loss", "TrainConfig", "Trained", "TrainingRun", "train"]
