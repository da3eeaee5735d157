"""tools/launch: the files are well formed, say what they must, and their commands are understood.

No cluster is asked. The tables below are written by hand: options of sbatch from its manual page in
SLURM 22.05, fields from JobSet's CRD v1alpha2 (with batch/v1's jobs inside) and from Kubernetes'
v1 and rbac.authorization.k8s.io/v1. `tools/launch/try_slurm` runs the SLURM files for real.
"""

import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import subprocess
import tomllib

import jax
import pytest
import yaml

from pot_jax import main
from pot_jax.runs import claims

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "tools" / "launch"
SBATCH, MANIFESTS = ("sweep.sbatch", "zoom.sbatch"), ("sweep.yaml", "zoom.yaml")
CLUSTERS = (ROOT / "docs" / "clusters.md").read_text()

# Options of sbatch -> what their value has to match; None: they have no value.
NUMBER = r"[1-9]\d*"
OPTIONS = {
    "job-name": r"[\w-]+",
    "array": r"\d+-\d+(%\d+)?",
    "nodes": rf"{NUMBER}(-{NUMBER})?",
    "ntasks": NUMBER,
    "ntasks-per-node": NUMBER,
    "cpus-per-task": NUMBER,
    "mem": rf"{NUMBER}[KMGT]?",
    "gres": rf"[a-z]+(:\w+)*:{NUMBER}",
    "time": r"(\d+-)?\d{1,2}:\d{2}(:\d{2})?",
    "signal": r"([RB]+:)?(TERM|HUP|USR1|USR2|\d+)(@\d+)?",
    "requeue": None,
    "open-mode": "append|truncate",
    "output": r"[\w%.-]+",
}

# Fields by place -> their type, or the values that are known there. `[]` is any item of a list.
CONTAINER = {
    "name": str,
    "image": str,
    "command[]": str,
    "args[]": str,
    "env[].name": str,
    "env[].value": str,
    "resources.requests.cpu": int,
    "resources.requests.memory": str,
    "resources.limits.memory": str,
    "resources.limits.nvidia.com/gpu": int,
    "volumeMounts[].name": str,
    "volumeMounts[].mountPath": str,
}
POD = {
    "serviceAccountName": str,
    "restartPolicy": ("Never", "OnFailure"),
    "terminationGracePeriodSeconds": int,
    "volumes[].name": str,
    "volumes[].persistentVolumeClaim.claimName": str,
    "volumes[].emptyDir.medium": ("", "Memory"),
    "volumes[].emptyDir.sizeLimit": str,
    **{f"containers[].{field}": kind for field, kind in CONTAINER.items()},
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": ("Indexed", "NonIndexed"),
    "backoffLimit": int,
    "backoffLimitPerIndex": int,
    "podFailurePolicy.rules[].action": ("FailJob", "FailIndex", "Ignore", "Count"),
    "podFailurePolicy.rules[].onPodConditions[].type": ("DisruptionTarget",),
    "podFailurePolicy.rules[].onExitCodes.containerName": str,
    "podFailurePolicy.rules[].onExitCodes.operator": ("In", "NotIn"),
    "podFailurePolicy.rules[].onExitCodes.values[]": int,
    **{f"template.spec.{field}": kind for field, kind in POD.items()},
}
JOBSET = {
    "metadata.labels.kueue.x-k8s.io/queue-name": str,
    "spec.suspend": bool,
    "spec.ttlSecondsAfterFinished": int,
    "spec.network.enableDNSHostnames": bool,
    "spec.network.publishNotReadyAddresses": bool,
    "spec.failurePolicy.maxRestarts": int,
    "spec.replicatedJobs[].name": str,
    "spec.replicatedJobs[].replicas": int,
    **{f"spec.replicatedJobs[].template.spec.{field}": kind for field, kind in JOB.items()},
}
SUBJECT, ROLE = ("ServiceAccount", "User", "Group"), ("Role", "ClusterRole")
RBAC = "rbac.authorization.k8s.io"
FIELDS = {
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): JOBSET,
    ("v1", "ServiceAccount"): {},
    (f"{RBAC}/v1", "Role"): {
        "rules[].apiGroups[]": ("", "batch"),
        "rules[].resources[]": ("pods", "jobs"),
        "rules[].verbs[]": ("get", "list", "watch"),
    },
    (f"{RBAC}/v1", "RoleBinding"): {
        "subjects[].kind": SUBJECT,
        "subjects[].name": str,
        "roleRef.apiGroup": (RBAC,),
        "roleRef.kind": ROLE,
        "roleRef.name": str,
    },
}


