"""Training a prior on one's own images."""

from invdiff.training.data import Data, FolderData, TrainingData, load_data
from invdiff.training.trainer import Trainer, TrainSettings, fit

__all__ = ["Data", "FolderData", "TrainSettings", "Trainer", "TrainingData", "fit", "load_data"]
