"""The files that the pages about SLURM and Kubernetes hold start what the program reads."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from torch.distributed.run import get_args_parser

from compressor.cli import app
from compressor.errors import EXIT_CODES
from compressor.machine.launchers import read_launch

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SCRIPT = GUIDES / "files" / "compress.sbatch"
JOB = GUIDES / "files" / "compress-job.yaml"


def options_of(words: Sequence[str]) -> dict[str, object]:
    """Return what `compress run` reads of these words; fails for an option that it lacks."""
    group: Any = typer.main.get_command(app)
    found: dict[str, object] = group.commands["run"].make_context("run", list(words)).params
    return found


@pytest.mark.parametrize(("page", "file"), [("slurm.md", SCRIPT), ("kubernetes.md", JOB)])
def test_a_page_shows_its_file_as_it_is(page: str, file: Path):
    text = (GUIDES / page).read_text(encoding="utf-8")
    assert f'title="{file.name}"\n{file.read_text(encoding="utf-8")}```' in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_batch_script_starts_torchrun_on_each_host(tmp_path: Path):
    # srun and scontrol of a cluster, and a torchrun that says what it was given. There are more
    # hosts than a pipe holds: a script that reads the first alone would end scontrol by SIGPIPE.
    for name, does in (
        ("srun", 'shift; exec "$@"'),
        ("scontrol", "echo one; seq 20000"),
        ("torchrun", 'printf "%s\\n" "$@"'),
    ):
        command = tmp_path / name
        command.write_text(f"#!/bin/bash\n{does}\n")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    slurm = {"JOB_NODELIST": "x[1-2]", "NNODES": "2", "NODEID": "1", "GPUS_ON_NODE": "4"}
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        **{f"SLURM_{name}": value for name, value in slurm.items()},
    }
    bash = shutil.which("bash") or ""
    done = subprocess.run(
        [bash, SCRIPT], env=environment, capture_output=True, text=True, check=True
    )

    given = get_args_parser().parse_args(done.stdout.splitlines())
    assert (given.nnodes, given.node_rank, given.nproc_per_node) == ("2", 1, "4")
    assert (given.master_addr, given.master_port, given.module) == ("one", 29500, True)
    assert given.training_script == "compressor"
    command, *words = given.training_script_args
    assert command == "run"
    assert options_of(words)["recipe"] == Path("recipe.yaml")


def test_the_job_starts_as_many_processes_as_it_has_pods():
    service, job = yaml.safe_load_all(JOB.read_text(encoding="utf-8"))
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]

    # The names of pods that the service gives, and the labels that Kubernetes gives pods of a job.
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
    variables = {item["name"]: item.get("value", "1") for item in container["env"]}
    launch = read_launch(variables)
    assert (launch.size, launch.address) == (spec["completions"], f"{name}-0.{name}")
    path = container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"

    assert container["command"][:4] == ["python", "-m", "compressor", "run"]
    options = options_of([*container["command"][4:], *container["args"]])
    folder = Path(container["volumeMounts"][0]["mountPath"])
    assert options["recipe"] == folder / "recipe.yaml"
    assert options["output"] == folder / "runs/first"


def test_the_job_is_given_up_where_starting_it_again_would_not_help():
    _, job = yaml.safe_load_all(JOB.read_text(encoding="utf-8"))
    [rule] = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    # 0 is success, 3 a process that is gone, and from 128 on they are those of signals.
    assert set(rule["onExitCodes"]["values"]) == {code for code in EXIT_CODES if code < 128} - {
        0,
        3,
    }
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