def directives(name: str) -> dict[str, str | None]:
    """The #SBATCH lines of a file; sbatch reads none after the first command."""
    found = {}
    lines = (LAUNCH / name).read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.strip() and line[0] != "#")
    assert not any(line.startswith("#SBATCH") for line in lines[head:])
    for line in lines[:head]:
        if line.startswith("#SBATCH"):
            option, mark, value = re.fullmatch(r"#SBATCH --([\w-]+)(=?)(\S*)", line).groups()
            assert option not in found, option
            found[option] = value if mark else None
    return found


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((LAUNCH / name).read_text()))


def leaves(value, place: str = ""):
    """(place, value) of everything in a document that is not a mapping or a list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{place}[]")
    else:
        yield place, value


def job(name: str) -> dict:
    (replicated,) = documents(name)[0]["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


def pod(name: str) -> dict:
    return job(name)["template"]["spec"]


# What is written in the files. -------------------------------------------------------------------


@pytest.mark.parametrize("name", SBATCH)
def test_sbatch_knows_the_directives(name):
    for option, value in directives(name).items():
        expected = OPTIONS[option]
        assert (value is None) == (expected is None), option
        assert value is None or re.fullmatch(expected, value), (option, value)


@pytest.mark.parametrize("name", SBATCH)
def test_a_job_is_told_before_it_ends_and_goes_back_into_the_queue(name):
    found = directives(name)
    assert "requeue" in found
    assert found["open-mode"] == "append"  # the first part's log stays
    # To the steps, not to the script: `B:` would end it, and pot-jax would hear nothing.
    seconds = re.fullmatch(r"TERM@(\d+)", found["signal"])[1]
    assert 60 <= int(seconds) <= 300


def test_every_task_sees_all_gpus_of_its_node():
    found = directives("zoom.sbatch")
    assert found["gres"] == f"gpu:{found['ntasks-per-node']}"
    assert not {"gpus-per-task", "gpu-bind"} & found.keys()


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_the_fields(name):
    for document in documents(name):
        kind = document["apiVersion"], document["kind"]
        known = FIELDS[kind] | {"apiVersion": str, "kind": str, "metadata.name": str}
        for place, value in leaves(document):
            expected = known[place]
            if isinstance(expected, tuple):
                assert value in expected, (place, value)
            else:
                assert type(value) is expected, (place, value)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_jobset_holds_together(name):
    spec, inner = job(name), pod(name)
    assert documents(name)[0]["spec"]["suspend"] is True  # Kueue starts it
    assert documents(name)[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert spec["parallelism"] == spec["completions"]
    assert spec["completionMode"] == "Indexed"
    (container,) = inner["containers"]
    assert inner["restartPolicy"] == "Never"
    assert 60 <= inner["terminationGracePeriodSeconds"] <= 300
    volumes = {volume["name"] for volume in inner["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests["memory"] == limits["memory"]
    assert limits["nvidia.com/gpu"] >= 1


def test_jax_finds_the_coordinator_of_a_jobset():
    jobset, account, role, binding = documents("zoom.yaml")
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    assert "subdomain" not in jobset["spec"]["network"]  # JAX takes the JobSet's name
    name = pod("zoom.yaml")["serviceAccountName"]
    assert account["metadata"]["name"] == name == binding["subjects"][0]["name"]
    assert role["metadata"]["name"] == binding["roleRef"]["name"]
    allowed = {r: rule["verbs"] for rule in role["rules"] for r in rule["resources"]}
    assert "list" in allowed["pods"]
    assert "get" in allowed["jobs"]


def test_one_process_of_several_never_starts_again_alone():
    assert job("zoom.yaml")["backoffLimit"] == 0
    assert documents("zoom.yaml")[0]["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_a_worker_of_a_sweep_starts_again_alone_but_not_after_a_mistake():
    spec = job("sweep.yaml")
    assert spec["backoffLimitPerIndex"] > 0
    evicted, mistake = spec["podFailurePolicy"]["rules"]
    assert evicted["action"] == "Ignore"
    (container,) = pod("sweep.yaml")["containers"]
    codes = {"containerName": container["name"], "operator": "In", "values": [2]}
    assert (mistake["action"], mistake["onExitCodes"]) == ("FailIndex", codes)


# What the files run. -----------------------------------------------------------------------------

STAND_IN = """#!/bin/sh
{{ printf '%s\\0' {name} "$@"; printf '\\n'; }} >> "$CALLS"
exit ${{CODE_{name}:-0}}
"""


def calls(command: list[str], folder: pathlib.Path, **environment) -> tuple[int, list[list[str]]]:
    """Runs a script with stand-ins for what it starts; returns its exit code and those calls."""
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("srun", "scontrol", "pot-jax", "sleep"):
        text = STAND_IN.format(name=name.replace("-", "_"))
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    log = folder / "calls"
    log.unlink(missing_ok=True)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(log), **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    rows = log.read_text().splitlines() if log.exists() else []
    return done.returncode, [row.split("\0")[:-1] for row in rows]


def batch(name: str, folder: pathlib.Path, *arguments, **environment):
    found = directives(name)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": found["cpus-per-task"]}
    return calls(["bash", str(LAUNCH / name), *arguments], folder, **slurm, **environment)


def command_of(name: str, folder: pathlib.Path) -> list[str]:
    """The command of a file: pot-jax and its arguments."""
    if name in SBATCH:
        code, ((_, *found),) = batch(name, folder)
        assert code == 0
        return found[found.index("pot-jax") :]
    (container,) = pod(name)["containers"]
    command = container["command"] + container.get("args", [])
    if command[0] == "pot-jax":
        return command
    code, (found,) = calls(command, folder, **environment_of(name))
    assert code == 0
    return ["pot-jax", *found[1:]]


def environment_of(name: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod(name)["containers"][0]["env"]}


@pytest.fixture
def tiny(tmp_path):
    """A config of two levels and a sweep of four points."""
    path = tmp_path / "tiny.py"
    settings = {"prompts": ["a blue planet", "a green island"], "sampler": {"steps": 2}}
    axes = {"sampler.blend": ["laplacian", "none"], "seed": [0, 1]}
    text = f"def get_config():\n    return {settings}\n\n\ndef get_sweep():\n    return {axes}\n"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["zoom.sbatch", "zoom.yaml"])
def test_a_zoom_is_understood(name, tmp_path, tiny, monkeypatch, capsys):
    _, command, *flags = command_of(name, tmp_path)
    assert command == "sample"
    assert "--distributed" in flags
    flags = [flag for flag in flags if flag != "--distributed"]
    # The flags as they stand; then over them a model that is here, as a user's arguments would lie.
    small = ["--model=cosmos64", "--variant=", "--dtype=float32", f"--config={tiny}"]
    devices = jax.devices()[:1]
    monkeypatch.setattr("jax.devices", lambda *a: devices)
    here = ["--devices=cpu", "--compilation_cache=none", "--dry_run"]
    assert main.main(["pot-jax", command, *flags, *small, *here]) == 0
    assert "2 levels" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sweep.sbatch", "sweep.yaml"])
def test_a_sweep_is_understood(name, tmp_path, tiny, capsys):
    _, command, *flags = command_of(name, tmp_path)
    assert command == "sweep"
    assert main.main(["pot-jax", command, *flags, "--list"]) == 0
    capsys.readouterr()
    folder = f"--workdir={tmp_path}"
    assert main.main(["pot-jax", command, *flags, f"--config={tiny}", folder, "--list"]) == 0
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err.strip()) == (4, "4 points: 0 finished, 4 to do: ?")


@pytest.mark.parametrize("name", SBATCH + MANIFESTS)
def test_runs_and_caches_lie_on_the_shared_disk(name, tmp_path):
    values = dict(flag.partition("=")[::2] for flag in command_of(name, tmp_path))
    shared = "/shared" if name in MANIFESTS else str(tmp_path)
    assert values["--workdir"].startswith(f"{shared}/runs/")
    assert values["--compilation_cache"] == f"{shared}/compiled"
    if name in MANIFESTS:
        mounts = [mount["mountPath"] for mount in pod(name)["containers"][0]["volumeMounts"]]
        assert "/shared" in mounts
        assert environment_of(name)["HF_HOME"].startswith("/shared/")


@pytest.mark.parametrize("name", SBATCH)
def test_arguments_of_a_batch_job_go_to_pot_jax(name, tmp_path):
    given = ["--prefix=a b", "--seed=3"]
    code, ((_, *found),) = batch(name, tmp_path, *given, POT_JAX_SHARED="/disk/of mine")
    assert code == 0
    assert found[-2:] == given
    assert "--compilation_cache=/disk/of mine/compiled" in found


@pytest.mark.parametrize("name", SBATCH)
@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, "", False), (2, "", False), (1, "", False), (143, "", True), (143, "49", True)]
    + [(143, "50", False)],  # a job whose time is too short must end
)
def test_a_job_that_saved_its_state_is_requeued(name, code, restarts, requeued, tmp_path):
    count = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    ended, started = batch(name, tmp_path, CODE_srun=str(code), **count)
    assert ended == code
    assert started[1:] == ([["scontrol", "requeue", "7"]] if requeued else [])


def test_a_restarted_zoom_waits_until_a_killed_one_no_longer_holds_the_folder(tmp_path):
    (container,) = pod("zoom.yaml")["containers"]
    command = container["command"] + container["args"]
    _, free = calls(command, tmp_path, WORKDIR=str(tmp_path))
    (tmp_path / claims._CLAIM).touch()
    _, held = calls(command, tmp_path, WORKDIR=str(tmp_path))
    assert [row[0] for row in free] == ["pot_jax"]
    (name, seconds), (then, *_) = held
    assert (name, then) == ("sleep", "pot_jax")
    assert int(seconds) > claims.STALE


def test_try_slurm_is_a_script():
    subprocess.run(["bash", "-n", LAUNCH / "try_slurm"], check=True)
    assert os.access(LAUNCH / "try_slurm", os.X_OK)


# What the page and the package say. --------------------------------------------------------------


def test_the_page_explains_what_there_is_to_set():
    for name in SBATCH:
        for option in directives(name).keys() - {"job-name", "output"}:
            assert f"--{option}" in CLUSTERS, option
    for field in ("parallelism", "completions", "terminationGracePeriodSeconds", "maxRestarts"):
        assert f"`{field}`" in CLUSTERS
    for name in re.findall(r"\]\(([^):#]+)\)", CLUSTERS):
        assert (ROOT / "docs" / name).exists(), name
    for name in os.listdir(LAUNCH):
        assert name in CLUSTERS, name


@pytest.mark.parametrize("name", ["cuda", "cuda12", "cuda13", "tpu"])
def test_an_accelerator_is_an_extra_of_jax(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (plain,) = (one for one in project["dependencies"] if re.match(r"jax\W", one))
    (found,) = project["optional-dependencies"][name]
    kind = re.match(r"jax\[(\w+)\]", found)[1]
    assert found == plain.replace("jax", f"jax[{kind}]", 1)
    assert kind == ("cuda12" if name == "cuda" else name)
    assert kind in importlib.metadata.metadata("jax").get_all("Provides-Extra")


def test_the_image_installs_an_extra():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    words = [shlex.split(line) for line in lines if line and not line.startswith("#")]
    assert [line[0] for line in words] == ["FROM", "ARG", "COPY", "RUN", "ENTRYPOINT"]
    (default,) = (line[1].partition("=")[2] for line in words if line[0] == "ARG")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert default in project["optional-dependencies"]
    assert "kubernetes" in next(line for line in words if line[0] == "RUN")
    assert json.loads(lines[-1].removeprefix("ENTRYPOINT ")) == ["pot-jax"]
    for name in MANIFESTS:
        assert pod(name)["containers"][0]["image"].endswith(f"/pot-jax:{default}")
