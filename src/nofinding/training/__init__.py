"""The ONE training loop: EMA, mixed precision, resume, several processes. Knows no method."""

from nofinding.training.config import Job, Loss, TrainConfig, Trained
from nofinding.training.loop import train

__all__ = ["Job", "Loss", "TrainConfig", "Trained", "train"]
