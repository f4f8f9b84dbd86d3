"""The environment of the ranks: what is set, what wins, what is taken away, and what is never written down."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lanemark.launch.environment import (
    CacheDirectory,
    Setting,
    apply_settings,
    choose_cache_directory,
    rank_environment,
    rank_variables,
)
from lanemark.records.case import Case, DataAsked

CASE = Case(
    lane="training", preset="none", nproc=2, mode="fsdp2", compile="regional", dtype="bf16", steps=4, warmup=1,
    sequence=8, micro_batch=1, data=DataAsked("synthetic"),
)  # fmt: skip
CACHE = CacheDirectory(Path("/cache"), "asked for")


def apply(
    operator: dict[str, str], case: Case = CASE, *, cuda: bool = True, cores: int = 16
) -> tuple[dict[str, str], dict[str, Setting]]:
    env, settings = rank_environment(operator, case=case, cuda=cuda, usable_cores=cores, cache=CACHE)
    return env, {setting.name: setting for setting in settings}


def test_multi_gpu_settings_are_all_there_each_with_a_reason() -> None:
    env, settings = apply({})
    expected = {
        "TRITON_DEFAULT_NUM_STAGES": "2", "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM": "0", "TORCH_NCCL_ENABLE_MONITORING": "0",
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "7200", "TORCH_DISTRIBUTED_DEBUG": "INFO",
        "TORCH_NCCL_AVOID_RECORD_STREAMS": "1", "TORCHINDUCTOR_FX_GRAPH_CACHE": "1", "TORCHINDUCTOR_AUTOGRAD_CACHE": "1",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor", "TRITON_CACHE_DIR": "/cache/triton", "TMPDIR": "/cache/tmp",
        "NCCL_IB_DISABLE": "1", "NCCL_NET_PLUGIN": "none", "OMP_NUM_THREADS": "8", "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "TORCH_FR_BUFFER_SIZE": "512",
    }  # fmt: skip
    assert env == expected
    assert {name: setting.value for name, setting in settings.items()} == expected
    assert all(len(setting.reason) > 10 or setting.reason for setting in settings.values())
    assert {setting.origin for setting in settings.values()} == {"lanemark"}


def test_operators_own_setting_wins_and_is_recorded_as_theirs() -> None:
    env, settings = apply({"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "NCCL_IB_DISABLE": "0", "OMP_NUM_THREADS": "3"})
    assert env["TORCH_DISTRIBUTED_DEBUG"] == "DETAIL"
    assert settings["TORCH_DISTRIBUTED_DEBUG"].to_json() == {
        "name": "TORCH_DISTRIBUTED_DEBUG",
        "value": "DETAIL",
        "origin": "operator",
        "reason": "set in the operator's environment, which wins",
    }
    assert (env["NCCL_IB_DISABLE"], settings["NCCL_IB_DISABLE"].origin) == ("0", "operator")
    assert env["OMP_NUM_THREADS"] == "3"


def test_empty_setting_is_none() -> None:
    assert apply({"OMP_NUM_THREADS": ""})[0]["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize(
    "name",
    ["NCCL_NET", "NCCL_NET_GDR_LEVEL", "NCCL_IB_HCA", "NCCL_TUNER_CONFIG_PATH", "TORCHELASTIC_RUN_ID", "GROUP_RANK",
     "LANEMARK_LISTEN_FD", "LANEMARK_DATA_DIR"],
)  # fmt: skip
def test_what_others_left_behind_is_scrubbed_without_its_value(name: str) -> None:
    env, settings = apply({name: "leaked"})
    assert name not in env
    assert settings[name].origin == "scrubbed"
    assert "value" not in settings[name].to_json()


@pytest.mark.parametrize("name", ["NCCL_DEBUG", "NCCL_SOCKET_IFNAME", "LANEMARK_HOME", "PATH", "NCCLX"])
def test_what_is_nobodys_leak_stays(name: str) -> None:
    env, settings = apply({name: "kept"})
    assert env[name] == "kept"
    assert name not in settings


def test_secrets_reach_the_ranks_and_no_document() -> None:
    secrets = {
        "HF_TOKEN": "hf_planted1", "AWS_SECRET_ACCESS_KEY": "planted2", "WANDB_API_KEY": "planted3",
        "TORCHELASTIC_TOKEN": "planted4", "NCCL_IB_PASSWORD": "planted5", "NCCL_NET_SECRET": "planted6",
    }  # fmt: skip
    env, settings = apply(secrets)
    assert env["HF_TOKEN"] == "hf_planted1"
    assert "planted" not in json.dumps([setting.to_json() for setting in settings.values()])


def test_eager_case_keeps_no_compile_settings() -> None:
    env, _ = apply({}, replace(CASE, compile="eager"))
    assert not any(name.startswith(("TORCHINDUCTOR", "TRITON", "TMPDIR")) for name in env)
    assert "TORCH_NCCL_ENABLE_MONITORING" not in env  # nothing compiles, so the monitor does its work


def test_monitor_stays_on_where_ranks_compile_before_there_is_a_communicator() -> None:
    ahead = replace(CASE, preset="dense-nano")
    assert apply({}, ahead)[0]["TORCH_NCCL_ENABLE_MONITORING"] == "1"
    for case, why in (
        (replace(ahead, prewarm="off"), "switched off"),
        (replace(ahead, preset="moe-nano"), "stall on CUDA"),
        (replace(ahead, command=("train.py",)), "user's own"),
    ):
        env, settings = apply({}, case)
        assert env["TORCH_NCCL_ENABLE_MONITORING"] == "0"
        assert why in settings["TORCH_NCCL_ENABLE_MONITORING"].reason
    assert apply({"TORCH_NCCL_ENABLE_MONITORING": "0"}, ahead)[1]["TORCH_NCCL_ENABLE_MONITORING"].origin == "operator"


def test_cpu_case_has_no_nccl_and_compiles_on_one_thread() -> None:
    env, _ = apply({}, cuda=False)
    assert not any("NCCL" in name for name in env)
    assert env["TORCHINDUCTOR_COMPILE_THREADS"] == "1"


def test_autotuning_is_off_under_fsdp_only() -> None:
    assert "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM" not in apply({}, replace(CASE, mode="ddp"))[0]


@pytest.mark.parametrize(("cores", "nproc", "threads"), [(16, 8, "2"), (2, 8, "1"), (1, 1, "1"), (7, 2, "3")])
def test_cores_are_shared(cores: int, nproc: int, threads: str) -> None:
    assert apply({}, replace(CASE, nproc=nproc), cores=cores)[0]["OMP_NUM_THREADS"] == threads


def test_settings_apply_to_an_environment_again() -> None:
    operator = {"NCCL_IB_HCA": "mlx5", "TMPDIR": "/mine", "PATH": "/bin"}
    env, settings = rank_environment(operator, case=CASE, cuda=True, usable_cores=2, cache=CACHE)
    assert apply_settings(operator, settings) == env
    assert operator["NCCL_IB_HCA"] == "mlx5"


def test_undecodable_values_can_be_written_down() -> None:
    _, settings = apply({"OMP_NUM_THREADS": "\udcff", "NCCL_IB_\udcff": "x"})
    doc: list[dict[str, Any]] = [setting.to_json() for setting in settings.values()]
    assert json.dumps(doc, ensure_ascii=False).encode("utf-8")


def test_rank_variables() -> None:
    assert rank_variables(CASE, 1, Path("/data set")) == {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "LANEMARK_DATA_DIR": "/data set",
    }  # fmt: skip
    assert "LANEMARK_DATA_DIR" not in rank_variables(CASE, 0, None)


def test_cache_of_a_plain_home_is_below_it() -> None:
    chosen = choose_cache_directory(None, home=Path("/srv/lane-mark_1"), temp=Path("/tmp"), uid=5)
    assert chosen.path == Path("/srv/lane-mark_1/cache")


@pytest.mark.parametrize(
    "home", ["/with space", "/quo'te", '/quo"te', "/new\nline", "/doll$ar", "/ünïcödé", "/a:b", "/a;b"]
)
def test_cache_of_a_hostile_home_is_elsewhere_and_says_why(home: str) -> None:
    chosen = choose_cache_directory(None, home=Path(home), temp=Path("/tmp"), uid=5)
    assert chosen.path.parent == Path("/tmp/lanemark-5")
    assert chosen.path == choose_cache_directory(None, home=Path(home), temp=Path("/tmp"), uid=5).path
    assert "break compile commands" in chosen.reason


def test_two_hostile_homes_and_two_users_have_caches_of_their_own() -> None:
    paths = {
        choose_cache_directory(None, home=Path(home), temp=Path("/var/tmp dir"), uid=uid).path
        for home in ("/a b", "/a c")
        for uid in (1, 2)
    }
    assert len(paths) == 4
    assert all(str(path).startswith("/tmp/lanemark-") for path in paths)


def test_cache_that_was_asked_for_is_never_moved() -> None:
    asked = Path("/with space/cache")
    assert choose_cache_directory(asked, home=Path("/h"), temp=Path("/tmp"), uid=5) == CacheDirectory(
        asked, "asked for"
    )
