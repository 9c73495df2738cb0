"""What a run was given to train on: a record that keeps held-out images out of training for good.

The images that are held out are chosen by their content, so that copies of an image are on the same
side. The record lies in the run's folder. A run that goes on compares the data with it, and what
was held out once is never trained on, whatever its file is called by then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invdiff.errors import InputError
from invdiff.training.files import DataFile

RECORD_FILE = "data.json"
_SHOWN = 3  # names of files in a message


@dataclass(frozen=True)
class DataRecord:
    """The images of a run by name and content, and on which side each of them is.

    Attributes:
        contents: name of a file, or of an image in an .npz -> hash of its content.
        trained: hashes of what has been trained on.
        held_out: hashes of what has been held out.
        files: name -> what a look at a file found.

    Example:
        >>> record = DataRecord({"a.png": "01", "b.png": "02"}, frozenset(["01"]), frozenset(["02"]))
        >>> record.changes(DataRecord({"a.png": "03", "b.png": "02", "c.png": "04"}))
        ['changed a.png', 'added c.png']
    """

    contents: Mapping[str, str]
    trained: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()
    files: Mapping[str, DataFile] = field(default_factory=dict)

    def changes(self, now: DataRecord) -> list[str]:
        """Return how the names and contents of ``now`` differ from these, one entry per name."""
        before = self.contents
        changed = [name for name in now.contents if before.get(name, "") != now.contents[name]]
        return [
            *(f"changed {name}" for name in changed if name in before),
            *(f"added {name}" for name in changed if name not in before),
            *(f"missing {name}" for name in before if name not in now.contents),
        ]

    def check(self, source: str, now: DataRecord) -> None:
        """Check that the data are those that the run began with.

        Raises:
            InputError: a file or an image was added, changed or removed.
        """
        changes = self.changes(now)
        if changes:
            shown = ", ".join(changes[:_SHOWN]) + ", ..." * (len(changes) > _SHOWN)
            raise InputError(
                f"data {source}: found {len(now.contents)} items, {len(changes)} of which differ from "
                f"those that this run began with ({shown}), expected the same; another out= begins "
                "anew, data_changed=true goes on and keeps held-out images out of training"
            )

    def joined(self, now: DataRecord) -> DataRecord:
        """Return the record of ``now``, which remembers what was trained on and held out before."""
        trained = self.trained | now.trained
        return DataRecord(now.contents, trained, self.held_out | now.held_out, now.files)

    def write(self) -> bytes:
        """Return the record as JSON."""
        facts = {name: _facts(file) for name, file in self.files.items()}
        entry = {
            "format": 1,
            "contents": dict(self.contents),
            "trained": sorted(self.trained),
            "held_out": sorted(self.held_out),
            "files": facts,
        }
        return json.dumps(entry, separators=(",", ":")).encode()

    @classmethod
    def read(cls, run: Path) -> DataRecord | None:
        """Return the record in a run's folder, or None where there is none.

        Raises:
            InputError: the record is damaged.
        """
        path = run / RECORD_FILE
        try:
            entry = json.loads(path.read_bytes())
            facts: dict[str, list[float]] = entry["files"]
            files = {
                name: _data_file(name, entry["contents"][name], *facts[name]) for name in facts
            }
            sides = (frozenset(entry["trained"]), frozenset(entry["held_out"]))
            return cls(dict(entry["contents"]), *sides, files)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise InputError(
                f"{path}: damaged, cannot resume ({error}); expected the run's record"
            ) from None


def held_out_contents(contents: Collection[str]) -> frozenset[str]:
    """Choose a twentieth of the different contents, at most 1,000, none of fewer than 20.

    They are those with the lowest hashes, so the choice does not depend on names or order.
    """
    different = sorted(set(contents))
    return frozenset(different[: min(1000, len(different) // 20)])


def _facts(file: DataFile) -> list[float]:
    return [file.images, file.low, file.high, *file.stamp]


def _data_file(
    name: str, content: str, images: float, low: float, high: float, *stamp: float
) -> DataFile:
    return DataFile(Path(name), name, content, int(images), low, high, tuple(map(int, stamp)))
