"""Training of a prior on your own images."""

from invdiff.training.data import Data, FolderData, TrainingData, in_memory, load_data
from invdiff.training.files import DataFile
from invdiff.training.measurements import fit_from_measurements
from invdiff.training.record import DataRecord
from invdiff.training.trainer import Trainer, TrainSettings, fit

__all__ = [
    "Data",
    "DataFile",
    "DataRecord",
    "FolderData",
    "TrainSettings",
    "Trainer",
    "TrainingData",
    "fit",
    "fit_from_measurements",
    "in_memory",
    "load_data",
]
