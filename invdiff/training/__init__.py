"""Training a prior on one's own images."""

from .data import TrainingData, load_data
from .trainer import Trainer, TrainSettings, fit

__all__ = ["TrainSettings", "Trainer", "TrainingData", "fit", "load_data"]
