"""The job scripts of docs/clusters.md, run with SLURM's commands and torchrun written down instead."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from invdiff import config
from invdiff.solve import SolveSettings

PAGE = Path(__file__).parents[1] / "docs" / "clusters.md"
SCRIPTS = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
NODES, ARRAY = SCRIPTS
WRITES = '#!/bin/bash\nprintf "%s\\n" "$@" > "$SEEN"\n'
COMMANDS = {
    "torchrun": WRITES,
    "python": WRITES,
    "srun": '#!/bin/bash\nexec "$@"\n',
    "scontrol": "#!/bin/bash\nprintf 'node7\\nnode8\\n'\n",
}


def words_of(script: str, place: Path, **environment: str) -> list[str]:
    """The words with which a script starts its program, in a job with these variables."""
    (place / "venv" / "bin").mkdir(parents=True)
    (place / "venv" / "bin" / "activate").touch()
    for name, text in COMMANDS.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "HOME": str(place), "SEEN": str(place / "seen"), **environment}
    subprocess.run(["bash", "-eu", "-c", script], check=True, env=given, timeout=60)
    return (place / "seen").read_text().splitlines()


def settings_of(words: list[str]) -> SolveSettings:
    return config.validate(SolveSettings, config.resolve(words, SolveSettings))


def options(script: str) -> dict[str, str]:
    """What a script asks SLURM for, by name."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script, re.MULTILINE)
    assert len(found) == script.count("#SBATCH")
    return dict(found)


def test_a_job_on_two_nodes(tmp_path: Path) -> None:
    asked = options(NODES)
    job = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": asked["nodes"], "SLURM_JOB_ID": "42"}
    read = parse_args(words_of(NODES, tmp_path, **job))
    assert (read.nnodes, read.nproc_per_node) == (asked["nodes"], asked["gpus-per-node"])
    assert (read.rdzv_backend, read.rdzv_endpoint) == ("c10d", "node7:29500")
    assert read.rdzv_id == "42"
    assert asked["ntasks-per-node"] == "1"  # of SLURM: torchrun starts the processes
    assert read.module and read.training_script == "invdiff.solve"
    assert settings_of(read.training_script_args).out == "/shared/results/photos"


@pytest.mark.parametrize("part", [1, 8])
def test_a_part_of_an_array(part: int, tmp_path: Path) -> None:
    asked = options(ARRAY)
    assert asked["array"] == "1-8" and asked["ntasks"] == "1"
    words = words_of(ARRAY, tmp_path, SLURM_ARRAY_TASK_ID=str(part))
    assert words[:2] == ["-m", "invdiff.solve"]
    assert settings_of(words[2:]).part == f"{part}/8"


@pytest.mark.parametrize("script", SCRIPTS, ids=["nodes", "array"])
def test_tasks_are_counted_where_each_asks_for_gpus(script: str) -> None:
    """SLURM refuses --gpus-per-task without --ntasks or --gpus."""
    asked = options(script)
    assert "gpus-per-task" not in asked or {"ntasks", "gpus"} & set(asked)
