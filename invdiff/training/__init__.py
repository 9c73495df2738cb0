"""Training a prior on one's own images."""

from invdiff.training.data import TrainingData, load_data
from invdiff.training.trainer import Trainer, TrainSettings, fit

__all__ = ["TrainSettings", "Trainer", "TrainingData", "fit", "load_data"]
